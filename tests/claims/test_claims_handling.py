"""Claims that compare do so at equal handling and at numbers that were measured."""

import numpy as np
import pandas as pd
import pytest

from prumerge.claims import CLAIMS, Evidence
from prumerge.claims.judging import FAILS, HOLDS, PART, UNTESTED
from prumerge.experiments.sweeps import tables
from prumerge.experiments.sweeps.answers import Outcome
from prumerge.experiments.sweeps.grids import Point
from prumerge.experiments.sweeps.handling import COMPACT, EQUAL

BY_NAME = {claim.name: claim for claim in CLAIMS}
RELEASED = {"order": "attention", "positions": "compact"}
FAMILIES = ("read", "existence", "verify", "choice")
ASKED = pd.DataFrame({"picture": np.repeat(np.arange(60), 4), "family": FAMILIES * 60})
ALL, NONE = np.ones(240, dtype=bool), np.zeros(240, dtype=bool)
HALF = ASKED["picture"].to_numpy() % 2 == 0
READS = (ASKED["family"] == "read").to_numpy()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the rows of a sweep: a list of a point's values, right answers and mean tokens."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "sweeps")
    monkeypatch.setattr(tables, "POINTS", tmp_path / "runs" / "points")
    (tmp_path / "sweeps").mkdir()

    def written(name, rows):
        asked = ASKED.assign(text="?", answer="yes")
        rows = [
            tables.row_of(
                Point.of(values),
                Outcome(right, np.array([kept - 1, kept, kept + 1, kept]).round().astype(int)),
                *("abc", asked, "cpu", 1.0),
            )
            for values, right, kept in rows
        ]
        tables.write_table(tmp_path / "sweeps" / f"{name}.csv", rows)
        asked.to_csv(tmp_path / "sweeps" / f"questions-{rows[0].cells['questions']}.csv")
        return Evidence(tmp_path)

    return written


def judged(name, evidence):
    return BY_NAME[name].judge(evidence)


def test_an_adaptive_number_is_held_against_a_measured_one(write):
    fence = [({**how, "method": "prumerge"}, HALF, 40) for how in (EQUAL, RELEASED)]
    evidence = write("fences", fence)
    flat = {"method": "prumerge", "budget": 40}
    write("budgets", [({**EQUAL, **flat}, NONE, 40), ({**RELEASED, **flat}, ALL, 40)])
    found = judged("adaptive-pays", evidence)
    assert found.verdict == HOLDS and found.found.startswith("40.0 tokens on average against 40")
    assert f"as each is released, {FAILS}: " in found.found
    around = [({**EQUAL, "method": "prumerge", "budget": n}, NONE, n) for n in (39, 41)]
    write("budgets", around)
    found = judged("adaptive-pays", Evidence(evidence.results))
    assert found.verdict == UNTESTED and "no rows of 40 tokens" in found.found


def printed(budget, equal, released, methods):
    """Rows of the grid `printed`: right answers by method in each handling."""
    sides = ((EQUAL, equal), (RELEASED, released))
    return [
        ({"questions": "report", "method": method, "budget": budget, **how}, right, budget)
        for how, answers in sides
        for method, right in zip(methods, answers, strict=True)
    ]


def test_table_4_is_asked_at_its_own_numbers_and_questions(write):
    methods = ("prumerge", "uniform", "down_sampled")
    rows = printed(40, (ALL, HALF, HALF), (NONE, HALF, HALF), methods)
    rows += printed(35, (HALF, HALF, HALF), (HALF, HALF, HALF), methods)
    rows += printed(16, (ALL & ~READS, HALF, ALL), (ALL & ~READS, HALF, ALL), methods)
    evidence = write("printed", rows)
    text, pope, science = (
        judged(f"4-spatial-{name}", evidence) for name in ("TextVQA", "POPE", "ScienceQA")
    )
    assert text.verdict == HOLDS and f"as each is released, {FAILS}" in text.found
    assert text.found.startswith("uniform, 40 tokens: +50.0")
    assert pope.verdict == UNTESTED and pope.found.startswith("uniform, 35 tokens: +0.0")
    assert science.verdict == PART and "as each is released" not in science.found
    evidence = write("printed", rows[6:])
    found = judged("4-spatial-MME", evidence).found
    assert found.startswith("no rows of method=prumerge, budget=40.0, order=raster, positions=")


