"""From timing rows to what they say: stages of an answer, throughput, break-even length."""

from pathlib import Path

import numpy as np
import pandas as pd

from prumerge.paths import RESULTS
from prumerge.timing.stages import FULL, STAGES

TIMING = RESULTS / "timing"
MODEL = ["model", "weights", "layers", "dtype", "device"]
"""Columns that tell one model on one device from another."""
KIND = [*MODEL, "attention", "text_tokens", "method", "batch", "budget"]
"""Columns that tell one case from another."""


def read_file(path: Path) -> pd.DataFrame:
    """Read a file of timing rows.

    Args:
        path: A CSV file, also one from before ``out_of_memory_at`` was noted.

    Returns:
        Its rows.
    """
    rows = pd.read_csv(path)
    return rows if "out_of_memory_at" in rows else rows.assign(out_of_memory_at=np.nan)


def read_rows(folder: Path = TIMING) -> pd.DataFrame:
    """Read all timing rows of a folder.

    Args:
        folder: Holds one CSV file per model and device.

    Returns:
        The rows of all files.

    Raises:
        ValueError: If there are none.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"no timing rows in {folder}: make timing writes them")
    return pd.concat([read_file(file) for file in files], ignore_index=True)


def answer_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per case and output length with the median of each stage in ms.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them.

    Returns:
        Columns of ``STAGES``; ``sum``, all stages but ``whole`` together; indexed by the case and
        ``new_tokens``. A stage without rows counts as 0: nothing is reduced by the stock model,
        nothing is decoded for a single new token.

    Raises:
        ValueError: If a stage of a case has several rows.
    """
    _check_single(rows)
    once = rows[rows["new_tokens"].isna()].pivot_table("median_ms", KIND, "stage")
    each = rows[rows["new_tokens"].notna()]
    each = each.pivot_table("median_ms", [*KIND, "new_tokens"], "stage")
    table = each.join(once).reindex(columns=list(STAGES)).fillna(0)
    table["sum"] = table[list(STAGES[:-1])].sum(axis=1)
    return table


def throughput(rows: pd.DataFrame) -> pd.DataFrame:
    """Return answers per second of every batch, and those at the largest that fits.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them.

    Returns:
        One row per case and output length: ``answers_per_s`` from the stage ``whole``;
        ``speed_up`` against all visual tokens at the same batch (NaN where that did not fit);
        ``largest``, whether it is the largest batch of its budget; ``out_of_memory_at``, the
        batch that did not fit after it (NaN where none was tried); ``largest_speed_up``, of the
        largest batch against all visual tokens at *their* largest.

    Raises:
        ValueError: If a stage of a case has several rows.
    """
    _check_single(rows)
    whole = rows[rows["stage"] == "whole"].copy()
    whole["answers_per_s"] = 1e3 * whole["batch"] / whole["median_ms"]
    same = [*MODEL, "attention", "text_tokens", "new_tokens"]
    largest = whole.groupby([*same, "method", "budget"])["batch"].transform("max")
    whole["largest"] = whole["batch"] == largest
    full = whole[whole["method"] == FULL]
    for name, reference, keys in (
        ("speed_up", full, [*same, "batch"]),
        ("largest_speed_up", full[full["largest"]], same),
    ):
        rates = reference.set_index(keys)["answers_per_s"]
        wanted = pd.MultiIndex.from_frame(whole[keys])
        whole[name] = whole["answers_per_s"].to_numpy() / rates.reindex(wanted).to_numpy()
    whole["largest_speed_up"] = whole["largest_speed_up"].where(whole["largest"])
    columns = [*same, "method", "budget", "batch", "answers_per_s", "speed_up", "largest"]
    return whole[[*columns, "out_of_memory_at", "largest_speed_up"]].reset_index(drop=True)


def per_token(rows: pd.DataFrame) -> pd.DataFrame:
    """Return time to the first new token, and per further one, in ms.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them.

    Returns:
        ``first_ms`` (preprocess, encode, reduce, prefill) and ``step_ms`` (decode of the longest
        answer by its steps), by case.

    Raises:
        ValueError: If a case has no row of decoding, or several of one stage.
    """
    _check_single(rows)
    decode = rows[rows["stage"] == "decode"]
    longest = decode.loc[decode.groupby(KIND)["new_tokens"].idxmax()].set_index(KIND)
    first = rows[rows["stage"].isin(STAGES[:4])].groupby(KIND)["median_ms"].sum()
    if len(missing := first.index.difference(longest.index)):
        raise ValueError(
            f"no decode rows of {_named(missing[0])}: time an answer of 2 tokens or more, such as "
            "--new-tokens 64"
        )
    step = longest["median_ms"] / (longest["new_tokens"] - 1)
    return pd.DataFrame({"first_ms": first, "step_ms": step})


def break_even(rows: pd.DataFrame, worth: float = 1.0, longest: int = 4096) -> pd.DataFrame:
    """Return from and up to which output length a reduction pays.

    With ``first`` and ``step`` of :func:`per_token` an answer of n tokens takes
    ``first + (n - 1) * step``. The gain goes from the ratio of the first tokens towards that of
    the steps as the answer grows: downwards where a step gains less than the first token does,
    upwards where it gains more, as in a large batch.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them, the stock model among them.
        worth: How many times faster an answer has to be: 1 asks where it pays at all.
        longest: Lengths up to which is looked.

    Returns:
        One row per reduced case that the stock model was timed beside: ``break_even_tokens``, the
        first length at which the answer is ``worth`` times faster, and ``last_tokens``, the last
        one; NaN where there is none up to ``longest``, and ``last_tokens`` equals ``longest``
        where it holds that far.
    """
    times = per_token(rows).reset_index()
    full = times["method"] == FULL
    same = [name for name in KIND if name not in ("method", "budget")]
    both = times[~full].merge(times[full], on=same, suffixes=("", "_full"))
    steps = np.arange(longest)
    found = []
    for row in both.itertuples():
        reduced = row.first_ms + steps * row.step_ms
        pays = np.flatnonzero(row.first_ms_full + steps * row.step_ms_full >= worth * reduced) + 1
        found.append((pays[0], pays[-1]) if len(pays) else (np.nan, np.nan))
    columns = ["break_even_tokens", "last_tokens"]
    return both[KIND].join(pd.DataFrame(found, columns=columns, dtype=float))


def _check_single(rows: pd.DataFrame) -> None:
    """Refuse rows that would be averaged although they are of one stage of one case."""
    twice = rows[rows.duplicated([*KIND, "stage", "new_tokens"])]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(
            f"several {row['stage']} rows of {_named(row[KIND])}: keep one file per model and "
            "device, and one row per stage"
        )


def _named(case: tuple | pd.Series) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(KIND, case, strict=True))
