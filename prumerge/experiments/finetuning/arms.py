"""Five arms on equal steps and data, each untuned and tuned alike; and what a step costs.

An arm is what the model sees: all visual tokens, or few of them in one of two handlings, selected
alone or selected and merged. The released handling (by falling attention, at closed-up position
ids) is one that no model has seen in training; the other sends the same tokens as all tokens are
sent, in raster order at their own position ids. The paper compares a tuned model that sees few
tokens with an untuned one that sees all. Here every tuned model gets the same pictures, questions,
steps and rates, also the one that sees all tokens. Everything is asked about held-out pictures,
question by question, so that differences can be paired.

Each cost is measured in a process of its own, so that memory is its own; all and few take turns. A
step is forward, backward and optimiser on one batch of prepared pictures, vision tower included,
drawing and reading left out. On a CPU it is the processor's time of one thread, which is a quiet
core's time whatever else the machine does; on a GPU the clock's.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from transformers import LlavaNextForConditionalGeneration, TrainingArguments

from prumerge.encoder import Encoded
from prumerge.experiments.evaluation.memory import peak_mib
from prumerge.experiments.finetuning.data import SceneInstructions
from prumerge.experiments.finetuning.samples import collate, to_sample
from prumerge.experiments.finetuning.tuning import (
    Lora,
    add_lora,
    most_slots,
    parameter_groups,
    tune,
)
from prumerge.experiments.rows import provenance, write_csv
from prumerge.experiments.sweeps import handling
from prumerge.experiments.sweeps.tiles import Tiles
from prumerge.methods import Method, resolve
from prumerge.mini.pictures import encode_pictures, to_pixels
from prumerge.mini.questions import Item, held_out, is_right
from prumerge.mini.styles import PLAIN, Style, style_of
from prumerge.models import load
from prumerge.models.asking import Answer, ask, prompt_of
from prumerge.models.attachment import attach
from prumerge.models.families.llava_next import cut, tiles_of
from prumerge.models.loading import Llava, Processor, fingerprint, grid_of
from prumerge.models.slots import Packed
from prumerge.paths import RESULTS, RUNS, written_whole

ROWS = RESULTS / "finetuning"
"""``runs.csv``, one row per tuned or untuned model; ``answers.csv``, one per run and question;
``cost.csv``, one per measurement."""

HANDLINGS = {handling.told(each): each for each in (handling.RELEASED, handling.EQUAL)}
RELEASED, EQUAL = HANDLINGS
ARMS = (
    ("all", EQUAL),
    ("selected", RELEASED),
    ("selected", EQUAL),
    ("merged", RELEASED),
    ("merged", EQUAL),
)
"""Tokens and handling; all tokens have one handling only."""
LONGER = (("selected", RELEASED), ("selected", EQUAL), ("merged", EQUAL))
"""Arms that one seed tunes for longer as well, to see whether more steps would win more."""

QUIZ_SEED = 6
"""Of the held-out questions: not those of the checkpoint's own scores."""
QUESTIONS_AT_ONCE = 25
_OF_RUN = ["tokens", "handling", "steps", "seed"]
MINI_LORA = Lora(rank=16, alpha=32, dropout=0.0, rate=5e-4, projector_rate=5e-5)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the arms are run; the defaults take about half an hour on one core."""

    model: str = "mini"  # drawn scenes are asked about
    budget: int = 32  # visual tokens where they are few
    seeds: tuple[int, ...] = (0, 1, 2)  # of adapter, pictures and questions; each tunes every arm
    steps: int = 70
    long_steps: int = 210  # of one more tuning of few tokens, with the first seed; 0: none
    batch_size: int = 8  # conversations in a step
    turns: int = 1  # questions in a conversation
    per_family: int = 50  # held-out questions of each of the nine families
    lora: Lora = MINI_LORA

    def method(self, tokens: str, handling: str = RELEASED) -> Method:
        """Return what reduces the tokens: ``all``, ``selected`` or ``merged``."""
        if tokens == "all":
            return resolve("all")
        plain = {"neighbours": 0, "extra_token": False} if tokens == "selected" else {}
        return resolve("release", budget=self.budget, **HANDLINGS[handling], **plain)

    def runs(self) -> Iterator["Run"]:
        """List the runs: untuned, tuned by seed, and tuned for longer."""
        for steps, seed in [(0, 0), *((self.steps, seed) for seed in self.seeds)]:
            yield from (Run(*arm, steps, seed) for arm in ARMS)
        if self.long_steps:
            yield from (Run(*arm, self.long_steps, self.seeds[0]) for arm in LONGER)

    def identity(self) -> dict[str, Any]:
        """Return all that a run depends on besides its own fields."""
        own = ("seeds", "steps", "long_steps")
        return {name: v for name, v in dataclasses.asdict(self).items() if name not in own}


@dataclasses.dataclass(frozen=True)
class Run:
    """An arm, untuned (0 steps) or tuned."""

    tokens: str
    handling: str
    steps: int
    seed: int

    @property
    def name(self) -> str:
        words = (self.tokens, *self.handling.split(", "), self.steps, self.seed)
        return "-".join(map(str, words))


def run_arms(
    plan: Plan, folder: Path | None = None, report: Callable[[str], None] = print
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows by run and by question; runs of the same plan and weights stay in ``folder``.

    A model is a LLaVA-1.5 or LLaVA-NeXT, else ValueError.
    """
    model, processor = load(plan.model)
    weights = fingerprint(plan.model, model)
    identity = json.dumps([plan.identity(), weights], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = (folder or RUNS / "finetuning") / key
    folder.mkdir(parents=True, exist_ok=True)
    quiz, runs, answers = None, [], []
    for run in plan.runs():
        path = folder / f"{run.name}.json"
        if not path.exists():
            quiz = quiz or Quiz(model, processor, plan.per_family)
            result = _result(plan, quiz, run, folder)
            result["run"]["weights"] = weights
            with written_whole(path) as partial:
                partial.write_text(json.dumps(result))
            report(f"{run.name}: {result['run']['right_percent']:.1f} %")
        found = json.loads(path.read_text())
        runs.append(found["run"])
        asked = pd.DataFrame(found["answers"]).rename_axis("question").reset_index()
        answers.append(asked.assign(**dataclasses.asdict(run)))
    table = pd.concat(answers, ignore_index=True)
    return pd.DataFrame(runs), table[["question", "family", *_OF_RUN, "said", "correct"]]


def read_rows(folder: Path = ROWS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the tables of :func:`run_arms`, by run and by question."""
    runs = pd.read_csv(folder / "runs.csv")
    return runs, pd.read_csv(folder / "answers.csv", dtype={"said": str}, keep_default_na=False)


def right_by_arm(answers: pd.DataFrame) -> pd.DataFrame:
    """Return how often each question is answered right, in percent, mean over the seeds.

    A row per question; columns by tokens, handling and steps, 0 for the untuned model.
    """
    return 100 * answers.pivot_table("correct", "question", ["tokens", "handling", "steps"])


def _result(plan: Plan, quiz: "Quiz", run: Run, folder: Path) -> dict[str, Any]:
    model, processor = load(plan.model)
    method, began = plan.method(run.tokens, run.handling), time.perf_counter()
    losses: list[float] = []
    if run.steps:
        count = run.steps * plan.batch_size
        scenes = SceneInstructions(count, plan.turns, grid_of(model), run.seed, style_of(model))
        options = training_arguments(run.steps, plan.batch_size, folder / run.name, run.seed)
        _, log = tune(model, processor, scenes, options, plan.lora, method)
        losses = [row["loss"] for row in log if "loss" in row]
    trained_s = time.perf_counter() - began
    model.eval()
    said, kept = quiz.ask(model, method)
    correct = [int(is_right(*pair)) for pair in zip(said, quiz.truth, strict=True)]
    tenth = max(1, len(losses) // 10)
    row = {
        "model": plan.model,
        **dataclasses.asdict(run),
        "visual_tokens": kept,
        "questions": len(correct),
        "right_percent": 100 * sum(correct) / len(correct),
        "loss_first": sum(losses[:tenth]) / tenth if losses else None,
        "loss_last": sum(losses[-tenth:]) / tenth if losses else None,
        "training_s": round(trained_s, 1) if losses else None,
        **{name: getattr(plan, name) for name in ("budget", "batch_size", "turns")},
        **dataclasses.asdict(plan.lora),
        **provenance(),
    }
    answers = {"family": quiz.families, "said": said, "correct": correct}
    return {"run": row, "answers": answers}


def training_arguments(
    steps: int, batch_size: int, folder: Path, seed: int, **more: Any
) -> TrainingArguments:
    """Return the Trainer's arguments of an arm: cosine, 3 % warm-up, bfloat16, as in the paper.

    ``more`` are others, or instead of these.
    """
    usual = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, round(0.03 * steps)),
        "bf16": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
    }
    return TrainingArguments(**usual | more)


def write_rows(tables: dict[str, pd.DataFrame], folder: Path = ROWS) -> None:
    """Write result tables as CSV files, each complete or not at all."""
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv", float_format="%.6g")


def quiz_items(
    per_family: int = Plan.per_family, grid: int = 24, style: Style = PLAIN
) -> list[Item]:
    """Draw the held-out questions that the arms are asked, in the order of their numbers."""
    return held_out(per_family, grid, QUIZ_SEED, style)


class Quiz:
    """Held-out questions and their encoded pictures, for all models tuned from this one."""

    def __init__(self, model: Llava, processor: Processor, per_family: int) -> None:
        items = quiz_items(per_family, grid_of(model), style_of(model))
        self.families = [item.question.family for item in items]
        self.truth = [item.question.answer for item in items]
        self.processor, self.parts = processor, []
        for start in range(0, len(items), QUESTIONS_AT_ONCE):
            part = items[start : start + QUESTIONS_AT_ONCE]
            pictures = [item.picture for item in part]
            sizes = [[picture.height, picture.width] for picture in pictures]
            pixels = to_pixels(processor, pictures)
            if isinstance(model, LlavaNextForConditionalGeneration):
                pixels = cut(pixels, tiles_of(model.model, sizes))
            prompts = [prompt_of(processor, item.question.text) for item in part]
            self.parts.append((encode_pictures(model, pixels), sizes, prompts))

    def ask(self, model: Llava, method: Method) -> tuple[list[str], float]:
        """Ask a model; return its answers, and the visual tokens sent, their mean by picture."""
        answers: list[Answer] = []
        for encoded, sizes, prompts in self.parts:
            seen: Encoded | Packed = encoded.to(model.device, model.dtype)
            if isinstance(model, LlavaNextForConditionalGeneration):
                seen = Tiles(seen, model.model, sizes).at(slice(0, None))
            asked = (seen, prompts, range(len(prompts)), method)
            answers += ask(model, self.processor, *asked, max_new_tokens=8)
        kept = statistics.fmean(answer.visual_tokens for answer in answers)
        return [answer.text for answer in answers], kept


def measure_costs(
    model: str = "mini",
    budgets: tuple[int | None, ...] = (None, 32),
    batch_size: int = 8,
    steps: int = 5,
    rounds: int = 2,
    lora: Lora = MINI_LORA,
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure training steps: budgets in turn (None sends all), ``rounds`` times.

    ``step_ms`` is the median of ``steps`` behind one that warms up, ``peak_mib`` the most memory
    above what the loaded model holds; on a GPU, the most held by tensors.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for number in range(rounds):
        for budget in budgets:
            with context.Pool(1, torch.set_num_threads, (1,)) as pool:
                row = pool.apply(_measure, (model, budget, batch_size, steps, lora, device))
            rows.append({"round": number, **row})
    return pd.DataFrame(rows)


def _measure(
    name: str, budget: int | None, batch_size: int, steps: int, lora: Lora, device: str
) -> dict[str, Any]:
    model, processor = load(name, device)
    scenes = SceneInstructions(batch_size, grid=grid_of(model), style=style_of(model))
    patches = most_slots(model, processor)
    samples = [to_sample(processor, *scenes[i], patches=patches) for i in range(batch_size)]
    batch = collate(samples, processor.tokenizer.pad_token_id)
    batch = {key: value.to(device) for key, value in batch.items()}
    tuned = add_lora(model, lora).train()
    optimiser = torch.optim.AdamW(parameter_groups(tuned, lora))
    method = Plan(budget=budget or patches).method("merged" if budget else "all")
    cuda = device.startswith("cuda")
    clock = time.perf_counter if cuda else time.process_time
    # What loading took at its height is not subtracted: memory is rather over- than understated.
    before, times = 0 if cuda else psutil.Process().memory_info().rss / 2**20, []
    with attach(model, method) as reducer:
        for _ in range(steps + 1):
            began = clock()
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                loss = tuned(**batch).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if cuda:
                torch.cuda.synchronize(device)
            times.append(1e3 * (clock() - began))
        kept = reducer.kept[0]
    step_ms = statistics.median(times[1:])
    return {
        "model": name,
        "visual_tokens": kept,
        "batch_size": batch_size,
        "step_ms": step_ms,
        "samples_per_s": 1e3 * batch_size / step_ms,
        "peak_mib": peak_mib(device) - before,
        "rank": lora.rank,
        **provenance(device),
    }
