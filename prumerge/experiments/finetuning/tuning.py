"""LoRA training itself: PEFT's updates and Hugging Face's Trainer through an attached reducer.

The paper's recipe (release, ``scripts/v1_5/finetune_lora_7b.sh``) is :class:`Lora` as it stands:
rank 128, alpha 256, dropout 0.05, rate 2e-4; the projector trained in full at 2e-5; the vision
tower frozen. Its command line adds one epoch, a cosine, 3 % of warm-up, bfloat16, length 2048.
"""

import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from prumerge.experiments.finetuning.data import Example
from prumerge.experiments.finetuning.samples import collate, to_sample
from prumerge.methods import Method
from prumerge.models.adapters import check_card, quiet_peft, write_card
from prumerge.models.attachment import attach
from prumerge.models.families import FAMILIES, family_of
from prumerge.models.placeholders import shown_of
from prumerge.models.preprocessing import keeps_shape, of_pictures
from prumerge.models.videos import AnyProcessor, VideoProcessor
from prumerge.roofline import shown_by

LANGUAGE_LAYERS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


@dataclass(frozen=True)
class Lora:
    """What is trained, and how fast; impossible values are a ValueError.

    Updates are scaled by ``alpha / rank``; both rates are the highest of their schedule. The
    ``projector`` is trained itself (``"full"``), through updates (``"lora"``) or not
    (``"frozen"``).
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    projector: str = "full"
    rate: float = 2e-4
    projector_rate: float = 2e-5

    def __post_init__(self) -> None:
        if self.projector not in ("full", "lora", "frozen"):
            raise ValueError(f"projector must be full, lora or frozen, got {self.projector!r}")
        if self.rank < 1 or self.alpha < 1:
            raise ValueError(f"rank and alpha must be at least 1, got {self.rank}, {self.alpha}")
        if not (0 <= self.dropout < 1 and self.rate > 0 and self.projector_rate > 0):
            raise ValueError(
                "dropout must be in [0, 1) and both rates positive, got "
                f"{self.dropout}, {self.rate}, {self.projector_rate}"
            )


def add_lora(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """Put fresh updates, which change nothing yet, into a stock model; the rest is frozen."""
    own = projectors(model)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and _within(n, own)}
    targets = [LANGUAGE_LAYERS, *map(re.escape, layers if lora.projector == "lora" else ())]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(targets),
        modules_to_save=own if lora.projector == "full" else None,
        task_type="CAUSAL_LM",
    )
    tuned = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:  # small steps vanish in bfloat16
            parameter.data = parameter.data.float()
    return tuned


def projectors(model: PreTrainedModel) -> list[str]:
    """Name the modules that turn features into visual tokens; ``multi_modal_projector`` in a LLaVA.

    A model of no family is a ValueError.
    """
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"training takes models of the classes {', '.join(FAMILIES)}, got "
            f"{type(model).__name__}: attach to it and train with a loop of your own"
        )
    found = []
    for name in family.projector:
        several = isinstance(model.model.get_submodule(name), nn.ModuleList)
        parts = range(len(model.model.get_submodule(name))) if several else ()
        found += [f"{name}.{number}" for number in parts] or [name]
    return found


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(f".{own}." in f".{name}." for own in modules)


def most_slots(model: PreTrainedModel, processor: AnyProcessor, frames: int | None = None) -> int:
    """Return the most placeholders that a picture can have; a LLaVA-1.5's have one number.

    Those of a clip of so many ``frames``, if they are given. A model of no family is a ValueError,
    and one that is shown no clips, if they are wanted.
    """
    projectors(model)
    if frames is not None:
        return shown_by(model.config, frames=frames).slots
    return shown_of(model.config, processor).slots


def parameter_groups(tuned: PeftModel, lora: Lora) -> list[dict[str, Any]]:
    """Sort what is trained by its learning rate."""
    trained = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad]
    own = projectors(tuned.get_base_model())
    projector = [p for name, p in trained if _within(name, own)]
    language = [p for name, p in trained if not _within(name, own)]
    groups = [{"params": language, "lr": lora.rate}]
    return groups + ([{"params": projector, "lr": lora.projector_rate}] if projector else [])


@runtime_checkable
class Examples(Protocol):
    """``(record, shown)`` by number, such as :mod:`prumerge.experiments.finetuning.data` has."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class Samples(Dataset):
    """Examples as the Trainer takes them: ``make`` turns each into a sample when asked for."""

    def __init__(self, examples: Examples, make: Any) -> None:
        self.examples, self.make = examples, make

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.make(*self.examples[index])


