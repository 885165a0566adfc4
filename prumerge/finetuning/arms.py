"""Four arms on equal steps and data: all or few visual tokens, untuned or tuned alike.

The paper compares a tuned model that sees few tokens with an untuned one that sees all. Here every
tuned model gets the same pictures, questions, steps and rates, also the one that sees all tokens;
few tokens are selected alone, or selected and merged. Everything is asked about held-out pictures,
question by question, so that differences can be paired.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import TrainingArguments

from prumerge.finetuning.data import SceneInstructions
from prumerge.finetuning.lora import Lora
from prumerge.finetuning.quiz import Quiz
from prumerge.finetuning.tuning import tune
from prumerge.methods import Method, resolve
from prumerge.models import load
from prumerge.models.loading import fingerprint
from prumerge.paths import RESULTS, RUNS
from prumerge.pictures import grid_of
from prumerge.provenance import provenance

ROWS = RESULTS / "finetuning"
"""``runs.csv``, one row per tuned or untuned model; ``answers.csv``, one per run and question."""

MINI_LORA = Lora(rank=16, alpha=32, dropout=0.0, rate=5e-4, projector_rate=5e-5)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the arms are run; the defaults take about ten minutes on one core.

    Args:
        model: As for :func:`prumerge.models.load`; drawn scenes are asked about.
        budget: Visual tokens where they are few.
        seeds: Of adapter, pictures and questions; each tunes every arm once.
        steps: Of the optimiser.
        batch_size: Conversations in a step.
        turns: Questions in a conversation.
        per_family: Held-out questions of each of the nine families.
        lora: What is trained.
    """

    model: str = "mini"
    budget: int = 32
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 70
    batch_size: int = 8
    turns: int = 1
    per_family: int = 50
    lora: Lora = MINI_LORA

    def method(self, tokens: str) -> Method:
        """Return what reduces the tokens: ``all``, ``selected`` or ``merged``."""
        if tokens == "all":
            return resolve("all")
        plain = {"neighbours": 0, "extra_token": False} if tokens == "selected" else {}
        return resolve("release", budget=self.budget, **plain)

    def runs(self) -> Iterator[tuple[str, bool, int]]:
        """List tokens, whether tuned, and seed of every run."""
        for tokens in TOKENS:
            yield tokens, False, 0
        for seed in self.seeds:
            for tokens in TOKENS:
                yield tokens, True, seed


TOKENS = ("all", "selected", "merged")


def run_arms(
    plan: Plan, folder: Path | None = None, report: Callable[[str], None] = print
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run all arms; those finished earlier, with the same plan and weights, are kept.

    Args:
        plan: What to run.
        folder: Keeps finished runs; None takes one below ``data/runs``.
        report: Called with a line per run.

    Returns:
        One row per run, and one per run and question (``correct`` is 0 or 1).
    """
    model, processor = load(plan.model)
    weights = fingerprint(plan.model, model)
    identity = json.dumps([dataclasses.asdict(plan), weights], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = (folder or RUNS / "finetuning") / key
    folder.mkdir(parents=True, exist_ok=True)
    quiz = None
    for tokens, tuned, seed in plan.runs():
        path = folder / f"{tokens}-{'tuned' if tuned else 'untuned'}-{seed}.json"
        if not path.exists():
            quiz = quiz or Quiz(model, processor, plan.per_family)
            result = _run(plan, quiz, tokens, tuned, seed, folder)
            result["run"]["weights"] = weights
            path.with_suffix(".partial").write_text(json.dumps(result))
            path.with_suffix(".partial").replace(path)
            report(f"{path.stem}: {100 * sum(result['correct']) / len(result['correct']):.1f} %")
    found = [
        json.loads((folder / f"{t}-{'tuned' if u else 'untuned'}-{s}.json").read_text())
        for t, u, s in plan.runs()
    ]
    runs = pd.DataFrame([result["run"] for result in found])
    answers = pd.concat([_answers(result) for result in found], ignore_index=True)
    return runs, answers


def _answers(result: dict[str, Any]) -> pd.DataFrame:
    run = {name: result["run"][name] for name in ("tokens", "tuned", "seed")}
    asked = pd.DataFrame({"question": range(len(result["correct"])), "family": result["families"]})
    return asked.assign(**run, correct=result["correct"])


def _run(
    plan: Plan, quiz: Quiz, tokens: str, tuned: bool, seed: int, folder: Path
) -> dict[str, Any]:
    model, processor = load(plan.model)
    method, began = plan.method(tokens), time.perf_counter()
    losses: list[float] = []
    if tuned:
        count = plan.steps * plan.batch_size
        scenes = SceneInstructions(count, plan.turns, grid_of(model), seed)
        adapter = folder / f"{tokens}-{seed}"
        options = training_arguments(plan, adapter, seed)
        _, log = tune(model, processor, scenes, options, plan.lora, method)
        losses = [row["loss"] for row in log if "loss" in row]
    trained_s = time.perf_counter() - began
    model.eval()
    correct, kept = quiz.ask(model, method)
    run: dict[str, Any] = {"model": plan.model, "tokens": tokens, "tuned": tuned, "seed": seed}
    run |= {"visual_tokens": kept, "questions": len(correct)}
    run |= {"right_percent": 100 * sum(correct) / len(correct)}
    tenth = max(1, len(losses) // 10)
    run |= {
        "loss_first": sum(losses[:tenth]) / tenth if losses else None,
        "loss_last": sum(losses[-tenth:]) / tenth if losses else None,
        "training_s": round(trained_s, 1) if tuned else None,
    }
    settings = {n: getattr(plan, n) for n in ("budget", "steps", "batch_size", "turns")}
    run |= settings | dataclasses.asdict(plan.lora) | provenance()
    return {"run": run, "correct": correct, "families": quiz.families}


def training_arguments(plan: Plan, folder: Path, seed: int) -> TrainingArguments:
    """Return the Trainer's arguments of an arm: cosine, 3 % warm-up, bfloat16, as in the paper."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(0.03 * plan.steps)),
        bf16=True,
        logging_steps=1,
        save_strategy="no",
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def write_rows(tables: dict[str, pd.DataFrame], folder: Path = ROWS) -> None:
    """Write result tables as CSV files, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        partial = folder / f"{name}.partial"
        table.to_csv(partial, index=False, lineterminator="\n", float_format="%.6g")
        partial.replace(folder / f"{name}.csv")
