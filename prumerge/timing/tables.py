"""From timing rows to what they say: stages of an answer, throughput, break-even length."""

from pathlib import Path

import numpy as np
import pandas as pd

from prumerge.paths import RESULTS
from prumerge.timing.stages import FULL, STAGES

TIMING, BENCH = RESULTS / "timing", RESULTS / "bench"
LOOPS = ("plain_loop", "released_loop", "lean_loop", "one_at_a_time")
KIND = ["model", "weights", "layers", "dtype", "device", "attention", "batch", "budget"]
"""Columns that tell one case from another."""


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
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def reduction_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what reducing takes by batch and method, and how many times longer loops take.

    Args:
        rows: Of the benchmarks (``make bench``): ``what`` was timed, ``name`` of the method,
            ``batch``, and the quickest round, ``min_ms``: what else runs on a machine only ever
            adds time.

    Returns:
        ``ms``, and a ratio for each loop: plain Python (timed with one picture, multiplied for
        more), torch token by token as released, the same without a needless copy, and the method
        itself one picture at a time. NaN where a method has no such loop.
    """
    times = rows.pivot_table("min_ms", ["batch", "name"], "what", sort=False)
    times = times.reindex(columns=["method", *LOOPS])
    name, batch = (times.index.get_level_values(level) for level in ("name", "batch"))
    plain = rows[rows["what"] == "plain_loop"].set_index("name")["min_ms"]
    times["plain_loop"] = plain.reindex(name).to_numpy() * batch
    times = times[times["method"].notna()]
    return times[list(LOOPS)].div(times["method"], axis=0).assign(ms=times["method"])


def answer_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per case and output length with the median of each stage in ms.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them.

    Returns:
        Columns of ``STAGES``; ``sum``, all stages but ``whole`` together; indexed by the case and
        ``new_tokens``. A stage without rows counts as 0: nothing is reduced by the stock model,
        nothing is decoded for a single new token.
    """
    once = rows[rows["new_tokens"].isna()].pivot_table("median_ms", KIND, "stage")
    each = rows[rows["new_tokens"].notna()]
    each = each.pivot_table("median_ms", [*KIND, "new_tokens"], "stage")
    table = each.join(once).reindex(columns=list(STAGES)).fillna(0)
    table["sum"] = table[list(STAGES[:-1])].sum(axis=1)
    return table


def throughput(rows: pd.DataFrame) -> pd.DataFrame:
    """Return answers per second of every batch, and whether it is the largest that was timed.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them.

    Returns:
        One row per case and output length: ``answers_per_s`` from the stage ``whole``,
        ``speed_up`` against all visual tokens at the same batch (NaN where that did not fit), and
        ``largest``.
    """
    whole = rows[rows["stage"] == "whole"].copy()
    whole["answers_per_s"] = 1e3 * whole["batch"] / whole["median_ms"]
    same = [*KIND[:-2], "new_tokens"]
    whole["largest"] = whole["batch"] == whole.groupby([*same, "budget"])["batch"].transform("max")
    full = whole[whole["method"] == FULL].set_index([*same, "batch"])["answers_per_s"]
    keys = pd.MultiIndex.from_frame(whole[[*same, "batch"]])
    whole["speed_up"] = whole["answers_per_s"].to_numpy() / full.reindex(keys).to_numpy()
    columns = [*same, "method", "budget", "batch", "answers_per_s", "speed_up", "largest"]
    return whole[columns].reset_index(drop=True)


def per_token(rows: pd.DataFrame) -> pd.DataFrame:
    """Return time to the first new token, and per further one, in ms.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them; decoding of at least one length.

    Returns:
        ``first_ms`` (preprocess, encode, reduce, prefill) and ``step_ms`` (decode of the longest
        answer by its steps), by case.
    """
    longest = rows.loc[rows["stage"] == "decode", "new_tokens"].max()
    times = answer_times(rows).xs(longest, level="new_tokens")
    first = times[list(STAGES[:4])].sum(axis=1)
    return pd.DataFrame({"first_ms": first, "step_ms": times["decode"] / (longest - 1)})


def break_even(rows: pd.DataFrame, worth: float = 1.0, longest: int = 4096) -> pd.DataFrame:
    """Return from and up to which output length a reduction pays.

    With ``first`` and ``step`` of :func:`per_token` an answer of n tokens takes
    ``first + (n - 1) * step``. Reduction saves most in front of the first token, so its gain
    falls with the length of the answer, towards the ratio of the steps.

    Args:
        rows: As :func:`prumerge.timing.time_grid` gives them, the stock model among them.
        worth: How many times faster an answer has to be: 1 asks where it pays at all.
        longest: Lengths up to which is looked.

    Returns:
        One row per reduced case: ``break_even_tokens``, the first length at which the answer is
        ``worth`` times faster, and ``last_tokens``, the last one; NaN where there is none up to
        ``longest``, and ``last_tokens`` equals ``longest`` where it holds that far.
    """
    times = per_token(rows).reset_index()
    full = times["budget"] == times["budget"].max()
    case = KIND[:-1]
    both = times[~full].merge(times[full], on=case, suffixes=("", "_full"))
    steps = np.arange(longest)
    found = []
    for row in both.itertuples():
        reduced = row.first_ms + steps * row.step_ms
        pays = np.flatnonzero(row.first_ms_full + steps * row.step_ms_full >= worth * reduced) + 1
        found.append((pays[0], pays[-1]) if len(pays) else (np.nan, np.nan))
    result = both[[*case, "budget"]].copy()
    result[["break_even_tokens", "last_tokens"]] = found
    return result
