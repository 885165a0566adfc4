"""Tables of the README, made from committed rows, so that no number in them is typed.

A block of the README between two markers holds what the function of that name gives::

    <!-- rows: mini-scores -->
    ...
    <!-- end of rows -->

``TABLES`` lists the functions: add one that reads a file of ``data`` and returns lines of
Markdown, put the two markers into the README, and run ``python -m prumerge.readme`` (or
``make readme``). A test compares the README with what the rows give today.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from prumerge.limits import suggestion
from prumerge.paths import MINI, ROOT

_BLOCK = re.compile(r"(<!-- rows: (\S+) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL)


def markdown_table(table: pd.DataFrame) -> list[str]:
    """Write a table in Markdown, the cells as they are.

    Args:
        table: Texts, or values whose ``str`` is wanted; the index is left out.

    Returns:
        Lines: names of the columns, a rule, one line per row.

    Example:
        >>> markdown_table(pd.DataFrame({"method": ["all"], "right": ["90 %"]}))
        ['| method | right |', '| --- | --- |', '| all | 90 % |']
    """
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def percent(share: float) -> str:
    """Write a share as whole percents: 0.784 gives ``78 %``."""
    return f"{100 * share:.0f} %"


def mini_scores() -> list[str]:
    """Return how the mini-LLaVA answers each family of questions, beside the best constant."""
    scores = pd.read_csv(MINI / "scores.csv")
    table = pd.DataFrame({"family of questions": scores["family"]})
    table["right with all tokens"] = scores["correct"].map(percent)
    table["best constant answer"] = scores["best_constant"].map(percent)
    return markdown_table(table)


TABLES: dict[str, Callable[[], list[str]]] = {"mini-scores": mini_scores}
"""What stands between the markers, by the name in them."""


def render(text: str, tables: Mapping[str, Callable[[], list[str]]] | None = None) -> str:
    """Fill every marked block of a text anew.

    Args:
        text: Markdown with marked blocks.
        tables: Functions by name; None takes :data:`TABLES`.

    Returns:
        The text with what the functions give; the rest unchanged.

    Raises:
        ValueError: If a name has no function, or a marker has no partner.

    Example:
        >>> text = "<!-- rows: two -->\\nold\\n<!-- end of rows -->"
        >>> render(text, {"two": lambda: ["1", "2"]}).splitlines()[1:3]
        ['1', '2']
    """
    tables = TABLES if tables is None else tables
    blocks = _BLOCK.findall(text)
    if not len(blocks) == text.count("<!-- rows:") == text.count("<!-- end of rows"):
        raise ValueError("a marker has no partner: <!-- rows: NAME --> ... <!-- end of rows -->")
    for _, name, *_ in blocks:
        if name not in tables:
            raise ValueError(f"no table {name!r}: {suggestion(name, tables)}")
    return _BLOCK.sub(lambda b: "".join([b[1], "\n".join(tables[b[2]]()), "\n", b[4]]), text)


def main(readme: Path = ROOT / "README.md") -> int:
    """Bring the README up to its rows; say which tables it holds."""
    text = readme.read_text(encoding="utf-8")
    partial = readme.with_suffix(".partial")
    try:
        partial.write_text(render(text), encoding="utf-8")
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    changed = partial.read_text(encoding="utf-8") != text
    partial.replace(readme)
    print(f"{readme.name} {'changed' if changed else 'was up to date'}: {', '.join(TABLES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
