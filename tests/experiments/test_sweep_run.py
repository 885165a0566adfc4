"""Sweeps through Snakemake and papermill: killed, failed, started again."""

import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from notebook_check import in_recording_environment
from toy import pictures, tiny_llava
from transformers import SiglipVisionConfig

from prumerge.experiments.sweeps import grids, leaderboard, run, tables
from prumerge.experiments.sweeps.__main__ import main
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.run import run_points
from prumerge.experiments.sweeps.tables import read_row, read_rows
from prumerge.paths import ROOT
from prumerge.scores import encode
from prumerge.settings import Settings

GRID = """
about: Does a killed run go on?
common: {questions: choose, per_family: 4}
jobs:
  first: {method: top_k, budget: [9, 16, 25]}
  second:
    - {method: breaks_at_nine, module: MODULE, budget: [9, 25]}
"""
BREAKS = """
from prumerge import register, resolve

@register("breaks_at_nine")
def breaks_at_nine(encoded, settings):
    if settings.budget == 9:
        raise ZeroDivisionError("nine is too few")
    return resolve("top_k", budget=settings.budget)(encoded)
"""
BROKEN = "ZeroDivisionError: nine is too few"
RUN = """
import sys
from pathlib import Path
from prumerge.experiments.sweeps import grids, run, tables
tables.POINTS, tables.RESULTS = Path(sys.argv[2]) / "runs/points", Path(sys.argv[2]) / "results"
run.run_sweeps([grids.read_sweep(sys.argv[1])], cores=1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A grid with a method of one's own, rows in a folder of the test's own."""
    in_recording_environment(monkeypatch)
    monkeypatch.setattr(tables, "POINTS", tmp_path / "runs/points")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    (tmp_path / "own.py").write_text(BREAKS)
    (tmp_path / "mine.yml").write_text(GRID.replace("MODULE", str(tmp_path / "own.py")))
    return tmp_path


def rows(folder):
    """Row files with the time they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("runs/points/[!.]*.parquet")}


def test_a_killed_run_goes_on_and_a_failed_point_fails_alone(folder, capfd):
    command = [sys.executable, "-c", RUN, str(folder / "mine.yml"), str(folder)]
    killed = subprocess.Popen(command, start_new_session=True, cwd=ROOT)
    deadline = time.monotonic() + 240
    while not rows(folder):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(killed.pid).children(recursive=True)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    # A kernel notices that its parent is gone, on a crowded machine seconds later.
    assert not psutil.wait_procs(family, timeout=120)[1]
    before = rows(folder)
    assert 1 <= len(before) <= 3

    sweep = grids.read_sweep(folder / "mine.yml")
    capfd.readouterr()
    with pytest.raises(RuntimeError, match=r"points without a row: 1 of mine") as failed:
        run.run_sweeps([sweep], cores=1)
    log, reason = str(failed.value).split("; look into ")[1].split("\n  ")
    assert log.endswith("failed.ipynb")
    assert reason == f"breaks_at_nine, budget 9: {BROKEN} ({folder / 'own.py'}, line 7)"
    told = capfd.readouterr().out
    left = int(re.search(r"(\d+) points in", told).group(1))
    assert f"{len(before)} points have their rows already" in told
    after = rows(folder)
    assert left == 5 - len(before)
    assert len(after) == 4 and before.items() <= after.items()
    assert {path.stem for path in after} == {read_row(path).key for path in after}

    log = nbformat.read(folder / "runs/mine-second.failed.ipynb", as_version=4)
    shown = "".join(out.get("text", "") for cell in log.cells for out in cell.get("outputs", []))
    assert BROKEN in shown
    assert not (folder / "results").exists()


def test_what_is_known_is_not_run_and_becomes_the_table(folder, monkeypatch):
    (folder / "mine.yml").write_text(
        "jobs: {a: {questions: choose, per_family: 4, method: [top_k, enlarged_picture], "
        "budget: 64}}"
    )
    sweep = grids.read_sweep(folder / "mine.yml")
    assert run_points(sweep.points, tables.POINTS) == {}
    monkeypatch.setattr(run, "_snakemake", lambda *_: pytest.fail("ran again"))
    found = run.run_sweeps([sweep])
    (table,) = run.write_tables([sweep], found)
    assert [row.key for row in read_rows(table)] == [row.key for row in found["mine"]]
    assert table == folder / "runs/mine-4-per-family.csv" and not tables.RESULTS.exists()
    read = tables.read_sweep_rows("mine-4-per-family")
    assert read.right.shape == (len(read.questions), 2)
    assert read.questions["smaller_picture_right"].tolist() == read.right.iloc[:, 1].tolist()
    for path in rows(folder):
        path.unlink()
    assert run.run_sweeps([sweep])["mine"][0].key == found["mine"][0].key  # from the table

    broken = tables.POINTS / "0123456789ab.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"0123456789ab\.parquet is cut short"):
        run.run_sweeps([sweep])


def test_a_leaderboard_with_a_method_that_fails_shows_the_others(folder, monkeypatch, capsys):
    own = {"module": str(folder / "own.py"), "method": "breaks_at_nine"}
    common = {"questions": "report", "per_family": 4, "budget": 9}
    chosen = [
        Point.of(common | more) for more in ({"method": "prumerge"}, {"method": "top_k"}, own)
    ]
    sweep = grids.Sweep("leaderboard-9", "", {"all": chosen})
    monkeypatch.setattr(leaderboard, "leaderboard_of", lambda *_, **__: sweep)
    # What Snakemake starts, without a kernel for each job.
    monkeypatch.setattr(run, "_snakemake", lambda *_: run_points(chosen, tables.POINTS))
    assert main(["leaderboard", "--budget", "9"]) == 1
    told = capsys.readouterr().err
    assert f"breaks_at_nine, budget 9: {BROKEN} ({folder / 'own.py'}, line 7)" in told
    shown = told.split("the other methods:")[1]
    assert "prumerge" in shown and "top_k" in shown and "breaks_at_nine" not in shown


def test_points_done_and_the_time_left_are_told_while_a_run_goes_on(tmp_path, monkeypatch):
    write = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(120)"
    rows, told = [tmp_path / "first", tmp_path / "second"], []
    process = subprocess.Popen([sys.executable, "-c", write, str(rows[0])])

    def tell(text, **_):
        told.append(text)
        process.kill()

    monkeypatch.setattr(run, "print", tell, raising=False)
    run._watch(process, rows, every_s=0.3)
    assert re.fullmatch(r"1 of 2 points done, about \d+ s left", told[0])


def test_one_point_that_fails_leaves_the_others_their_rows(folder):
    own = {"module": str(folder / "own.py"), "method": "breaks_at_nine", "per_family": 4}
    chosen = [Point.of(own | {"budget": budget}) for budget in (9, 16)]
    failures = run_points(chosen, tables.POINTS)
    assert list(failures) == chosen[:1] and "nine is too few" in failures[chosen[0]]
    assert len(rows(folder)) == 1


def test_scores_that_need_a_class_token_are_refused_without_one():
    tower = tiny_llava(
        encoder=SiglipVisionConfig, vision_feature_select_strategy="full"
    ).model.vision_tower
    with pytest.raises(ValueError, match=r"needs a class token and .* has none: use score="):
        encode(tower, pictures(1), Settings(score="head_mean"))
