"""From a finished training to a checkpoint that stock transformers loads."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from prumerge.mini.model import SPECIAL_IDS, Learner, Pretraining
from prumerge.models.loading import load_whole

HEADS = "pretraining.safetensors"
"""Heads that only serve training: naming, placing, and what CLIP has besides its vision tower."""


def export(model: Learner, folder: Path, curve: list[dict], record: dict) -> None:
    """Write weights, config, processor, model card and training record; replace ``folder``.

    The LLaVA becomes a stock checkpoint, without the tower where that was frozen from the start;
    what only serves training lies beside it. What stands in
    ``folder`` is kept until the new one is complete. ``record``: see :func:`training_record`.
    """
    llava = model.llava
    llava.generation_config.update(**SPECIAL_IDS)
    fresh, former = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left_over in (fresh, former):
        shutil.rmtree(left_over, ignore_errors=True)
    llava.save_pretrained(fresh)
    processor = model.processor()
    processor.save_pretrained(fresh)
    if heads := {name: p.detach().contiguous() for name, p in _heads(model)}:
        save_file(heads, fresh / HEADS)
    pd.DataFrame(curve).drop(columns="left_s").to_csv(fresh / "training.csv", index=False)
    (fresh / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    millions = sum(p.numel() for p in llava.parameters()) / 1e6
    told = {"tokens": model.size.grid**2, "words": len(processor.tokenizer)} | model.told_on_card()
    card = model.card.format(parameters=millions, **told, **record)
    (fresh / "README.md").write_text(card)
    if folder.exists():
        os.replace(folder, former)
    os.replace(fresh, folder)
    shutil.rmtree(former, ignore_errors=True)


def reopen(model: Pretraining, folder: Path) -> None:
    """Load an exported model's weights, to train on; ValueError without an export of this size."""
    if not (folder / HEADS).exists():
        raise ValueError(f"{folder} holds no {HEADS}: name a folder that export() has written")
    heads = load_file(folder / HEADS)
    llava = load_whole(LlavaForConditionalGeneration, folder).state_dict()
    try:
        model.llava.load_state_dict(llava)
        for name, parameter in _heads(model):
            parameter.data.copy_(heads[name])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} holds a model of another size than {model.size}") from error


def _heads(model: Learner):
    for name, parameter in model.named_parameters():
        if name.startswith("clip.vision_model."):  # the LLaVA's own tower
            continue
        if name.startswith(("clip.", "naming.", "placing.")):
            yield name, parameter


def training_record(stages: list, curve: list[dict], seed: int, origin: dict[str, str]) -> dict:
    """Sum a training up: pictures seen, hours, seed, stages, and ``origin``, its provenance."""
    seconds = pd.DataFrame(curve).groupby("stage", sort=False)["seconds"].max()
    by_stage = {
        stage.name: {
            "steps": stage.steps,
            "pictures": stage.steps * stage.recipe.pictures,
            "seconds": float(seconds[stage.name]),
            "learning_rates": [stage.peak_rate, stage.final_rate],
            "losses": list(stage.parts),
        }
        for stage in stages
    }
    pictures = sum(row["pictures"] for row in by_stage.values())
    hours = round(float(seconds.sum()) / 3600, 2)
    return {"pictures": pictures, "hours": hours, "seed": seed, **origin, "stages": by_stage}
