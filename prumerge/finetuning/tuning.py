"""The training itself: Hugging Face's Trainer through an attached reducer."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from prumerge.finetuning.conversations import collate, to_sample
from prumerge.finetuning.data import Example
from prumerge.finetuning.lora import PROJECTOR, Lora, add_lora, parameter_groups
from prumerge.llava import attach
from prumerge.methods import Method
from prumerge.models.adapters import check_card, quiet_peft, write_card
from prumerge.models.loading import patches_of


@runtime_checkable
class Examples(Protocol):
    """``(record, picture)`` by number, such as :mod:`prumerge.finetuning.data` has."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class Samples(Dataset):
    """Examples as the Trainer takes them, made when asked for.

    Args:
        examples: What they are made of.
        make: From an example to a sample.
    """

    def __init__(self, examples: Examples, make: Any) -> None:
        self.examples, self.make = examples, make

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.make(*self.examples[index])


class LogLast(TrainerCallback):
    """Logs the last step, also where it is none of every ``logging_steps``."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for the log."""
        control.should_log |= state.global_step >= state.max_steps


class ReducedTrainer(Trainer):
    """The Trainer, except that a batch without pictures reaches the projector too.

    Where each process has its own batch, all must have gradients for the same weights. The cards
    of what it saves tell how pictures were prepared.
    """

    do_pad = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter, as the Trainer does, with its card."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            write_card(Path(output_dir or self.args.output_dir), self.do_pad)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], *args: Any, **options: Any
    ) -> Any:
        """Return the loss, as the Trainer does."""
        loss = super().compute_loss(model, inputs, *args, **options)
        if "pixel_values" in inputs or not isinstance(loss, Tensor):
            return loss
        unused = [p for n, p in model.named_parameters() if p.requires_grad and PROJECTOR in n]
        return loss + sum(p.sum() * 0 for p in unused)


@quiet_peft()
def tune(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    examples: Examples,
    arguments: TrainingArguments,
    lora: Lora | None = None,
    method: Method | None = None,
    max_length: int | None = None,
    preface: str = "",
    do_pad: bool = True,
) -> tuple[PeftModel, list[dict[str, float]]]:
    """Tune a model, or go on from the last complete checkpoint in ``arguments.output_dir``.

    Args:
        model: A stock LLaVA; it becomes the base of the returned one.
        processor: Its processor.
        examples: Training data.
        arguments: Of the Trainer: steps, batches, precision, checkpoints, folder.
        lora: What is trained; None is the paper's recipe.
        method: Reduces the visual tokens during training; None sends all.
        max_length: Most tokens of a sample before the reduction.
        preface: Text in front of each conversation.
        do_pad: Pad pictures to squares; False crops them. The adapter's card tells which.

    Returns:
        The tuned model, nothing attached, and the Trainer's log, from the first step on, the
        last one included. The adapter lies in ``arguments.output_dir``, as PEFT saves it.

    Raises:
        ValueError: If the checkpoint to go on from saw pictures prepared otherwise.
    """
    lora = lora or Lora()
    if resumed := last_checkpoint(Path(arguments.output_dir)):
        check_card(Path(resumed), do_pad)
    set_seed(arguments.seed)
    tuned = add_lora(model, lora)
    given = {"patches": patches_of(model), "max_length": max_length}
    make = partial(_sample, processor, preface=preface, do_pad=do_pad, **given)
    arguments.remove_unused_columns = False
    trainer = ReducedTrainer(
        model=tuned,
        args=arguments,
        train_dataset=Samples(examples, make),
        data_collator=partial(collate, pad_token_id=processor.tokenizer.pad_token_id),
        optimizers=(torch.optim.AdamW(parameter_groups(tuned, lora), weight_decay=0.0), None),
    )
    trainer.do_pad = do_pad
    trainer.add_callback(LogLast)
    trainer.remove_callback(PrinterCallback)  # where bars are switched off, it prints every step
    with attach(model, method) if method else nullcontext():
        trainer.train(resume_from_checkpoint=resumed)
    trainer.save_model()
    # What the Trainer wrapped around it for lower precision would stay otherwise.
    tuned = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    return tuned, trainer.state.log_history


def _sample(processor: LlavaProcessor, record: Any, picture: Any, **limits: Any) -> dict[str, Any]:
    return to_sample(processor, record, picture, **limits)


def last_checkpoint(folder: Path) -> str | None:
    """Find the last checkpoint that was written to its end.

    The Trainer writes ``trainer_state.json`` last; a folder without it is what a killed run left.

    Args:
        folder: Of a training.

    Returns:
        Path of the checkpoint, or None.
    """
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        complete.append((state["global_step"], str(checkpoint)))
    return max(complete)[1] if complete else None
