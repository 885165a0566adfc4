"""Arms on a tiny model: equal data for all, nothing finished is done again; costs."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from test_finetuning import tiny_mini

from prumerge.experiments.finetuning import __main__ as command
from prumerge.experiments.finetuning import arms
from prumerge.experiments.finetuning.arms import (
    ARMS,
    EQUAL,
    LONGER,
    RELEASED,
    Plan,
    Run,
    read_rows,
    right_by_arm,
    run_arms,
    training_arguments,
    write_rows,
)
from prumerge.experiments.finetuning.tuning import Lora
from prumerge.methods import resolve
from prumerge.paths import RUNS

GRID = 9  # the smallest in which all families of questions can be asked
LORA = Lora(rank=2, alpha=4, dropout=0.0, rate=1e-2)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    model, processor = tiny_mini(GRID)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Plan(str(folder), 7, (3,), 2, 3, batch_size=2, per_family=1, lora=LORA)


def test_arms_leave_tidy_rows_and_finished_runs_are_kept(plan, tmp_path):
    told = []
    runs, answers = run_arms(plan, tmp_path, told.append)
    assert len(told) == len(runs) == 2 * len(ARMS) + len(LONGER) and len(answers) == 9 * len(runs)
    assert runs.groupby("tokens")["visual_tokens"].unique().map(list).to_dict() == {
        "all": [GRID**2], "selected": [7], "merged": [7],
    }  # fmt: skip
    assert runs[["tokens", "handling", "steps", "seed"]].duplicated().sum() == 0
    assert runs.groupby("steps").size().to_dict() == {0: 5, 2: 5, 3: 3}
    assert runs.loc[runs["steps"] > 0, "loss_last"].notna().all()
    assert runs["loss_last"].nunique() == 5 + 3  # each is another training
    right = right_by_arm(answers).mean()
    expected = runs.set_index(["tokens", "handling", "steps"])["right_percent"]
    pd.testing.assert_series_equal(right, expected, check_like=True, check_names=False)
    again = next(tmp_path.glob("*/merged-raster-original-2-3.json"))
    again.unlink()  # as if killed before its end
    rerun, same = run_arms(plan, tmp_path, told.append)
    assert len(told) == len(runs) + 1 and told[-1].startswith("merged-raster-original-2-3")
    pd.testing.assert_frame_equal(same, answers)
    pd.testing.assert_series_equal(rerun["loss_last"], runs["loss_last"])
    write_rows({"answers": answers, "runs": runs}, tmp_path / "rows")
    _, read = read_rows(tmp_path / "rows")
    assert read["said"].tolist() == answers["said"].tolist()


def test_more_seeds_leave_finished_runs_alone(plan):
    more = dataclasses.replace(plan, seeds=(3, 4), long_steps=0)
    assert more.identity() == plan.identity()
    assert set(more.runs()) - set(plan.runs()) == {Run(*arm, 2, 4) for arm in ARMS}


def test_arms_differ_in_tokens_and_handling_alone(plan, tmp_path):
    few = {arm: plan.method(*arm).settings for arm in ARMS[1:]}
    for handling in (RELEASED, EQUAL):
        merged, selected = few["merged", handling], few["selected", handling]
        assert selected.with_changes(neighbours=32, extra_token=True) == merged
    for tokens in ("selected", "merged"):
        changed = few[tokens, RELEASED].with_changes(order="raster", positions="original")
        assert few[tokens, EQUAL] == changed
    assert few["merged", RELEASED] == resolve("release", budget=plan.budget).settings
    first, second = (training_arguments(2, 2, tmp_path, 3).to_dict() for _ in range(2))
    assert first == second and first["max_steps"] == 2 and first["seed"] == 3


def test_costs_are_measured_at_both_lengths(plan):
    options = (plan.model, 2, 1, LORA, "cpu")
    full, few = (arms._measure(options[0], budget, *options[1:]) for budget in (None, 7))
    assert (full["visual_tokens"], few["visual_tokens"]) == (GRID**2, 7)
    for row in (full, few):
        assert row["samples_per_s"] == pytest.approx(2000 / row["step_ms"])


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [([], arms.ROWS), (["--steps", "2"], RUNS / "finetuning"), (["--rows", "mine"], Path("mine"))],
)
def test_only_arms_with_the_defaults_are_written_over_the_committed_ones(
    arguments, folder, monkeypatch
):
    written = []
    monkeypatch.setattr(arms, "run_arms", lambda plan: (None, None))
    monkeypatch.setattr(arms, "write_rows", lambda tables, folder: written.append(folder))
    command.arms(arguments)
    assert written == [folder]
