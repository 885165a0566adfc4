"""The values a notebook is run with: checked against its defaults, from outside and from inside.

papermill's shell knows no types: ``false`` and ``[64]`` arrive as text, ``7`` never does, and a
misspelt name is only mentioned. What a value must be is told by the default in the cell tagged
``parameters``; text is taken for a list with commas between (``64,32``), or for True or False.
"""

import ast
import difflib
import json
import numbers
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from prumerge import paths

VECTOR = ("svg", "pdf")
"""Formats of figures beside PNG, as values of ``save_figures``."""
LEAST = {
    **dict.fromkeys(("per_family", "questions", "repeats", "rounds"), 1),
    **dict.fromkeys(("visual_tokens", "kept_tokens", "new_tokens", "batches"), 1),
    **dict.fromkeys(("live_batch", "live_budget", "batch_size", "steps", "rank", "grid"), 1),
    "clips": 1,
    **dict.fromkeys(("budget", "text_tokens", "limit", "skip", "seed", "clip"), 0),
}
"""The least value of a parameter that counts something; each name means the same everywhere."""
POSITIVE = ("own_card", "rate", "scale")
"""Parameters that are measures, and above 0."""
_INJECTED = "# Parameters\n"  # how a cell begins that papermill puts in
_GIVEN = {bool: "a truth value", str: "text", list: "a list", type(None): "nothing"}
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Read a notebook's defaults by name, in order; what is no literal stays source text.

    The same as ``papermill.inspect_notebook``, without seconds of imports in every kernel.
    """
    if not Path(notebook).is_file():
        raise ValueError(f"there is no notebook {notebook}")
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    lines = ast.parse("".join(tagged[0]["source"]) if tagged else "").body
    given = [
        (line.target if isinstance(line, ast.AnnAssign) else line.targets[0], line.value)
        for line in lines
        if isinstance(line, ast.Assign | ast.AnnAssign)
    ]
    return {target.id: literal(ast.unparse(value)) for target, value in given}


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as the notebook wants them; refuse unknown names and other kinds.

    Text may stand for a list or for True and False. A ValueError is text where the default is a
    number (YAML reads ``1e-3`` as text; ``1.0e-3`` is a number), a number where it is text, a
    fraction where it is whole, a number below its ``LEAST``, an empty list.
    """
    notebook = Path(notebook)
    declared = declared_parameters(notebook)
    for name in parameters:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            names = ", ".join(sorted(declared)) or "none"
            raise ValueError(f"{notebook.name} has no parameter {name!r}: {hint}it has {names}")
    values = {
        name: _fitting(name, value, declared[name], notebook.name)
        for name, value in parameters.items()
    }
    for name, value in values.items():
        if value == [] != declared[name]:
            raise ValueError(f"{name}=[] is empty where {notebook.name} wants at least one value")
        _check_least(name, value, notebook.name)
    return values


def read_texts(notebook: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Read values from a shell, where all are text; the notebook's defaults say what stays text."""
    declared = declared_parameters(notebook)
    stays = {name for name, value in declared.items() if isinstance(value, str | list)}
    return {name: text if name in stays else literal(text) for name, text in texts.items()}


def take_parameters(name: str, namespace: dict[str, Any]) -> str:
    """Check a notebook's parameters from inside it, and tell where the run departs from the page.

    Title and captions are written for the defaults: a run with other values says so. In
    ``namespace``, its ``globals()``, text that stands for a list or a truth value is replaced. The
    result is the folder for :func:`prumerge.draw.show`: empty without ``save_figures``; ``figures``
    with the defaults, ``data/runs/figures`` with any other value, also where ``save_figures`` is
    ``svg`` or ``pdf``, which sets matplotlib's ``savefig.format``.
    """
    notebook = paths.NOTEBOOKS / f"{name}.ipynb"
    declared = declared_parameters(notebook)
    given = [name for name in (*declared, *_injected(namespace)) if name in namespace]
    values = check_parameters(notebook, {name: namespace[name] for name in given})
    namespace.update(values)
    usual = declared | {"save_figures": values.get("save_figures")}
    changed = {name: value for name, value in values.items() if value != usual[name]}
    if changed:
        told = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
        text = (
            f"This run has {told}. The answer above and the words between the cells were written "
            "for the defaults; tables, figures and printed sentences are this run's."
        )
        print(textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False))
    wanted = values.get("save_figures")
    if vector := wanted in VECTOR:
        matplotlib.rcParams["savefig.format"] = wanted
    if not wanted:
        return ""
    usual_place = not (changed or vector)
    return "figures" if usual_place else str(Path(paths.RUNS.relative_to(paths.ROOT), "figures"))


def literal(text: str) -> Any:
    """Read a Python literal; anything else stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _injected(namespace: Mapping[str, Any]) -> set[str]:
    """Names that papermill has set, misspelt ones among them."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith(_INJECTED)]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and type(node.ctx) is ast.Store}


def _fitting(name: str, value: Any, default: Any, where: str) -> Any:
    """Return a value as the default's kind, or say in a sentence why it is none."""
    kind = type(default)
    if kind is list:
        values = _listed(value)
        kinds = {str: "", int: 0.0, float: 0.0}  # fractions may stand among whole numbers
        like = kinds.get(type(default[0])) if default else None
        return [_fitting(name, v, like, where) for v in values]
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if name == "save_figures" and isinstance(value, str) and value in VECTOR:
        return value
    if kind not in _KINDS or type(value) is kind:
        return value
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and (kind is float or (kind is int and isinstance(value, numbers.Integral))):
        return value
    given = _GIVEN.get(type(value), "a number" if is_number else f"of type {type(value).__name__}")
    wanted = "a number" if kind is int and not is_number else _KINDS[kind]
    hint = "; papermill's -r instead of -p hands text over as it is" if kind is str else ""
    hint = ", or a vector format: svg, pdf" if name == "save_figures" else hint
    raise ValueError(f"{name}={value!r} is {given} where {where} wants {wanted}{hint}")


def _check_least(name: str, value: Any, where: str) -> None:
    for number in value if isinstance(value, list) else [value]:
        if name in POSITIVE and not number > 0:
            raise ValueError(f"{name}={number!r} is not above 0, as {where} wants it")
        if name in LEAST and number < LEAST[name]:
            wanted = f"{where} wants at least {LEAST[name]}"
            raise ValueError(f"{name}={number!r} is too small: {wanted}")


def _listed(value: Any) -> list:
    """Read ``64,32``, ``mini_pope`` or ``[64]`` as a list."""
    if isinstance(value, str):
        value = literal(value)
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip("[] ").split(",") if part.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]
