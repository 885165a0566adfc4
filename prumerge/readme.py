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

from prumerge.extras import needs
from prumerge.paths import ROOT
from prumerge.settings import suggestion

with needs("notebooks"):
    from prumerge import results
    from prumerge.timing.tables import efficiency_table

_BLOCK = re.compile(r"(<!-- rows: (\S+) -->\n)(.*?)(<!-- end of rows -->)", re.DOTALL)


TABLES: dict[str, Callable[[], list[str]]] = {
    "mini-scores": results.mini_scores,
    "leaderboard": results.leaderboard,
    "efficiency": efficiency_table,
    "evaluation": results.evaluation,
    "arms": results.tuning_arms,
}
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
