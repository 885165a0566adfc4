"""Tables and numbers as Markdown writes them."""

import pandas as pd


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
