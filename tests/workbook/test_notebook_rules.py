"""Each rule for committed notebooks finds the breach it is for, and nothing in a good notebook."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output
from notebook_rules import LARGEST_BYTES, problems

from prumerge.paths import ROOT

FIXTURES = ROOT / "tests/fixtures"


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def add(notebook, cell_type=new_code_cell, source="1 + 1", **fields):
    """Append a cell that would be right but for what `fields` say."""
    count = sum(cell.cell_type == "code" for cell in notebook.cells) + 1
    notebook.cells.append(cell_type(source, execution_count=count, id=f"added-{count}", **fields))


BREACHES = {
    "no title": lambda n: n.cells.pop(0),
    "does not say Answer": lambda n: n.cells[0].update(
        source="# Title\n\nQuestion: what? (GLOSSARY.md)"
    ),
    "does not link the glossary": lambda n: n.cells[0].update(
        source="# Title\n\nQuestion: what? Answer: that."
    ),
    "execution counts are [1, 2, 3, None]": lambda n: n.cells[-1].update(execution_count=None),
    "execution counts are [1, 2, 3, 7]": lambda n: n.cells[-1].update(execution_count=7),
    "the kernel is 'mine'": lambda n: n.metadata.kernelspec.update(name="mine"),
    "0 cells are tagged 'parameters'": lambda n: n.cells[1].metadata.clear(),
    "2 cells are tagged 'parameters'": lambda n: add(n, metadata={"tags": ["parameters"]}),
    "no plain 'name = literal' among the parameters: area = side": lambda n: n.cells[1].update(
        source="side = 3  # patches\narea = side * 2  # patches"
    ),
    "no plain 'name = literal' among the parameters: import os": lambda n: n.cells[1].update(
        source="import os"
    ),
    "parameter side has no comment": lambda n: n.cells[1].update(source="side = 3"),
    "a warning: {'name': 'stderr'": lambda n: add(n, outputs=[stream("Warning", "stderr")]),
    "an error or a warning: {'ename'": lambda n: add(
        n, outputs=[new_output("error", ename="ValueError", evalue="bad", traceback=[])]
    ),
    "image/svg+xml": lambda n: add(
        n, outputs=[new_output("display_data", {"image/svg+xml": "<svg/>"})]
    ),
    "a picture has no words": lambda n: add(
        n, outputs=[new_output("display_data", {"image/png": "iVBORw0KGgo="})]
    ),
    "attention panels have no": lambda n: add(n, source="draw.attention(axis, seen)"),
    "a cell has 13 lines": lambda n: add(n, source="\n".join(["1"] * 13)),
    "ends in ';'": lambda n: add(n, source="print(1);"),
    "a magic": lambda n: add(n, source="%time 1"),
    "a shell command": lambda n: add(n, source="!ls"),
    "2 cells are tagged 'nbval-ignore-output'": lambda n: [
        add(n, metadata={"tags": ["nbval-ignore-output"]}) for _ in range(2)
    ],
    "switches the check off": lambda n: add(n, metadata={"tags": ["nbval-skip"]}),
    "switches the check off: # NBVAL_SKIP": lambda n: add(n, source="# NBVAL_SKIP\n1"),
    "metadata 'papermill'": lambda n: n.metadata.update(papermill={}),
    "metadata 'execution'": lambda n: n.cells[1].metadata.update(execution={}),
    "the version of Python": lambda n: n.metadata.language_info.update(version="3.11.7"),
    "a path of one machine": lambda n: add(n, outputs=[stream("saved as " + "/home" + "/me/a")]),
    "at most 300": lambda n: add(n, outputs=[stream("a" * LARGEST_BYTES)]),
}


@pytest.mark.parametrize("name", ["declares-two-parameters", "draws-a-figure", "takes-a-second"])
def test_a_good_notebook_breaks_no_rule(name):
    assert problems(FIXTURES / f"{name}.ipynb") == []


@pytest.mark.parametrize("sentence", BREACHES)
def test_a_breach_is_found_and_is_the_only_one(sentence, tmp_path):
    notebook = nbformat.read(FIXTURES / "declares-two-parameters.ipynb", as_version=4)
    BREACHES[sentence](notebook)
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    found = problems(tmp_path / "broken.ipynb")
    assert any(sentence in problem for problem in found), found
    expected = 3 if sentence == "no title" else 1  # without a title, nothing is asked or answered
    assert len(found) == expected, found
