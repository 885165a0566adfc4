"""The paper's claims: each has a rule, a printed value that is in the data, and a verdict."""

import dataclasses
import re
import shutil

import pandas as pd
import pytest

from prumerge.claims import BY, CLAIMS, GROUPS, VERDICTS, Cell, Evidence, judge
from prumerge.claims.efficiency import saved
from prumerge.claims.judging import CORRECTED, FAILS, HOLDS, OURS, PART, UNTESTED
from prumerge.claims.rules import as_good, better, direction
from prumerge.experiments.statistics import Interval
from prumerge.experiments.sweeps import tables
from prumerge.paths import RESULTS

BY_NAME = {claim.name: claim for claim in CLAIMS}


@pytest.fixture(scope="module")
def table():
    """All claims, judged on the committed rows."""
    return judge(CLAIMS, Evidence())


@pytest.fixture
def evaluation(tmp_path):
    """A folder with the mini-LLaVA's evaluation, to be changed."""
    shutil.copytree(RESULTS / "evaluation" / "mini", tmp_path / "evaluation" / "mini")
    return tmp_path


def change(folder, **values):
    """Overwrite columns of the evaluation's rows."""
    path = folder / "evaluation" / "mini" / "rows.csv"
    pd.read_csv(path).assign(**values).to_csv(path, index=False)


def test_every_claim_has_a_verdict_and_words(table):
    assert len(table) == len(BY_NAME) == len(CLAIMS)
    assert table["verdict"].isin(VERDICTS).all()
    assert (table[["claim", "printed", "where", "found", "on"]].map(len) > 0).all(axis=None)
    assert not table["printed"].str.contains(r"[{}]").any()
    for number in range(1, 8):
        assert table["where"].str.contains(f"Table {number}").any()


def test_claims_stand_under_what_they_are_about_and_who_makes_them(table):
    assert set(table["group"]) == set(GROUPS) and set(table["by"]) == set(BY)
    workbook = table["claim"].str.startswith("In this workbook") | table["claim"].str.startswith(
        "This workbook"
    )
    assert workbook.sum() == 5 and (table.loc[workbook, "by"] == OURS).all()
    cited = table["where"].str.match("http|HiRED|OccamToken|GAP|a review|a re-implementer")
    assert (table.loc[cited & ~workbook, "by"] == "critics").all()
    assert (table.loc[table.index.str.match(r"[1345]-|7-"), "by"] == "paper").all()
    for field, value in {"group": "Table 2", "by": "nobody"}.items():
        with pytest.raises(ValueError, match=f"claim 'count-40': '{value}' is none of"):
            dataclasses.replace(CLAIMS[0], **{field: value})


def test_one_fact_is_one_claim(table):
    assert len(BY_NAME["2-cells"].cells) == 32
    pairs = saved()
    assert len(pairs) == 16 and not pairs["stated"].any() and pairs["rebuilt"].sum() == 14
    assert (pairs["printed_ratio"] > pairs["ratio"]).all()
    assert table.loc["2-cells", "found"].startswith("0 of 16 pairs come out at the lengths stated")
    tested = table.loc[table["on"] != "-", "found"]
    assert tested.is_unique, tested[tested.duplicated(keep=False)].to_dict()


def test_a_claim_that_was_not_tested_says_why(table):
    said = table.loc[table["verdict"] == UNTESTED, "found"]
    why = "no rows|needs|nothing to lose|more questions would tell|no questions"
    assert said.str.contains(why).all()


def test_printed_numbers_of_a_table_come_from_its_file():
    for claim in CLAIMS:
        if re.match("Table [1-7]", claim.where):
            assert claim.cells or claim.printed == "-", claim.name
        for cell in claim.cells:
            digits = re.findall(r"\d+(?:\.\d+)?", claim.printed)
            assert cell.read()["printed"] in digits, claim.name


def test_a_claim_says_how_far_its_printed_numbers_can_be_trusted(table):
    assert table.loc["3-kept", "trust"] == "secondary"
    assert table.loc["3-others", "trust"] == "secondary"
    assert table.loc["3-count-plus", "trust"] == "unconfirmed"  # the doubtful 256 of the text
    assert table.loc["2-cells", "trust"] == "primary"
    assert table.loc["adaptive", "trust"] == "-"


