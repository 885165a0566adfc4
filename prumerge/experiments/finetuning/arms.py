"""Four arms on equal steps and data: all or few visual tokens, untuned or tuned alike; their costs.

The paper compares a tuned model that sees few tokens with an untuned one that sees all. Here every
tuned model gets the same pictures, questions, steps and rates, also the one that sees all tokens;
few tokens are selected alone, or selected and merged. Everything is asked about held-out pictures,
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
from transformers import LlavaForConditionalGeneration, LlavaProcessor, TrainingArguments

from prumerge.experiments.evaluation.memory import peak_mib
from prumerge.experiments.finetuning.data import SceneInstructions, collate, to_sample
from prumerge.experiments.finetuning.tuning import Lora, add_lora, parameter_groups, tune
from prumerge.experiments.rows import provenance, write_csv
from prumerge.methods import Method, resolve
from prumerge.mini.pictures import encode_pictures, to_pixels
from prumerge.mini.questions import held_out, is_right
from prumerge.mini.styles import style_of
from prumerge.models import load
from prumerge.models.asking import Answer, ask, prompt_of
from prumerge.models.attachment import attach
from prumerge.models.loading import fingerprint, grid_of, patches_of
from prumerge.paths import RESULTS, RUNS, written_whole

ROWS = RESULTS / "finetuning"
"""``runs.csv``, one row per tuned or untuned model; ``answers.csv``, one per run and question;
``cost.csv``, one per measurement."""

TOKENS = ("all", "selected", "merged")
QUIZ_SEED = 6
"""Of the held-out questions: not those of the checkpoint's own scores."""
QUESTIONS_AT_ONCE = 25
MINI_LORA = Lora(rank=16, alpha=32, dropout=0.0, rate=5e-4, projector_rate=5e-5)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the arms are run; the defaults take about ten minutes on one core."""

    model: str = "mini"  # drawn scenes are asked about
    budget: int = 32  # visual tokens where they are few
    seeds: tuple[int, ...] = (0, 1, 2)  # of adapter, pictures and questions; each tunes every arm
    steps: int = 70
    batch_size: int = 8  # conversations in a step
    turns: int = 1  # questions in a conversation
    per_family: int = 50  # held-out questions of each of the nine families
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


def run_arms(
    plan: Plan, folder: Path | None = None, report: Callable[[str], None] = print
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows by run and by question; runs of the same plan and weights stay in ``folder``."""
    model, processor = load(plan.model)
    weights = fingerprint(plan.model, model)
    identity = json.dumps([dataclasses.asdict(plan), weights], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = (folder or RUNS / "finetuning") / key
    folder.mkdir(parents=True, exist_ok=True)
    quiz, runs, answers = None, [], []
    for tokens, tuned, seed in plan.runs():
        path = folder / f"{tokens}-{'tuned' if tuned else 'untuned'}-{seed}.json"
        if not path.exists():
            quiz = quiz or Quiz(model, processor, plan.per_family)
            result = _run(plan, quiz, tokens, tuned, seed, folder)
            result["run"]["weights"] = weights
            with written_whole(path) as partial:
                partial.write_text(json.dumps(result))
            report(f"{path.stem}: {100 * sum(result['correct']) / len(result['correct']):.1f} %")
        found = json.loads(path.read_text())
        runs.append(found["run"])
        asked = pd.DataFrame({"family": found["families"]}).rename_axis("question").reset_index()
        which = {"tokens": tokens, "tuned": tuned, "seed": seed}
        answers.append(asked.assign(**which, correct=found["correct"]))
    return pd.DataFrame(runs), pd.concat(answers, ignore_index=True)


def _run(
    plan: Plan, quiz: "Quiz", tokens: str, tuned: bool, seed: int, folder: Path
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
    tenth = max(1, len(losses) // 10)
    run = {
        "model": plan.model,
        "tokens": tokens,
        "tuned": tuned,
        "seed": seed,
        "visual_tokens": kept,
        "questions": len(correct),
        "right_percent": 100 * sum(correct) / len(correct),
        "loss_first": sum(losses[:tenth]) / tenth if losses else None,
        "loss_last": sum(losses[-tenth:]) / tenth if losses else None,
        "training_s": round(trained_s, 1) if tuned else None,
        **{name: getattr(plan, name) for name in ("budget", "steps", "batch_size", "turns")},
        **dataclasses.asdict(plan.lora),
        **provenance(),
    }
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
    for name, table in tables.items():
        write_csv(table, folder / f"{name}.csv", float_format="%.6g")


class Quiz:
    """Held-out questions and their encoded pictures, for all models tuned from this one."""

    def __init__(
        self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, per_family: int
    ) -> None:
        items = held_out(per_family, grid_of(model), QUIZ_SEED, style_of(model))
        self.families = [item.question.family for item in items]
        self.truth = [item.question.answer for item in items]
        self.encoded = encode_pictures(
            model, to_pixels(processor, [item.picture for item in items])
        )
        self.prompts = [prompt_of(processor, item.question.text) for item in items]
        self.processor = processor

    def ask(self, model: LlavaForConditionalGeneration, method: Method) -> tuple[list[int], int]:
        """Ask a model; return 1 or 0 per answer, right or wrong, and visual tokens sent."""
        answers: list[Answer] = []
        for start in range(0, len(self.prompts), QUESTIONS_AT_ONCE):
            chosen = slice(start, start + QUESTIONS_AT_ONCE)
            pictures = self.encoded.at(chosen).to(model.device, model.dtype)
            prompts = self.prompts[chosen]
            asked = (pictures, prompts, range(len(prompts)), method)
            answers += ask(model, self.processor, *asked, max_new_tokens=8)
        pairs = zip(answers, self.truth, strict=True)
        right = [int(is_right(answer.text, truth)) for answer, truth in pairs]
        return right, answers[0].visual_tokens


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
    scenes = SceneInstructions(batch_size, grid=grid_of(model))
    patches = patches_of(model)
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
