"""What the explorer says below its pictures, as HTML."""

import html
from collections.abc import Mapping

import pandas as pd

from prumerge.draw.looking import Look
from prumerge.draw.pictures import REASONS
from prumerge.mini.pictures import Picture

_CELL = 'style="text-align: left; padding: 0 1.5em 0 0"'


def legend() -> str:
    """Explain the colours of the outlines."""
    marks = [(colour, words) for words, colour in REASONS.values()]
    return " &ensp; ".join(
        f'<span style="border: 3px solid {colour}; background: #333">&emsp;</span> {words}'
        for colour, words in [*marks, ("#555", "dropped")]
    )


def trouble(error: Exception) -> str:
    """Say what does not work."""
    return f'<b style="color: #A34800">{html.escape(str(error))}</b>'


def counts(look: Look, picture: Picture, method: str) -> str:
    """Say how many tokens a picture sends under a method."""
    patches = look.reason.size
    licence = f" ({html.escape(picture.licence)})" if picture.licence else ""
    names = f"<b>{html.escape(picture.name)}</b>{licence}: <b>{html.escape(method)}</b>"
    share = f"{look.kept / patches:.1%}"
    told = f"{names} sends <b>{look.kept}</b> of {patches:,} visual tokens ({share})"
    if len(look.views) > 1:
        kept = [(view.name, int((look.reason[view.patches] != 0).sum())) for view in look.views]
        told += ": patches kept " + ", ".join(f"{name} {count}" for name, count in kept)
    return told


def origin(look: Look, token: int) -> str:
    """Say where a token stands and how many patches are merged into it; tokens count from 0."""
    weights, place = look.origin(token), look.place(token)
    view, row, column = look.where(token)
    merged = int((weights != 0).sum() - (weights[place] != 0))
    return (
        f"Token {token + 1} of {look.kept} stands at row {row + 1}, column {column + 1}"
        f"{' of ' * bool(view.name)}{view.name}: its own "
        f"patch with weight {weights[place]:.3g}, and {merged} others, together "
        f"{weights.sum() - weights[place]:.3g}."
    )


def costs(table: pd.DataFrame, of: str) -> str:
    """Write the two rows of :func:`prumerge.draw.looking.prefill`, and their ratio."""
    ratio = table["prefill_ms"].iloc[0] / table["prefill_ms"].iloc[1]
    names = ["prompt tokens", "10¹² operations", "prefill, ms", "KV cache, MiB"]
    lines = [[f"{of}, on paper", *names]]
    for row in table.itertuples():
        lines.append([row.Index, str(row.tokens), *(f"{value:.3g}" for value in row[2:])])
    return _rows(lines) + f"Prefill with the kept tokens is {ratio:.1f} times faster."


def answers(given: Mapping[str, tuple[int, str, float]]) -> str:
    """Write answers side by side; given by name are visual tokens, answer, seconds."""
    lines = [["", "visual tokens", "answer", "seconds"]]
    lines += [[name, str(n), text, f"{s:.2f}"] for name, (n, text, s) in given.items()]
    return _rows(lines)


def _rows(lines: list[list[str]]) -> str:
    head, *body = [[html.escape(text) for text in line] for line in lines]
    rows = ["".join(f"<th {_CELL}>{text}</th>" for text in head)]
    rows += ["".join(f"<td {_CELL}>{text}</td>" for text in line) for line in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