def test_table_7_takes_rivals_at_their_published_place_and_equal_means(write):
    methods = ("prumerge+", "tome_in_encoder", "tome", "ats_mean", "ats", "evit")
    answers = (HALF, ALL, NONE, HALF, NONE, NONE)
    rows = printed(144, answers, answers, methods)
    rows += printed(288, (ALL,), (HALF,), ("prumerge+",))
    evidence = write("printed", rows)
    assert judged("7-tome", evidence).verdict == FAILS
    assert judged("7-ats", evidence).verdict == UNTESTED
    assert judged("7-ats", evidence).found.startswith("144 tokens against 144 of ats_mean: +0.0")
    assert judged("7-evit", evidence).verdict == HOLDS
    half = judged("7-half", evidence)
    assert half.verdict == HOLDS and f"as each is released, {UNTESTED}" in half.found
    rows = printed(128, answers, answers, methods) + printed(192, (ALL,), (ALL,), ("prumerge+",))
    between = write("printed", rows)
    for name in ("7-tome", "7-ats", "7-evit", "7-half"):
        assert judged(name, between).verdict == UNTESTED  # not between two numbers


def test_one_choice_pays_at_equal_handling_and_says_where_not(write):
    def rows(equal, released):
        return [
            ({"budget": 64, "neighbours": n, **how}, right, 64)
            for how, sides in ((EQUAL, equal), (RELEASED, released))
            for n, right in zip((32, 0), sides, strict=True)
        ]

    evidence = write("neighbours", rows((ALL, HALF), (HALF, ALL)))
    found = judged("5-supplement-untuned", evidence)
    assert found.verdict == HOLDS
    assert found.found == (
        "64 tokens: +50.0 (+38.3 to +63.3) points; as each is released, does not hold: "
        "64 tokens: -50.0 (-63.3 to -38.3) points"
    )
    found = judged("5-supplement-untuned", write("neighbours", rows((ALL, HALF), (ALL, HALF))))
    assert found.verdict == found.released == HOLDS and "released" not in found.found
    only = rows((ALL, HALF), (ALL, HALF))[2:]
    found = judged("5-supplement-untuned", write("neighbours", only))
    assert found.verdict == UNTESTED and "no rows of neighbours=32, order=raster" in found.found


def test_the_formula_is_judged_to_the_letter_and_charitably(write):
    readings = {
        "code": ({"own_term": "one", "normalise_weights": False, "extra_token": True}, HALF),
        "letter": ({"own_term": "none", "normalise_weights": False, "extra_token": False}, NONE),
        "own": ({"own_term": "attention", "normalise_weights": True, "extra_token": False}, HALF),
    }
    evidence = write(
        "weights",
        [
            ({"budget": 64, **values, **how}, right, 64)
            for values, right in readings.values()
            for how in (EQUAL, RELEASED)
        ],
    )
    assert judged("formula", evidence).verdict == FAILS
    assert judged("formula-own", evidence).verdict == HOLDS


def test_a_claim_of_candidates_takes_no_other_likeness_for_the_release(write):
    rows = [
        ({"budget": 64, "candidates": which, **how}, right, 64)
        for how in (EQUAL, RELEASED)
        for which, right in (("pruned", HALF), ("all", HALF))
    ]
    rows += [({"budget": 64, "similarity": "dot", **how}, NONE, 64) for how in (EQUAL, RELEASED)]
    found = judged("clusters", write("candidates", rows))
    assert found.verdict == UNTESTED and found.found.startswith("64 tokens: +0.0")


def rivals(equal, released):
    """Rows of the grid `rivals` at 64 tokens; a rival's own order is the raster."""
    whole = {"questions": "report", "method": "all", "order": "raster", "positions": "original"}
    rows = [(whole, ALL, 576)]
    for how, answers in ((EQUAL, equal), (RELEASED, released)):
        for method, right in answers.items():
            own = COMPACT if how == RELEASED and not method.startswith("prumerge") else how
            rows.append(({"questions": "report", "method": method, "budget": 64, **own}, right, 64))
    return rows


def test_reading_is_judged_at_equal_handling_with_the_released_beside(write):
    others = READS | HALF  # half of all other answers are lost
    evidence = write("rivals", rivals({"prumerge": others}, {"prumerge": ~READS}))
    found = judged("o-reading", evidence)
    assert found.verdict == FAILS
    assert found.found == (
        "reading keeps 100%, place 4 of 4 from below; as each is released, holds: "
        "reading keeps 0%, place 1 of 4 from below"
    )


def test_what_all_tokens_read_is_asked_in_raster_order_only(write):
    whole = {"questions": "report", "method": "all", **RELEASED}  # as no model was trained
    rows = [*rivals({"prumerge": READS}, {}), (whole, ~READS, 576)]
    assert judged("o-reading", write("rivals", rows)).found.startswith("reading keeps 100%")


