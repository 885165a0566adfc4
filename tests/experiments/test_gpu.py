"""All that wants a GPU, by one command: at toy size on a CPU, and however a part may end."""

import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from prumerge.experiments import gpu, rows
from prumerge.experiments.gpu import DONE, FAILED, LEFT_OUT, STOPPED, Part
from prumerge.paths import ROOT


def test_every_part_runs_on_a_cpu_at_toy_size(tmp_path):
    """What is found here need not be found on the card."""
    # pytest-benchmark measures nothing in what it takes for a worker of parallel tests.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = ["make", "gpu", f"GPU_PYTHON={sys.executable}", "DEVICE=cpu", "SCALE=tiny"]
    made = subprocess.run(
        [*command, f"OUT={tmp_path}", "THREADS=1"], cwd=ROOT, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert "all is done" in made.stdout and "6 parts on cpu, " in made.stdout
    states = pd.read_csv(tmp_path / "summary.csv").set_index("part")["state"]
    assert list(states) == [DONE] * 5 + [states["pocket"]] and states["pocket"] != FAILED
    found = tmp_path / "rows"
    assert 'failures="0"' in (found / "tests.xml").read_text()
    (row,) = pd.read_csv(found / "bench/reduction-cpu.csv").to_dict("records")
    assert (row["what"], row["batch"]) == ("read_inputs", 1) and row["min_ms"] > 0
    assert row["device"].startswith("CPU")
    for name, lengths in {"random-7b": {616, 72}, "random-next-7b": {2968, 200}}.items():
        times = pd.read_csv(found / f"timing/{name}-cpu.csv")
        beside = pd.read_csv(found / f"timing/roofline/{name}-cpu.csv")
        assert set(times["prompt_tokens"]) == lengths and set(times["dtype"]) == {"bfloat16"}
        assert set(beside["stage"]) == {"encode", "prefill", "decode"}
        assert (beside["estimated_ms"] > 0).all()
    assert set(pd.read_csv(found / "evaluation-cpu/rows.csv")["batch_size"]) == {64}


def part(folder, name, code, **changes):
    """A part that leaves rows and then does what ``code`` says."""
    path = folder / "rows" / f"{name}.csv"
    code = f"open({str(path)!r}, 'a').write('one\\n'); {code}"
    return replace(Part(name, "a test", 20, ("-c", code), path), **changes)


def test_a_part_that_ends_badly_leaves_its_rows_and_the_next_begins(tmp_path, capsys, monkeypatch):
    parts = [
        part(tmp_path, "breaks", "print('a note'); raise SystemExit('no memory')"),
        part(tmp_path, "sleeps", "import time; time.sleep(60)", limit_s=3),
        part(tmp_path, "lacks", "", modules=("pandas", "no_such.package")),
        part(tmp_path, "spare", "", modules=("no_such_package",), optional=True),
        part(tmp_path, "nothing", "", rows=tmp_path / "rows/other.csv"),
        part(tmp_path, "ends", ""),
    ]
    monkeypatch.setattr(gpu, "parts_of", lambda *_: parts)
    arguments = ["--device", "cpu", "--scale", "tiny", "--out", str(tmp_path)]
    assert gpu.main(arguments) == 1
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("part")
    states = [FAILED, STOPPED, LEFT_OUT, LEFT_OUT, FAILED, DONE]
    assert summary["state"].tolist() == states
    assert summary["reason"]["breaks"] == "exit status 1: no memory"
    assert summary["reason"]["lacks"] == "no_such.package missing here"
    assert summary["reason"]["nothing"] == "it left no other.csv"
    assert summary["seconds"]["sleeps"] < 20
    for name in ("breaks", "sleeps", "ends"):
        assert (tmp_path / "rows" / f"{name}.csv").read_text() == "one\n"
    assert capsys.readouterr().out.endswith("not done: breaks, sleeps, lacks, nothing\n")
    monkeypatch.setattr(gpu, "parts_of", lambda *_: [parts[-1], parts[3]])
    assert gpu.main(arguments) == 0  # the optional one is not missed
    assert (tmp_path / "rows/ends.csv").read_text() == "one\n"  # and this one not run again


def test_the_time_of_all_parts_is_limited(tmp_path):
    parts = [part(tmp_path, name, "import time; time.sleep(60)") for name in "ab"]
    found = gpu.run_parts(parts, tmp_path, most_s=3)
    assert found["state"].tolist() == [STOPPED, LEFT_OUT]
    assert found["reason"].tolist()[1] == "the time of all parts is over"


def test_all_parts_together_take_at_most_nine_minutes():
    limits = [part.limit_s for part in gpu.parts_of("cuda", "full", ROOT)]
    assert sum(limits) <= gpu.MOST_S["full"] == 9 * 60


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "cuda:99"], "no CUDA device for device='cuda:99'"),
        (["--device", "cpu"], "the full scale would take hours on a CPU: SCALE=tiny"),
        (["--device", "cpu", "--only", "benhc"], "no part 'benhc': there are tests, bench"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(arguments, told, tmp_path, capsys):
    assert gpu.main([*arguments, "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gpu: {told}") and not list(tmp_path.iterdir())


def test_packages_to_carry_are_named_with_their_versions(capsys):
    assert gpu.main(["--wheels"]) == 0
    named = dict(line.split("==") for line in capsys.readouterr().out.splitlines())
    assert {"lmms_eval", "pytest-benchmark", "hypothesis", "datasets", "pytz"} <= set(named)
    assert not {"torch", "transformers", "numpy", "prumerge"} & set(named)


def test_a_clone_that_is_not_installed_knows_its_version(monkeypatch):
    usual = rows.provenance()

    def not_installed(name):
        if name == "prumerge":
            raise rows.PackageNotFoundError(name)
        return usual[name]

    monkeypatch.setattr(rows, "version", not_installed)
    assert rows.provenance() == usual
