"""What a training step takes, with all visual tokens and with few: time and memory.

Each measurement has a process of its own, so that memory is its own; all and few take turns. A
step is forward, backward and optimiser on one batch of prepared pictures, vision tower included,
drawing and reading left out. On a CPU it is the processor's time of one thread, which is a quiet
core's time whatever else the machine does; on a GPU the clock's.
"""

import multiprocessing
import statistics
import time
from typing import Any

import pandas as pd
import psutil
import torch

from prumerge.evaluation.memory import peak_mib
from prumerge.finetuning.arms import MINI_LORA, Plan
from prumerge.finetuning.conversations import collate, to_sample
from prumerge.finetuning.data import SceneInstructions
from prumerge.finetuning.lora import Lora, add_lora, parameter_groups
from prumerge.llava import attach
from prumerge.models.loading import load, patches_of
from prumerge.pictures import grid_of
from prumerge.provenance import provenance


def measure_costs(
    model: str = "mini",
    budgets: tuple[int | None, ...] = (None, 32),
    batch_size: int = 8,
    steps: int = 5,
    rounds: int = 2,
    lora: Lora = MINI_LORA,
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure training steps in turn, each setting in a process of its own.

    Args:
        model: As for :func:`prumerge.models.load`.
        budgets: Visual tokens; None sends all.
        batch_size: Samples in a step.
        steps: Timed steps of each measurement, behind one that warms up.
        rounds: Measurements of each budget.
        lora: What is trained.
        device: Where.

    Returns:
        One row per measurement: ``visual_tokens``, ``step_ms`` (median), ``samples_per_s``,
        ``peak_mib`` (most memory above what the loaded model holds; on a GPU, most held by
        tensors), and the settings.
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
