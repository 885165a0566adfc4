"""What a committed notebook must look like: everything nbval and papermill do not see.

Each rule is a function that yields sentences about what is wrong; only the JSON is read.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

LARGEST_BYTES = 300_000
LONGEST_CELL_LINES = 12
# Folders of a person's or a server's machine, as they turn up in warnings and file lists.
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|Users|tmp|mnt|work|opt|var)/\w|\b[A-Z]:\\\\\w")
# At least eight words; the report shows them as the picture's alternative text.
DESCRIPTION = re.compile(r"^\*Picture:\* (?:\S+\s+){7}\S+", re.MULTILINE)
RULES: list[Callable[[Path, NotebookNode], Iterator[str]]] = []


def rule(function: Callable[[Path, NotebookNode], Iterator[str]]) -> Callable:
    """Add a function to the rules."""
    RULES.append(function)
    return function


def problems(path: Path) -> list[str]:
    """Every breach of a rule in one notebook, as sentences."""
    notebook = nbformat.read(path, as_version=4)
    return [sentence for check in RULES for sentence in check(path, notebook)]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that hold code, empty ones left out."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    """The outputs of all cells, in order."""
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


@rule
def opens_with_question_and_answer(path, notebook):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is no title"
    elif "(GLOSSARY.md)" not in first.source:
        yield "the title cell does not link the glossary"
    for word in ("Question", "Answer"):
        if word not in first.source:
            yield f"the title cell does not say {word}"


@rule
def was_run_once_from_top_to_bottom(path, notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}: nbval compares nothing in cells that were not run"


@rule
def names_the_kernel_everyone_has(path, notebook):
    if (name := notebook.metadata.get("kernelspec", {}).get("name")) != "python3":
        yield f"the kernel is {name!r}, not 'python3'"


@rule
def declares_parameters_in_one_cell_of_literals(path, notebook):
    tagged = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged 'parameters'"
        return
    for statement in ast.parse(tagged[0].source).body:
        single = isinstance(statement, ast.AnnAssign) or (
            isinstance(statement, ast.Assign) and len(statement.targets) == 1
        )
        if not single or not is_literal(statement.value):
            # papermill inserts its cell behind this one: what is computed here keeps old values.
            yield f"no plain 'name = literal' among the parameters: {ast.unparse(statement)}"
    for name, declared in papermill.inspect_notebook(str(path)).items():
        if not declared["help"]:
            yield f"parameter {name} has no comment with its meaning and unit"


def is_literal(node: ast.expr | None) -> bool:
    """Whether an expression stands for itself."""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError):
        return False
    return True


@rule
def shows_neither_warnings_nor_errors(path, notebook):
    for output in outputs(notebook):
        if output.output_type == "error" or output.get("name") == "stderr":
            yield f"an output is an error or a warning: {str(output)[:120]}"


@rule
def shows_pictures_as_png_only(path, notebook):
    for kind in {kind for output in outputs(notebook) for kind in output.get("data", {})}:
        if kind in ("image/svg+xml", "application/pdf") or "widget" in kind:
            yield f"an output of kind {kind} cannot be compared"


@rule
def says_in_words_what_a_picture_shows(path, notebook):
    described = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            described = described or bool(DESCRIPTION.search(cell.source))
        elif any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            if not described:
                yield (
                    "a picture has no words for those who do not see it: above the cell that draws "
                    "it, a paragraph that starts '*Picture:*' and says what it shows, without "
                    f"numbers that may change: {cell.source.splitlines()[0]}"
                )
            described = False


@rule
def explains_the_colours_of_attention(path, notebook):
    for cell in code_cells(notebook):
        if "draw.attention(" in cell.source and "draw.colour_bar(" not in cell.source:
            yield f"attention panels have no draw.colour_bar: {cell.source.splitlines()[0]}"


@rule
def keeps_cells_short_and_plain(path, notebook):
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) > LONGEST_CELL_LINES:
            yield f"a cell has {len(lines)} lines: {lines[0]}"
        if lines[-1].rstrip().endswith(";"):
            yield f"a cell ends in ';', which silences nothing under nbval: {lines[-1]}"
        if any(line.lstrip().startswith(("%", "!")) for line in lines):
            yield f"a cell holds a magic or a shell command: {lines[0]}"


@rule
def hides_at_most_one_output_from_the_check(path, notebook):
    ignored = [cell for cell in code_cells(notebook) if "nbval-ignore-output" in tags(cell)]
    if len(ignored) > 1:
        yield f"{len(ignored)} cells are tagged 'nbval-ignore-output'"
    for cell in code_cells(notebook):
        loose = {"nbval-skip", "nbval-raises-exception", "raises-exception"} & set(tags(cell))
        if loose or re.search("# *(NBVAL|PYTEST_VALIDATE)_", cell.source):
            yield f"a cell switches the check off: {cell.source.splitlines()[0]}"


@rule
def holds_nothing_of_the_machine_it_ran_on(path, notebook):
    kept = [notebook.metadata, *(cell.metadata for cell in notebook.cells)]
    for key in ("papermill", "widgets", "execution"):
        if any(key in metadata for metadata in kept):
            yield f"metadata {key!r} is left; `make record` cleans"
    if "version" in notebook.metadata.get("language_info", {}):
        yield "the version of Python is left; `make record` cleans"
    texts = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        texts.append(json.dumps([output.get("text", ""), data], ensure_ascii=False))
    for text in texts:
        if found := MACHINE_PATH.search(text):
            yield f"a path of one machine: {text[found.start() : found.start() + 60]!r}"


@rule
def stays_small(path, notebook):
    if (size := path.stat().st_size) >= LARGEST_BYTES:
        yield f"{size // 1000} KB; at most {LARGEST_BYTES // 1000}"