def test_a_number_that_is_not_printed_is_refused():
    with pytest.raises(ValueError, match="0 numbers at 'PruMerge', 'VQAv2'"):
        Cell("table_4_sampling", "PruMerge", "VQAv2").read()


def test_nothing_measured_on_the_small_model_bears_the_papers_name(table):
    measured = table[table["on"].str.contains("mini")]
    assert len(measured) and not measured["on"].str.contains("LLaVA-1.5").any()


@pytest.mark.parametrize(
    ("name", "verdict"),
    {
        "count-40": HOLDS,  # 576 / 40
        "count-32": HOLDS,  # 5.56 % cut off is the 5.5 printed
        "count-doubled": FAILS,  # 64 is not 144
        "2-lengths": FAILS,
        "2-cells": PART,  # at 700 and 70 tokens only
        "2-memory": FAILS,
        "2-slip": FAILS,
        "3-count": HOLDS,
        "3-count-plus": FAILS,
        "1-versions": CORRECTED,  # the authors' own refutation is none of ours
        "3-others": HOLDS,  # one of the fifteen cells of each is not printed
        "u11-ratio": PART,  # a half asks for 288 by score and 287 by place
        "o-wins-back": HOLDS,  # 48, 1 and 38 %
        "o-text-tokens": HOLDS,
    }.items(),
)
def test_arithmetic_gives_the_verdicts_known(table, name, verdict):
    assert table.loc[name, ["on", "verdict"]].tolist() == ["arithmetic", verdict]


def test_without_rows_claims_name_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "sweeps")
    bare = judge(CLAIMS, Evidence(tmp_path))
    measured = bare[bare["on"] != "arithmetic"]
    assert (measured["verdict"] == UNTESTED).all() and (measured["on"] == "-").all()
    for name, command in {
        "adaptive": "make sweep SWEEP=fences",
        "1-release-vqav2": "python -m prumerge.evaluation --compare --tasks mini --save",
        "1-release-13b": "pretrained=llava-hf/llava-1.5-13b-hf",
        "5-supplement": "python -m prumerge.finetuning arms",
        "2-measured-prefill": "make timing",
        "o-overhead": "make bench",
    }.items():
        assert command in bare.loc[name, "found"]


def test_other_rows_give_other_verdicts(evaluation):
    claim = BY_NAME["1-release-vqav2"]
    change(evaluation, value=50.0, low=45.0, high=55.0, constant=10.0, tokens_mean=33.0)
    assert claim.judge(Evidence(evaluation)).verdict == HOLDS  # nothing lost, 8 % printed
    change(evaluation, tokens_mean=87.0)
    many = claim.judge(Evidence(evaluation))
    assert many.verdict == PART and "with 87 tokens, 32 printed;" in many.found
    change(evaluation, constant=45.0)
    nothing = claim.judge(Evidence(evaluation))
    assert nothing.verdict == UNTESTED and "nothing to lose" in nothing.found
    rows = pd.read_csv(evaluation / "evaluation" / "mini" / "rows.csv")
    lost = rows["value"].where(rows["label"] == "full", 20.0)
    change(evaluation, value=lost, low=lost - 1, high=lost + 1, constant=10.0)
    assert claim.judge(Evidence(evaluation)).verdict == FAILS


def test_a_gain_that_is_printed_is_not_asked_of_what_loses_nothing(evaluation):
    claim = BY_NAME["1-release-scienceqa"]  # printed: 68.5 of 66.8, tuned
    rows = pd.read_csv(evaluation / "evaluation" / "mini" / "rows.csv")
    kept = rows["value"].where(rows["label"] == "full", 0.98 * rows["value"].max())
    whole = {"value": kept.where(rows["label"] != "full", rows["value"].max())}
    change(evaluation, **whole, low=0.94 * kept.max(), high=1.02 * rows["value"].max(), constant=0)
    assert claim.judge(Evidence(evaluation)).verdict == PART


