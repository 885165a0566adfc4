"""A notebook's parameters: kinds, lists from the shell, what a run with others says of itself."""

import re
import subprocess
import sys

import matplotlib
import nbformat
import pytest
from notebook_check import in_recording_environment
from papermill import PapermillExecutionError, inspect_notebook
from papermill.cli import papermill
from test_runs import printed

from prumerge.experiments.parameters import (
    LEAST,
    POSITIVE,
    check_parameters,
    declared_parameters,
    literal,
    read_texts,
    take_parameters,
)
from prumerge.paths import NOTEBOOKS

COSTS = NOTEBOOKS / "07_cost_model.ipynb"
EVALUATION = NOTEBOOKS / "10_llava_evaluation.ipynb"


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_defaults_are_those_that_papermill_finds(notebook):
    found = inspect_notebook(str(notebook))
    assert declared_parameters(notebook) == {n: literal(e["default"]) for n, e in found.items()}


def test_a_kernel_need_not_import_papermill():
    code = "import sys, prumerge.experiments.parameters; print('papermill' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("notebook", "given", "sentence"),
    [
        (COSTS, {"save_figures": "no"}, "save_figures='no' is text where .* wants True or False"),
        (COSTS, {"save_figures": "eps"}, "save_figures='eps' .* or a vector format: svg, pdf"),
        (COSTS, {"save_figures": 0}, "save_figures=0 is a number where .* wants True or False"),
        (COSTS, {"card": 100}, "card=100 is a number where .* wants text; papermill's -r"),
        (COSTS, {"new_tokens": "many"}, "new_tokens='many' is text where .* wants a number"),
        (COSTS, {"new_tokens": 1.5}, "new_tokens=1.5 is a number where .* wants a whole number"),
        (COSTS, {"new_tokens": None}, "new_tokens=None is nothing where .* wants a number"),
        (COSTS, {"new_tokens": True}, "new_tokens=True is a truth value where .* wants a number"),
        (COSTS, {"kept_tokens": "few"}, "kept_tokens='few' is text where .* wants a number"),
        (EVALUATION, {"tasks": [1]}, "tasks=1 is a number where .* wants text"),
        (EVALUATION, {"tasks": []}, r"tasks=\[\] is empty where .* wants at least one value"),
        (EVALUATION, {"limit": -1}, "limit=-1 is too small: .* wants at least 0"),
        (COSTS, {"batches": [1, 0]}, "batches=0 is too small: .* wants at least 1"),
        (COSTS, {"own_card": [1000, 0, 1, 1]}, "own_card=0 is not above 0"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_a_sentence(notebook, given, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        check_parameters(notebook, given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"save_figures": "false"}, {"save_figures": False}),
        ({"save_figures": "True"}, {"save_figures": True}),
        ({"save_figures": "pdf"}, {"save_figures": "pdf"}),
        ({"kept_tokens": "64,32"}, {"kept_tokens": [64, 32]}),
        ({"kept_tokens": "[64]"}, {"kept_tokens": [64]}),
        ({"kept_tokens": 64}, {"kept_tokens": [64]}),
        ({"own_card": "300, 50.5, 100, 3"}, {"own_card": [300, 50.5, 100, 3]}),
    ],
)
def test_text_stands_for_lists_and_truth_values(given, taken):
    assert check_parameters(COSTS, given) == taken


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("mini_pope", ["mini_pope"]),
        ("mini_pope,mini_mme", ["mini_pope", "mini_mme"]),
        ("[mini_pope, 'mini_mme']", ["mini_pope", "mini_mme"]),
    ],
)
def test_names_make_a_list_with_and_without_brackets(text, taken):
    assert check_parameters(EVALUATION, {"tasks": text}) == {"tasks": taken}


def test_what_the_shell_hands_over_is_read_by_the_default():
    texts = {"card": "100", "new_tokens": "8", "batches": "1,2", "save_figures": "false"}
    taken = {"card": "100", "new_tokens": 8, "batches": [1, 2], "save_figures": False}
    assert check_parameters(COSTS, read_texts(COSTS, texts)) == taken


def test_figures_are_written_over_the_committed_ones_with_the_defaults_only(capsys):
    usual = check_parameters(COSTS, {"new_tokens": 64, "save_figures": True})
    assert take_parameters(COSTS.stem, dict(usual)) == "figures"
    assert capsys.readouterr().out == ""
    assert take_parameters(COSTS.stem, usual | {"new_tokens": 8}) == "data/runs/figures"
    assert "This run has new_tokens = 8. The answer above" in capsys.readouterr().out
    assert take_parameters(COSTS.stem, {"new_tokens": 8, "save_figures": "false"}) == ""


def test_vector_figures_are_not_written_beside_the_committed_ones(monkeypatch, capsys):
    monkeypatch.setitem(matplotlib.rcParams, "savefig.format", "png")
    assert take_parameters(COSTS.stem, {"save_figures": "svg"}) == "data/runs/figures"
    assert matplotlib.rcParams["savefig.format"] == "svg"
    assert capsys.readouterr().out == ""  # the page is as it was


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The first cells of notebook 07, which draw nothing."""
    in_recording_environment(monkeypatch)
    document = nbformat.read(COSTS, as_version=4)
    place = [cell["id"] for cell in document.cells].index("take-parameters")
    document.cells = document.cells[: place + 1]
    document.cells.append(nbformat.v4.new_code_cell("print(figures, batches)"))
    nbformat.write(document, tmp_path / "page.ipynb")
    return tmp_path / "page.ipynb"


def run_papermill(page, *arguments):
    """Run a page as a user of papermill does, without this package's command."""
    output = page.with_name("out.ipynb")
    papermill([str(page), str(output), "-k", "python3", *arguments], standalone_mode=False)
    return printed(output)


def test_papermill_alone_takes_the_same_lists_and_is_told_the_same(page):
    shown = run_papermill(page, "-p", "batches", "1,8", "-p", "save_figures", "True")
    assert "This run has batches = [1, 8]." in shown
    assert shown.endswith("data/runs/figures [1, 8]\n")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("batchs", "1,8"), "has no parameter 'batchs': did you mean 'batches'?"),
        (("card", "100"), "card=100 is a number where"),
    ],
)
def test_papermill_alone_stops_at_a_misspelt_name_and_another_kind(page, given, sentence):
    with pytest.raises(PapermillExecutionError, match=re.escape(sentence)):
        run_papermill(page, "-p", *given)


def test_a_number_that_cannot_be_is_refused_in_every_notebook_that_has_it():
    known = {}
    for notebook in (path for path in NOTEBOOKS.glob("*.ipynb") if len(path.suffixes) == 1):
        for name, default in declared_parameters(notebook).items():
            known.setdefault(name, []).append(notebook)
            if name in LEAST or name in POSITIVE:
                below = LEAST.get(name, 1) - 1
                given = {name: [below] if isinstance(default, list) else below}
                with pytest.raises(
                    ValueError, match=f"^{name}={below} is .* {notebook.name} wants"
                ):
                    check_parameters(notebook, given)
    assert set(LEAST) | set(POSITIVE) <= set(known), "a name that no notebook has"


def test_every_notebook_checks_its_parameters_first():
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        if len(notebook.suffixes) == 1:
            cells = nbformat.read(notebook, as_version=4).cells
            second = [cell.source for cell in cells if cell.cell_type == "code"][1]
            call = f'figures = take_parameters("{notebook.stem}", globals())'
            assert second.endswith(call), notebook
