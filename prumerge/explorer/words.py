"""What the explorer says in words, as HTML."""

import html
from collections.abc import Mapping

import pandas as pd

from prumerge.draw.overlays import REASONS
from prumerge.explorer.looking import Look

_CELL = 'style="text-align: left; padding: 0 1.5em 0 0"'


def legend() -> str:
    """Explain the colours of the outlines."""
    marks = [(colour, words) for words, colour in REASONS.values()]
    return " &ensp; ".join(
        f'<span style="border: 3px solid {colour}; background: #333">&emsp;</span> {words}'
        for colour, words in [*marks, ("#555", "dropped")]
    )


def counts(look: Look, name: str, method: str) -> str:
    """Say how many tokens a picture sends under a method."""
    patches = look.encoded.scores.shape[1]
    return (
        f"<b>{html.escape(name)}</b>: <b>{html.escape(method)}</b> sends <b>{look.kept}</b> of "
        f"{patches} visual tokens ({look.kept / patches:.1%})"
    )


def origin(look: Look, token: int) -> str:
    """Say where a token stands and how many patches are merged into it; tokens count from 0."""
    weights, place = look.origin(token), look.place(token)
    row, column = divmod(place, look.encoded.grid[1])
    merged = int((weights != 0).sum() - (weights[place] != 0))
    return (
        f"Token {token + 1} of {look.kept} stands at row {row + 1}, column {column + 1}: its own "
        f"patch with weight {weights[place]:.3g}, and {merged} others, together "
        f"{weights.sum() - weights[place]:.3g}."
    )


def costs(table: pd.DataFrame, of: str) -> str:
    """Write the two rows of :func:`prumerge.explorer.prefill`, and their ratio.

    Args:
        table: The rows.
        of: Whose cost it is.
    """
    ratio = table["prefill_ms"].iloc[0] / table["prefill_ms"].iloc[1]
    names = ["prompt tokens", "10¹² operations", "prefill, ms", "KV cache, MiB"]
    lines = [[f"{of}, on paper", *names]]
    for row in table.itertuples():
        numbers = (f"{value:.3g}" for value in row[2:])
        lines.append([row.Index, str(row.tokens), *numbers])
    return _rows(lines) + f"Prefill with the kept tokens is {ratio:.1f} times faster."


def answers(given: Mapping[str, tuple[int, str, float]]) -> str:
    """Write answers side by side.

    Args:
        given: By name: visual tokens, answer, seconds.
    """
    lines = [["", "visual tokens", "answer", "seconds"]]
    lines += [[name, str(n), text, f"{s:.2f}"] for name, (n, text, s) in given.items()]
    return _rows(lines)


def trouble(error: Exception) -> str:
    """Say what is wrong with what was chosen."""
    return f'<b style="color: #A34800">{html.escape(str(error))}</b>'


def _rows(lines: list[list[str]]) -> str:
    head, *body = [[html.escape(text) for text in line] for line in lines]
    rows = ["".join(f"<th {_CELL}>{text}</th>" for text in head)]
    rows += ["".join(f"<td {_CELL}>{text}</td>" for text in line) for line in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
