"""What timing rows say: stages, throughput, break-even length, the reduction, README's table."""

from pathlib import Path

import numpy as np
import pandas as pd

from prumerge import roofline
from prumerge.experiments.markdown import markdown_table
from prumerge.experiments.printed import read_printed
from prumerge.experiments.timing.stages import FULL, STAGES
from prumerge.paths import RESULTS

TIMING, BENCH = RESULTS / "timing", RESULTS / "bench"
MODEL = ["model", "weights", "layers", "dtype", "device"]
"""Columns that tell one model on one device from another."""
KIND = [*MODEL, "attention", "text_tokens", "pictures", "method", "batch", "budget"]
"""Columns that tell one case from another; ``budget`` is of one of the ``pictures`` of a prompt."""
LOOPS = ("plain_loop", "released_loop", "lean_loop", "one_at_a_time")
PLAIN_FROM = 8
"""Plain loops are timed with pictures that have the mean number of outliers of this batch."""
STATED = (616, 80)
"""Prompt tokens that the paper states: 40 of text, and 576 or about 40 visual ones."""


def read_file(path: Path) -> pd.DataFrame:
    """Read a CSV file of timing rows, also one from before its last columns were noted."""
    rows = pd.read_csv(path)
    for name, value in {"out_of_memory_at": np.nan, "pictures": 1}.items():
        rows = rows if name in rows else rows.assign(**{name: value})
    return rows


def read_rows(folder: Path = TIMING) -> pd.DataFrame:
    """Read all timing rows of a folder, a CSV file per model and device; none is an error."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(f"no timing rows in {folder}: make timing writes them")
    return pd.concat([read_file(file) for file in files], ignore_index=True)


def read_bench() -> pd.DataFrame:
    """Read the rows of ``make bench``, of all devices; none is an error."""
    files = sorted(BENCH.glob("*.csv"))
    if not files:
        raise ValueError(f"no rows in {BENCH}: make bench writes them")
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def answer_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per case and output length with the median of each stage in ms.

    ``sum`` is of all stages but ``whole``. A stage without rows counts as 0: nothing is reduced by
    the stock model, nothing is decoded for a single new token. Several rows of one stage of a case
    raise ValueError.
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

    ``answers_per_s`` is from the stage ``whole``; ``speed_up`` is against all visual tokens at the
    same batch (NaN where that did not fit), ``largest_speed_up`` that of a budget's ``largest``
    batch against all visual tokens at *their* largest; ``out_of_memory_at`` is the batch that did
    not fit after it (NaN where none was tried).
    """
    _check_single(rows)
    whole = rows[rows["stage"] == "whole"].copy()
    whole["answers_per_s"] = 1e3 * whole["batch"] / whole["median_ms"]
    same = [*MODEL, "attention", "text_tokens", "pictures", "new_tokens"]
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
    """Return by case ``first_ms``, to the first new token, and ``step_ms``, per further one.

    ``first_ms`` sums preprocess to prefill; ``step_ms`` is the longest answer's decoding divided by
    its steps. A case without decoding raises ValueError.
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

    An answer of n tokens takes ``first + (n - 1) * step``, both of :func:`per_token`. As it grows,
    the gain goes from the ratio of the first tokens towards that of the steps: downwards where a
    step gains less, upwards where it gains more, as in a large batch. A row per reduced case that
    the stock model was timed beside: ``break_even_tokens`` and ``last_tokens`` are the first and
    the last length up to ``longest`` at which the answer is ``worth`` times faster; NaN where there
    is none.
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


def reduction_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what reducing takes by device, batch and method, and what that is compared with.

    ``ms`` is of the quickest round: what else runs on a machine only ever adds time. The others are
    by how many times longer they take: each loop (over Python's numbers, timed with few pictures
    and multiplied, from a batch of 8 on; in torch token by token as released; the same without a
    needless copy; the method itself one picture at a time) and the stock ``encoder``. ``reads`` is
    how many times the inputs could be read from memory meanwhile. NaN where there is no such row;
    ValueError if something has several rows on one device.
    """
    keys = ["device", "batch", "name"]
    twice = rows[rows["what"].isin(["method", *LOOPS])].duplicated([*keys, "what"])
    if twice.any():
        raise ValueError("several rows of one benchmark on one device: keep one file per device")
    times = rows.pivot_table("min_ms", keys, "what", sort=False)
    times = times.reindex(columns=["method", *LOOPS])
    times = times[times["method"].notna()]
    device, batch, name = (times.index.get_level_values(level) for level in keys)
    plain = rows[rows["what"] == "plain_loop"].set_index(["device", "name"])
    each = (plain["min_ms"] / plain["batch"]).reindex(pd.MultiIndex.from_arrays([device, name]))
    times["plain_loop"] = each.to_numpy() * batch
    times.loc[batch < PLAIN_FROM, "plain_loop"] = float("nan")
    result = times[list(LOOPS)].div(times["method"], axis=0)
    where = pd.MultiIndex.from_arrays([device, batch])
    for column, what in (("encoder", "encoder_stock"), ("reads", "read_inputs")):
        other = rows[rows["what"] == what].set_index(["device", "batch"])["min_ms"]
        result[column] = other.reindex(where).to_numpy() / times["method"]
    result["reads"] = 1 / result["reads"]
    return result.assign(ms=times["method"])