class LogLast(TrainerCallback):
    """Logs the last step, also where it is none of every ``logging_steps``."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= state.global_step >= state.max_steps


class ReducedTrainer(Trainer):
    """The Trainer, except that a batch of words alone reaches the projector too.

    Where each process has its own batch, all must have gradients for the same weights. The cards
    of what it saves tell how pictures were prepared.
    """

    do_pad: bool | None = True  # None where neither is done
    projectors: Sequence[str] = ()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and self.do_pad is not None:
            write_card(Path(output_dir or self.args.output_dir), self.do_pad)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], *args: Any, **options: Any
    ) -> Any:
        loss = super().compute_loss(model, inputs, *args, **options)
        shown = any(name.startswith("pixel_values") for name in inputs)
        if shown or not isinstance(loss, Tensor):
            return loss
        unused = (p for n, p in model.named_parameters() if _within(n, self.projectors))
        return loss + sum(p.sum() * 0 for p in unused if p.requires_grad)


@quiet_peft()
def tune(
    model: PreTrainedModel,
    processor: AnyProcessor,
    examples: Examples,
    arguments: TrainingArguments,
    lora: Lora | None = None,
    method: Method | None = None,
    max_length: int | None = None,
    preface: str = "",
    do_pad: bool = True,
    clips: VideoProcessor | None = None,
) -> tuple[PeftModel, list[dict[str, float]]]:
    """Tune a stock model, or go on from the last complete checkpoint in ``arguments.output_dir``.

    It is of any family of :mod:`prumerge.models.families`; another model is a ValueError. Without
    ``lora`` it is the paper's recipe, without ``method`` all visual tokens are sent. ``max_length``
    counts a sample's tokens before the reduction; ``preface`` is text in front of each
    conversation; ``do_pad=False`` crops pictures of a model that takes squares, which the adapter's
    card tells. To go on from a checkpoint that saw them prepared otherwise is a ValueError. A
    LLaVA-NeXT-Video or LLaVA-OneVision is shown clips, beside pictures, where ``clips`` prepares
    them (:func:`prumerge.models.videos.load_clips`); a Video-LLaVA's processor does by itself.

    Returns:
        The tuned model, nothing attached, with ``model`` as its base, and the Trainer's log, the
        last step included. The adapter lies in ``arguments.output_dir``, as PEFT saves it.
    """
    lora, patches = lora or Lora(), most_slots(model, processor)
    if resumed := last_checkpoint(Path(arguments.output_dir)):
        check_card(Path(resumed), do_pad)
    set_seed(arguments.seed)
    tuned = add_lora(model, lora)
    limits = {"max_length": max_length, "preface": preface, "do_pad": do_pad}
    make = partial(to_sample, processor, patches=patches, clips=clips, **limits)
    arguments.remove_unused_columns = False
    trainer = ReducedTrainer(
        model=tuned,
        args=arguments,
        train_dataset=Samples(examples, make),
        data_collator=partial(collate, pad_token_id=processor.tokenizer.pad_token_id),
        optimizers=(torch.optim.AdamW(parameter_groups(tuned, lora), weight_decay=0.0), None),
    )
    trainer.do_pad = None if keeps_shape(of_pictures(processor)) else do_pad
    trainer.projectors = projectors(model)
    trainer.add_callback(LogLast)
    trainer.remove_callback(PrinterCallback)  # where bars are switched off, it prints every step
    with attach(model, method) if method else nullcontext():
        trainer.train(resume_from_checkpoint=resumed)
    trainer.save_model()
    # What the Trainer wrapped around it for lower precision would stay otherwise.
    tuned = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    return tuned, trainer.state.log_history


def align(
    model: PreTrainedModel,
    processor: AnyProcessor,
    examples: Examples,
    arguments: TrainingArguments,
) -> list[dict[str, float]]:
    """Train the projector alone, LLaVA's first stage, or go on from the last checkpoint.

    Returns:
        The Trainer's log.
    """
    patches = most_slots(model, processor)
    set_seed(arguments.seed)
    model.requires_grad_(False)
    for name in projectors(model):
        model.model.get_submodule(name).requires_grad_(True)
    make = partial(to_sample, processor, patches=patches)
    arguments.remove_unused_columns = False
    trainer = ReducedTrainer(
        model=model,
        args=arguments,
        train_dataset=Samples(examples, make),
        data_collator=partial(collate, pad_token_id=processor.tokenizer.pad_token_id),
    )
    trainer.projectors = projectors(model)
    trainer.add_callback(LogLast)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(arguments.output_dir)))
    return trainer.state.log_history


def last_checkpoint(folder: Path) -> str | None:
    """Find the last checkpoint with its ``trainer_state.json``, which is written last; or None."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        complete.append((state["global_step"], str(checkpoint)))
    return max(complete)[1] if complete else None
