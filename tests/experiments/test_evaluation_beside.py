"""Printed numbers stand beside LLaVA-1.5 only, each with what was evaluated."""

import numpy as np
import pandas as pd
import pytest

from prumerge.experiments.evaluation.beside import beside_printed

SEVEN = "llava-hf/llava-1.5-7b-hf@a272c74"
MEASURED = {"value": 50.0, "low": 48.0, "high": 52.0, "budget": np.nan, "model": SEVEN}


def row(method, task, metric, **changes):
    """A measured row, as `compare` makes them."""
    benchmark = next(name for name in ("vqav2", "textvqa", "pope", "mme") if f"_{name}" in task)
    named = {"label": method, "method": method, "task": task, "metric": metric}
    return MEASURED | named | {"benchmark": benchmark} | changes


def printed(*rows):
    table = beside_printed(pd.DataFrame(rows))
    return table[["metric", "printed", "printed_model", "table"]].to_numpy().tolist()


def test_the_stock_model_stands_beside_the_stock_model():
    assert printed(row("full", "prumerge_vqav2_val", "exact_match")) == [
        ["accuracy", 78.5, "stock", "1"]
    ]


def test_other_questions_than_the_printed_ones_are_told():
    rows = [row("full", "prumerge_vqav2_val", "exact_match")]
    rows.append(row("full", "prumerge_pope", "pope_f1_score"))
    notes = beside_printed(pd.DataFrame(rows))["note"].tolist()
    assert notes == ["measured on val, printed for test-dev", ""]


def test_reduced_rows_say_what_was_tuned_and_which_part_of_mme():
    assert printed(row("release", "prumerge_mme", "mme_perception_score")) == [
        ["perception", 1350.3, "tuned (LoRA)", "1"],
        ["perception", 1250.1, "training-free", "6"],
    ]
    thirteen = {"model": "llava-hf/llava-1.5-13b-hf"}
    assert printed(row("release+", "prumerge_mme", "mme_perception_score", **thirteen)) == [
        ["perception", 1485.5, "tuned (LoRA)", "1"]
    ]


@pytest.mark.parametrize(
    "unprinted",
    [
        row("full", "prumerge_mme", "mme_total_score"),
        row("release", "prumerge_pope", "pope_f1_score", budget=64.0),
        row("divprune", "prumerge_pope", "pope_f1_score"),
        row("full", "prumerge_textvqa_val", "exact_match"),
    ],
)
def test_what_is_not_printed_has_no_number(unprinted):
    ((_, number, model, _),) = printed(unprinted)
    assert np.isnan(number) and model == ""


def test_splits_of_pope_are_left_to_their_mean():
    rows = [row("full", f"prumerge_pope{end}", "pope_f1_score") for end in ("_random", "")]
    assert printed(*rows) == [["mean F1", 85.9, "stock", "1"]]


@pytest.mark.parametrize("model", ["mini", "random-7b", "liuhaotian/llava-v1.6-vicuna-7b"])
def test_no_other_model_stands_beside_print(model):
    rows = pd.DataFrame([row("full", "mini_pope", "pope_f1_score", model=model)])
    with pytest.raises(ValueError, match=r"is no LLaVA-1\.5: no printed number"):
        beside_printed(rows)
