"""The committed rows that claims rest on: LLaVA-1.5's if there are some, else the mini-LLaVA's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from prumerge.experiments.clip_rows import ClipAnswers, read_clip_rows
from prumerge.experiments.evaluation.beside import size_of
from prumerge.experiments.evaluation.comparison import losses, main_scores
from prumerge.experiments.evaluation.results import read_results
from prumerge.experiments.evaluation.scoring import benchmark_of
from prumerge.experiments.sweeps.handling import EQUAL
from prumerge.experiments.sweeps.tables import Answered, find_table, read_sweep_rows
from prumerge.paths import RESULTS

SUFFIX = "-llava-1.5-7b-hf"
EVALUATE = "python -m prumerge.evaluation --compare --tasks {} --save data/results/evaluation/{} {}"
_ON_GPU = "pretrained=llava-hf/llava-1.5-{}-hf device=cuda"


def model_name(model: str) -> str:
    """Return a model as the tables name it.

    Example:
        >>> model_name("mini"), model_name("llava-hf/llava-1.5-7b-hf")
        ('mini-LLaVA', 'LLaVA-1.5 7B')
    """
    others = {"mini": "mini-LLaVA", "7b-random": "7B's shape"}
    return others.get(model) or (f"LLaVA-1.5 {size}" if (size := size_of(model)) else model)


class Missing(ValueError):
    """Rows that a claim needs are not there; the message is the command that makes them."""


class Evidence:
    """Reads rows once and says what they were measured on; sweeps are the committed ones always."""

    def __init__(self, results: Path = RESULTS) -> None:
        if not results.is_dir():
            raise ValueError(f"results={str(results)!r} is no folder: name one that holds rows")
        self.results = results
        self._read: dict[Any, Any] = {}

    def _once(self, key: Any, read: Callable[[], Any]) -> Any:
        if key not in self._read:
            self._read[key] = read()
        return self._read[key]

    def sweep(self, name: str) -> tuple[Answered, str]:
        """Return a sweep, and the model it was measured on."""
        for own in (name + SUFFIX, name):
            if find_table(own):
                rows = self._once(own, lambda own=own: read_sweep_rows(own))
                return rows, model_name(str(rows.rows["model"].iloc[0]))
        raise Missing(f"no rows yet: make sweep SWEEP={name}")

    def scores(self, size: str = "7B") -> tuple[pd.DataFrame, str]:
        """Return the scores that papers print, of ``7B`` (the mini-LLaVA stands in) or ``13B``."""
        folder, on = self._folder(size)
        rows = self._once((folder, "scores"), lambda: _printed(read_results(folder)[0]))
        return rows.set_index(["label", "benchmark"]), on

    def lost(self, label: str, base: str) -> tuple[pd.DataFrame, str]:
        """Return what a method loses against another, question by question, by benchmark."""
        folder, on = self._folder("7B")
        rows, asked = self._once((folder, "all"), lambda: read_results(folder))
        tasks = _printed(rows)["task"].unique()
        names = asked["task"].astype(str).drop_duplicates()
        # POPE is printed as the mean of its splits, which are tasks of their own.
        own = names[names.map(lambda n: n in tasks or n.rpartition("_")[0] in tasks)]
        pairs = asked[asked["label"].isin([label, base]) & asked["task"].isin(own)]
        return self._once((folder, label, base), lambda: _by_benchmark(pairs, base)), on

    def _folder(self, size: str) -> tuple[Path, str]:
        found = {}
        for file in sorted((self.results / "evaluation").glob("*/rows.csv")):
            models = pd.read_csv(file, usecols=["model"])["model"].astype(str).unique()
            found[model_name(models[0])] = file.parent
        for name in [f"LLaVA-1.5 {size}"] + ["mini-LLaVA"] * (size == "7B"):
            if name in found:
                return found[name], name
        mini = "no rows yet: " + EVALUATE.format("mini", "mini", "").strip()
        raise Missing(mini if size == "7B" else missing_llava(size))

    def clips(self) -> tuple[ClipAnswers, str]:
        """Return the answers about clips, and the model that gave them."""
        if not (folder := self.results / "video").is_dir():
            raise Missing("no rows yet: python -m prumerge.experiments.clip_rows")
        answers = self._once("clips", lambda: read_clip_rows(folder))
        return answers, model_name(str(answers.cells["model"].iloc[0]))

    def table(self, folder: str, name: str, command: str) -> pd.DataFrame:
        """Return a plain file of rows; a ``*`` in its name joins several."""
        files = sorted((self.results / folder).glob(f"{name}.csv"))
        if not files:
            raise Missing(f"no rows yet: {command}")
        return pd.concat(map(pd.read_csv, files), ignore_index=True)

    def handled(self, label: str) -> str | None:
        """Return the label of the same tokens at equal handling, or None without such rows."""
        rows = self.scores()[0].reset_index()
        methods = {label, "tuned-handling"} if label == "release" else {label}
        same = rows["method"].isin(methods) & rows["budget"].isna()
        for name, value in EQUAL.items():
            same &= rows[name].eq(value)
        return next(iter(rows.loc[same, "label"]), None)

    def tuned(self) -> tuple[pd.DataFrame, str]:
        """Return right or wrong (0 to 1, mean over seeds) by tokens sent, handling and steps."""
        command = "python -m prumerge.finetuning arms"
        answers = self.table("finetuning", "answers", command)
        models = self.table("finetuning", "runs", command)["model"]
        arm = ["tokens", "handling", "steps"]
        if not set(arm) <= set(answers):
            raise Missing(f"no rows by handling and steps yet: {command}")
        return answers.pivot_table("correct", "question", arm), model_name(str(models.iloc[0]))


def _by_benchmark(pairs: pd.DataFrame, base: str) -> pd.DataFrame:
    tasks = pairs["task"].astype(str)
    named = pairs.assign(
        task=tasks.map(benchmark_of), item=tasks + " " + pairs["item"].astype(str)
    )  # fmt: skip
    return losses(named, base).set_index("task")


def _printed(rows: pd.DataFrame) -> pd.DataFrame:
    # TextVQA without OCR tokens in the prompt is measured too, but never printed.
    return main_scores(rows[rows["task"] != "prumerge_textvqa_val"])


def missing_llava(size: str = "7B") -> str:
    """Return the command that measures LLaVA-1.5 on a GPU."""
    name = f"llava-1.5-{size.lower()}"
    command = EVALUATE.format("real", name, _ON_GPU.format(size.lower()))
    return f"needs LLaVA-1.5 {size} and a GPU: {command}"
