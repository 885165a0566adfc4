"""The benchmarks of the reduction: what they compare, on which device, and what rows say."""

import pandas as pd
import pytest
import torch
from speed import inputs

from prumerge.experiments.timing import bench
from prumerge.experiments.timing.clock import elapsed_ms
from prumerge.experiments.timing.tables import encoder_shares, reduction_times
from prumerge.paths import RUNS


def bench_rows(*found):
    """Rows by hand: device, what, name, batch, min_ms."""
    return pd.DataFrame(found, columns=["device", "what", "name", "batch", "min_ms"])


def test_loops_and_batches_get_the_same_pictures():
    seen = inputs.encoded(8, patches=64, width=16)
    alone = [seen.at(slice(i, i + 1)) for i in range(8)]
    for name in ("features", "keys", "scores", "class_feature"):
        assert torch.equal(torch.cat([getattr(each, name) for each in alone]), getattr(seen, name))
    first, last = inputs.TYPICAL
    typical = inputs.OUTLIERS[first:last]
    assert sum(typical) / len(typical) == sum(inputs.OUTLIERS) / len(inputs.OUTLIERS)


def test_pictures_are_drawn_in_the_precision_asked_for():
    seen = inputs.encoded(1, patches=16, width=16, dtype=torch.bfloat16)
    assert seen.features.dtype == seen.keys.dtype == torch.bfloat16
    assert seen.scores.dtype == torch.float32


def test_devices_are_compared_with_themselves_alone():
    found = reduction_times(bench_rows(
        ("CPU", "method", "a", 1, 2.0), ("CPU", "method", "a", 8, 10.0),
        ("CPU", "plain_loop", "a", 2, 400.0), ("CPU", "lean_loop", "a", 8, 50.0),
        ("GPU", "method", "a", 8, 0.5), ("GPU", "lean_loop", "a", 8, 40.0),
        ("GPU", "encoder_stock", "prumerge+", 8, 60.0), ("GPU", "read_inputs", "inputs", 8, 0.1),
    ))  # fmt: skip
    cpu, gpu = found.loc[("CPU", 8, "a")], found.loc[("GPU", 8, "a")]
    assert (cpu["lean_loop"], cpu["plain_loop"], cpu["ms"]) == (5, 160, 10)
    assert (gpu["lean_loop"], gpu["encoder"], gpu["reads"]) == (80, 120, 5)
    assert cpu[["encoder", "reads"]].isna().all() and pd.isna(gpu["plain_loop"])
    # The pictures of a plain loop are like the mean of eight, not like the first.
    assert pd.isna(found.loc[("CPU", 1, "a"), "plain_loop"])


def test_rows_of_two_runs_are_not_averaged():
    twice = bench_rows(("CPU", "method", "a", 1, 2.0), ("CPU", "method", "a", 1, 3.0))
    with pytest.raises(ValueError, match="several rows of one benchmark on one device"):
        reduction_times(twice)


def test_the_encoder_is_compared_with_itself_by_batch():
    found = encoder_shares(bench_rows(
        ("CPU", "encoder_stock", "prumerge+", 1, 100.0),
        ("CPU", "encoder_reduced", "prumerge+", 1, 97.0),
        ("CPU", "encoder_stock", "prumerge+", 8, 800.0),
        ("CPU", "encoder_reduced", "prumerge+", 8, 760.0),
    ))  # fmt: skip
    assert found["share"].to_dict() == {("CPU", 1): 0.97, ("CPU", 8): 0.95}


def test_the_clock_waits_for_a_gpu_before_and_after(monkeypatch):
    """The waiting itself needs a GPU; that it is asked for, and when, does not."""
    steps = []
    monkeypatch.setattr(torch.cuda, "synchronize", steps.append)
    elapsed_ms(lambda: steps.append("call"), "cuda:0")
    assert steps == ["cuda:0", "call", "cuda:0"]


def test_rows_are_filed_by_device_and_a_part_never_over_all():
    assert bench.rows_file("cuda:1", part=False) == bench.BENCH / "reduction-cuda.csv"
    assert bench.rows_file("cpu", part=False) == bench.BENCH / "reduction-cpu.csv"
    assert bench.rows_file("cpu", part=True) == RUNS / "reduction-cpu.csv"
    assert bench.parse([])[0].rows == bench.BENCH / "reduction-cpu.csv"
    for other in (["--dtype", "bfloat16"], ["-k", "encoder"], ["--device", "cuda"]):
        assert bench.parse(other)[0].rows.parent == RUNS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "gpu"], "bench: device='gpu' is none that torch knows"),
        (["--device", "cuda:99"], "bench: no CUDA device for device='cuda:99'"),
        (["--dtype", "int8"], "bench: dtype='int8' is no precision"),
    ],
)
def test_what_cannot_run_ends_in_one_sentence(arguments, told, capsys):
    assert bench.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told)


def test_without_a_clone_the_benchmarks_are_missed_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SPEED", tmp_path / "test_speed.py")
    assert bench.main([]) == 1
    told = f"bench: no benchmarks at {bench.SPEED}: run this from a clone of the repository\n"
    assert capsys.readouterr().err == told