def encoder_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Return by device and batch what encoding takes in ms, without the reduction and with it.

    ``encoder_reduced`` leaves out the blocks that the reduction does not need; ``share`` is its
    part of ``encoder_stock``.
    """
    whats = ["encoder_stock", "encoder_reduced"]
    own = rows[rows["what"].isin(whats)]
    table = own.pivot_table("min_ms", ["device", "batch"], "what").reindex(columns=whats)
    return table.assign(share=table["encoder_reduced"] / table["encoder_stock"])


def efficiency_table(folder: Path = TIMING) -> list[str]:
    """Write the README's table in Markdown: how many times less, printed, computed, measured.

    Measured are the smallest budget against all visual tokens, at the smallest and the largest
    batch that both were timed at, with the longest answer.
    """
    values = read_printed("table_2_efficiency").set_index(["row", "column"])["value"]
    printed = values.loc["7B FP16"] / values.loc["7B FP16 + PruMerge"]
    costs = roofline.estimate_costs("7b", STATED, "V100", convention="llm-viewer")
    computed = costs[["operations", "time_ms"]].iloc[0] / costs[["operations", "time_ms"]].iloc[1]
    told = "printed: a roofline of one V100 (it comes out at 700 and 70 tokens)"
    rows = [(told, "616 and 80 stated", printed["operations"], printed["prefill time"])]
    told, lengths = "the same arithmetic at the lengths stated", f"{STATED[0]} and {STATED[1]}"
    rows.append((told, lengths, computed["operations"], computed["time_ms"]))
    lines = [
        (*named, _times(operations, "fewer"), _times(prefill), None)
        for *named, operations, prefill in rows
    ]
    names = ["LLaVA-1.5-7B in FP16, unless said", "prompt tokens", "operations", "prefill"]
    table = pd.DataFrame(lines + _measured(read_rows(folder)), columns=[*names, "whole answer"])
    return markdown_table(table.fillna("-"))


def _times(ratio: float, word: str = "less") -> str:
    return f"{ratio:.1f} times {word}"


def _measured(rows: pd.DataFrame) -> list[tuple]:
    rows = rows[rows["attention"] == "sdpa"]
    lines = []
    for _, own in rows.groupby(MODEL, sort=False):
        full = own[own["method"] == FULL]
        small = own[own["budget"] == own["budget"].min()]
        both = sorted(set(full["batch"]) & set(small["batch"]))
        for batch in dict.fromkeys([both[0], both[-1]] if len(both) else []):
            lines.append(_compared(*(part[part["batch"] == batch] for part in (full, small))))
    return lines


def _compared(full: pd.DataFrame, small: pd.DataFrame) -> tuple:
    longest = int(max(set(full["new_tokens"].dropna()) & set(small["new_tokens"].dropna())))
    before, after = (
        answer_times(part).xs(longest, level="new_tokens").iloc[0] for part in (full, small)
    )
    row = full.iloc[0]
    model = "mini-LLaVA" if row["model"] == "mini" else str(row["model"]).removesuffix("-random")
    if row["weights"] == "random":
        model += f" shape, {row['layers']} layers of random weights"
    name = f"measured: {model}, {row['dtype']}, {_device(row['device'])}, batch {row['batch']}"
    lengths = f"{row['prompt_tokens']} and {small.iloc[0]['prompt_tokens']}"
    less = before / after
    whole = f"{_times(less['whole'])} ({longest} tokens)"
    return name, lengths, None, _times(less["prefill"]), whole


def _device(name: str) -> str:
    """A CPU's entry without its architecture: ``CPU (x86_64, 2 threads)`` is ``CPU, 2 threads``."""
    kind, _, rest = name.partition(" (")
    return f"{kind}, {rest.rstrip(')').rpartition(', ')[2]}" if rest else name