def test_order_and_places_are_worth_signs_that_are_read(write):
    def at_all(equal, released):
        return [
            ({"questions": "report", "method": "prumerge", "budget": budget, **how}, right, budget)
            for budget in (32, 64, 128)
            for how, right in ((EQUAL, equal), (RELEASED, released))
        ]

    found = judged("o-order-reading", write("rivals", at_all(ALL, ~READS)))
    assert found.verdict == HOLDS and found.found.startswith("32 tokens: +100.0")
    found = judged("o-order-reading", write("rivals", at_all(READS, ALL)))
    assert found.verdict == UNTESTED  # other questions do not count


def test_top_k_does_as_well_where_it_loses_nothing(write):
    def at_all(top_k, ours):
        return [
            ({"questions": "report", "method": method, "budget": budget, **how}, right, budget)
            for budget in (32, 64, 128)
            for method, right, own in (("top_k", top_k, COMPACT), ("prumerge", ours, RELEASED))
            for how in (EQUAL, own)
        ]

    assert judged("o-top-k", write("rivals", at_all(HALF, HALF))).verdict == HOLDS
    assert judged("o-top-k", write("rivals", at_all(HALF, ALL))).verdict == FAILS


def test_rivals_are_compared_at_equal_handling_and_as_each_is_released(write):
    equal = {"prumerge+": HALF, "fastervlm": HALF, "divprune": ALL}
    released = {"prumerge+": HALF & ~READS, "fastervlm": HALF, "divprune": HALF}
    evidence = write("rivals", rivals(equal, released))
    reading = judged("o-top-k-reading", evidence)
    assert reading.verdict == UNTESTED and f"as each is released, {HOLDS}: " in reading.found
    spread = judged("o-spread", evidence)
    assert spread.verdict == HOLDS and "released" not in spread.found
    assert judged("o-top-k", evidence).verdict == UNTESTED  # no rows of top_k


def test_a_mean_number_is_held_to_its_mean(write):
    kept = rivals({"prumerge": ALL, "evit": ALL}, {})
    values = {"questions": "report", "budget": 64, **EQUAL}
    evidence = write("rivals", [*kept, ({**values, "method": "ats_mean"}, ALL, 64)])
    rows = evidence.sweep("rivals")[0].rows
    assert rows.set_index("method").loc["ats_mean", "most_tokens"] == 65
    assert judged("o-input", evidence).found.startswith("1 of 3 methods")  # 65 of the exact ones


def test_settings_matter_beyond_all_tests_of_their_table(write):
    handlings = [
        {"order": order, "positions": positions}
        for order in ("attention", "raster")
        for positions in ("compact", "original", "stretched")
    ]
    four = HALF.copy()
    four[[4, 12, 20, 28, 36]] = True  # five pictures: 0.06 alone
    answers = [HALF, ALL, ALL, ALL, four, HALF]
    evidence = write(
        "handling",
        [({"budget": 64, **how}, right, 64) for how, right in zip(handlings, answers, strict=True)],
    )
    found = judged("o-order", evidence)
    assert found.verdict == HOLDS and found.found.startswith("3 of 5 settings")
    assert "(+0.0 to +50.0 points)" in found.found


def test_tuned_arms_are_compared_at_equal_handling(tmp_path):
    right = {
        ("merged", "raster, original"): (0, 1),
        ("merged", "attention, compact"): (0, 0),
        ("selected", "raster, original"): (0, 1),
        ("selected", "attention, compact"): (1, 0),
        ("all", "raster, original"): (1, 1),
    }
    rows = [
        {"question": n, "tokens": tokens, "handling": handling, "steps": steps, "seed": seed,
         "correct": correct}
        for (tokens, handling), both in right.items()
        for steps, correct in zip((0, 70), both, strict=True)
        for seed in (0, 1)[: 1 + bool(steps)]
        for n in range(40)
    ]  # fmt: skip
    folder = tmp_path / "finetuning"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "answers.csv", index=False)
    pd.DataFrame({"model": ["mini"]}).to_csv(folder / "runs.csv", index=False)
    evidence = Evidence(tmp_path)
    assert judged("6-lora", evidence).verdict == HOLDS
    assert judged("5-supplement", evidence).verdict == UNTESTED  # the same answers
    fair = judged("u18-fair", evidence)
    assert fair.verdict == HOLDS and "merged tuned minus all tuned, 70 steps: +0.0" in fair.found
    old = pd.DataFrame(rows).drop(columns=["handling", "steps"]).assign(tuned=True)
    old.to_csv(folder / "answers.csv", index=False)
    found = judged("6-lora", Evidence(tmp_path))
    assert found.verdict == UNTESTED and "no rows by handling and steps yet" in found.found