def test_table_1_is_judged_at_equal_handling(evaluation):
    path = evaluation / "evaluation" / "mini" / "rows.csv"
    rows = pd.read_csv(path)
    rows["high"] = rows["value"] + 1
    rows["low"] = rows["value"] - 1
    own = rows[~rows["label"].isin(["tuned-handling"])]
    full = own[own["label"] == "full"]
    fields = {"method": "tuned-handling", "order": "raster", "positions": "original"}
    equal = full.assign(label="tuned-handling", tokens_mean=30.0, **fields)
    released = own["label"].eq("release") & own["benchmark"].eq("textvqa")
    own.loc[released, ["value", "low", "high"]] = [20.0, 19.0, 21.0]
    pd.concat([own, equal]).to_csv(path, index=False)
    found = BY_NAME["1-release-textvqa"].judge(Evidence(evaluation))
    assert found.verdict == HOLDS  # nothing is lost but by order and places
    assert found.found.startswith("keeps 100%") and "; as released it keeps 2" in found.found
    assert found.released == FAILS
    own.to_csv(path, index=False)
    found = BY_NAME["1-release-textvqa"].judge(Evidence(evaluation))
    assert found.verdict == FAILS and found.found.startswith("as released: keeps")
    assert found.released is None  # nothing to compare it with


def test_rows_of_llava_take_the_place_of_the_small_models(evaluation):
    change(evaluation, model="llava-hf/llava-1.5-7b-hf")
    evidence = Evidence(evaluation)
    assert BY_NAME["1-release-vqav2"].judge(evidence).on == "LLaVA-1.5 7B"
    assert "LLaVA-1.5" in BY_NAME["u15-pope"].judge(evidence).on
    assert BY_NAME["u7-scienceqa"].judge(evidence).verdict == HOLDS  # far above 9 %
    for value, verdict in {67.0: HOLDS, 76.0: PART, 77.0: FAILS}.items():  # 76.2 printed
        change(evaluation, value=value, low=value - 1, high=value + 1)
        assert BY_NAME["u15-pope"].judge(Evidence(evaluation)).verdict == verdict
    assert BY_NAME["1-release-13b"].judge(evidence).verdict == UNTESTED
    change(evaluation, model="llava-hf/llava-1.5-13b-hf")
    assert BY_NAME["1-release-13b"].judge(Evidence(evaluation)).on == "LLaVA-1.5 13B"


def test_scores_come_from_the_larger_set_and_splits_are_one_benchmark(evaluation):
    rows, _ = Evidence(evaluation).scores()
    assert rows.loc["full", "items"].sum() == 6363
    whole, _ = Evidence(evaluation).lost("release", "full")
    path = evaluation / "evaluation" / "mini" / "questions.parquet"
    asked = pd.read_parquet(path)
    tasks, kinds = asked["task"].astype(str), asked["category"].astype(str)
    split = tasks.mask(tasks == "mini_pope_full", "mini_pope_full_" + kinds)
    asked.assign(task=split).to_parquet(path)
    parts, _ = Evidence(evaluation).lost("release", "full")
    pd.testing.assert_series_equal(parts["mean"], whole["mean"], check_like=True)


def test_direction_needs_all_intervals_on_one_side():
    above, around, below = Interval(2, 1, 3), Interval(0, -1, 1), Interval(-2, -3, -1)
    assert direction({"a": above, "b": above}) == HOLDS
    assert direction({"a": above, "b": around}) == direction({"a": above, "b": below}) == PART
    assert direction({"a": around, "b": below}) == FAILS
    assert direction({"a": around}) == UNTESTED
    assert better({"32 tokens": around}, "x").found.endswith("more questions would tell")


def test_what_loses_nothing_is_as_good_if_chance_hides_little():
    near, wide, below = Interval(0, -1, 1), Interval(0, -9, 9), Interval(-2, -3, -1)
    verdicts = {
        HOLDS: {"a": near, "b": Interval(2, 1, 3)},
        PART: {"a": near, "b": below},
        FAILS: {"a": below},
        UNTESTED: {"a": near, "b": wide},
    }
    for verdict, effects in verdicts.items():
        assert as_good(effects, "x").verdict == verdict


def test_a_name_that_stands_twice_is_refused():
    twice = dataclasses.replace(CLAIMS[0], says="Another claim.")
    with pytest.raises(ValueError, match="two claims are called 'count-40': rename one"):
        judge([CLAIMS[0], twice], Evidence())


def test_a_folder_of_rows_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder: name one that holds"):
        Evidence(tmp_path / "absent")
