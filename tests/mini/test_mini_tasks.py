"""The six mini benchmarks: truth scores 100, shuffled truth scores chance, files follow a seed."""

import hashlib
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from prumerge.experiments.evaluation import mini_tasks
from prumerge.experiments.evaluation.mini_tasks import BENCHMARKS
from prumerge.mini.families import LETTERS
from prumerge.mini.model import token_ids


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The committed files, drawn again somewhere else."""
    folder = tmp_path_factory.mktemp("mini-tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_tasks, "MINI_TASKS", folder)
        mini_tasks.make()
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_seed_gives_the_committed_file_bit_for_bit(drawn, name):
    committed = mini_tasks.path_of(name)
    again = drawn / committed.name
    assert _hash(again) == _hash(committed)


def _hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_committed_files_are_small():
    files = list(mini_tasks.MINI_TASKS.glob("*.parquet"))
    assert len(files) == len(BENCHMARKS)
    assert sum(file.stat().st_size for file in files) < 20 * 2**20


def test_the_table_of_the_folder_counts_right():
    text = (mini_tasks.MINI_TASKS / "README.md").read_text(encoding="utf-8")
    counted = {
        name: (table["image_id"].nunique(), len(table))
        for name, table in ((b, pd.read_parquet(mini_tasks.path_of(b))) for b in BENCHMARKS)
    }
    told = re.findall(r"`(\w+)\.parquet` \| (\d+) \| (\d+) \|", text)
    assert {name: (int(p), int(q)) for name, p, q in told} == counted


def test_the_folder_tells_which_absent_names_pope_asks_about():
    text = (mini_tasks.MINI_TASKS / "README.md").read_text(encoding="utf-8")
    near, asked, random = re.search(
        r"(\d+) of the (\d+) absent names.*?(\d+) are", text, re.S
    ).groups()
    table = pd.read_parquet(mini_tasks.path_of("pope")).query("answer == 'no'")
    counts = {"adversarial": int(near), "random": int(random)}
    assert table["category"].value_counts().to_dict() == counts and len(table) == int(asked)


def test_yes_and_no_are_balanced():
    for benchmark, group in (("pope", ["image_id"]), ("mme", ["image_id", "category"])):
        table = pd.read_parquet(mini_tasks.path_of(benchmark))
        shares = table.assign(yes=table["answer"] == "yes").groupby(group)["yes"].mean()
        assert (shares == 0.5).all()


def test_rotations_of_a_question_are_one_question():
    table = pd.read_parquet(mini_tasks.path_of("mmbench"))
    for _, turns in table.groupby(table["index"] % mini_tasks.CIRCLE):
        assert len(turns) == len(LETTERS)
        right = [row[row["answer"]] for _, row in turns.iterrows()]
        assert len(set(right)) == 1
        assert sorted(turns["answer"]) == list("ABCD")


def test_unknown_benchmarks_and_sizes_are_refused():
    with pytest.raises(ValueError, match="no mini benchmark 'gqa' of size 'lite'"):
        next(mini_tasks.draw("gqa"))
    with pytest.raises(ValueError, match="in the sizes lite, full"):
        next(mini_tasks.draw("pope", "huge"))


# What follows runs the harness.


@pytest.fixture(scope="module")
def run():
    """The harness, asked to score given answers."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: see the extra `eval`")
    from scored import scored

    return scored


def truth_of(benchmark, row):
    """What a perfect model says, in the words of the mini-LLaVA."""
    if benchmark == "vqav2":
        return row["multiple_choice_answer"]
    if benchmark == "textvqa":
        return row["answers"][0]
    return LETTERS[row["answer"]] if benchmark == "scienceqa" else row["answer"].lower()


@pytest.fixture(scope="module")
def truths():
    return {
        f"mini_{name}": [
            truth_of(name, row)
            for row in pd.read_parquet(mini_tasks.path_of(name)).to_dict("records")
        ]
        for name in BENCHMARKS
    }


def test_truth_scores_a_hundred_in_words_the_model_knows(run, truths):
    values, asked = run(truths)
    for name in ("vqav2", "scienceqa", "textvqa"):
        assert values[f"mini_{name}", "exact_match"] == 1.0
    assert values["mini_pope", "pope_f1_score"] == values["mini_pope", "pope_accuracy"] == 1.0
    assert values["mini_mme", "mme_perception_score"] == 800.0
    assert values["mini_mme", "mme_total_score"] == 800.0
    assert values["mini_mmbench", "gpt_eval_score"] == 100.0
    texts = [text for task in asked.values() for text in task]
    assert len(texts) == sum(len(answers) for answers in truths.values())
    for text in texts:
        # Raises for a word outside of the vocabulary. TextVQA begins with a capital letter, which
        # the tokenizer makes small.
        token_ids(text.lower())
    listed = re.compile(r"(what|where|which) .* \? a \. .+ b \. .+ c \. .+ d \. .+")
    assert sum(bool(listed.fullmatch(text)) for text in texts) == 80 + 160


def test_shuffled_truth_scores_chance(run, truths):
    rng = np.random.default_rng(0)
    values, _ = run({task: list(rng.permutation(a)) for task, a in truths.items()})
    for name in ("vqav2", "scienceqa", "textvqa"):
        answers = truths[f"mini_{name}"]
        # Chance that an answer and one picked from all are the same.
        chance = sum(n * n for n in Counter(answers).values()) / len(answers) ** 2
        spread = (chance * (1 - chance) / len(answers)) ** 0.5
        assert abs(values[f"mini_{name}", "exact_match"] - chance) < 3 * spread
    assert abs(values["mini_pope", "pope_accuracy"] - 0.5) < 3 * (0.25 / 96) ** 0.5
    # Each category: 50 for single questions and 25 for pairs.
    assert abs(values["mini_mme", "mme_perception_score"] - 300) < 100
    assert values["mini_mmbench", "gpt_eval_score"] < 5
