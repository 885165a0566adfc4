"""From rows of the benchmarks to what reducing costs: against loops, the encoder, its inputs."""

import pandas as pd

from prumerge.paths import RESULTS

BENCH = RESULTS / "bench"
LOOPS = ("plain_loop", "released_loop", "lean_loop", "one_at_a_time")
PLAIN_FROM = 8
"""Plain loops are timed with pictures that have the mean number of outliers of this batch."""


def read_bench() -> pd.DataFrame:
    """Read the rows of all devices.

    Returns:
        The rows that ``make bench`` wrote.

    Raises:
        ValueError: If there are none.
    """
    files = sorted(BENCH.glob("*.csv"))
    if not files:
        raise ValueError(f"no rows in {BENCH}: make bench writes them")
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def reduction_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what reducing takes by device, batch and method, and what that is compared with.

    Args:
        rows: Of the benchmarks: ``device``, ``what`` was timed, ``name`` of the method, ``batch``,
            and the quickest round, ``min_ms``: what else runs on a machine only ever adds time.

    Returns:
        ``ms``, and by how many times longer others take: each loop (over Python's numbers, timed
        with few pictures and multiplied, from a batch of 8 on; in torch token by token as
        released; the same without a needless copy; the method itself one picture at a time);
        ``encoder``, the stock encoder; and ``reads``, how many times the inputs could be read from
        memory meanwhile. NaN where there is no such row.

    Raises:
        ValueError: If something has several rows on one device.
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
    """Return what encoding takes with the reduction attached, against without.

    Args:
        rows: Of the benchmarks.

    Returns:
        By device and batch: ``encoder_stock`` and ``encoder_reduced`` in ms, the latter with the
        reduction and without the blocks it does not need, and ``share``, its part of the former.
    """
    whats = ["encoder_stock", "encoder_reduced"]
    own = rows[rows["what"].isin(whats)]
    table = own.pivot_table("min_ms", ["device", "batch"], "what").reindex(columns=whats)
    return table.assign(share=table["encoder_reduced"] / table["encoder_stock"])
