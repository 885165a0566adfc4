"""The command line: ``python -m prumerge.finetuning train | arms | cost | scenes | convert``.

    train      --data FILE --images FOLDER --model NAME --reduce method=release budget=40
               --output_dir FOLDER, and every argument of the Trainer (--bf16, --max_steps ...)
    arms       tune and ask the five arms; rows in data/results/finetuning
    cost       time and memory of a step; a table in data/results/finetuning
               (both with any option in data/runs/finetuning, or where --rows says)
    scenes     write drawn scenes as instruction data in LLaVA's format
    convert    a LoRA in LLaVA's own format to PEFT's

Several GPUs: accelerate launch -m prumerge.finetuning train ...
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prumerge.experiments.arguments import named_values, rows_place
from prumerge.experiments.processes import process_group_ended
from prumerge.models.checks import needs

WORDS = ("train", "arms", "cost", "scenes", "convert")


@dataclass
class TrainOptions:
    """What ``train`` takes besides the Trainer's arguments."""

    data: str = field(metadata={"help": "instruction file in LLaVA's format"})
    images: str = field(default="", metadata={"help": "folder the pictures and clips are in"})
    model: str = field(default="mini", metadata={"help": "mini, a folder, or a hub id@revision"})
    reduce: list[str] = field(
        default_factory=lambda: ["method=prumerge"],
        metadata={"help": "name=value ...: method and settings; method=all sends everything"},
    )
    rank: int = field(default=128, metadata={"help": "of the LoRA updates"})
    alpha: int = field(default=256, metadata={"help": "updates are scaled by alpha / rank"})
    dropout: float = field(default=0.05, metadata={"help": "in the updates"})
    projector: str = field(default="full", metadata={"help": "full, lora or frozen"})
    projector_rate: float = field(default=2e-5, metadata={"help": "learning rate of the projector"})
    max_length: int = field(
        default=2048, metadata={"help": "most tokens, before the reduction; Video-LLaVA: 3072"}
    )
    frames: int = field(default=8, metadata={"help": "of each clip, evenly spaced"})
    on_problem: str = field(default="stop", metadata={"help": "bad records: stop, or skip"})
    conversation: Literal["template", "vicuna_v1"] = field(
        default="template", metadata={"help": "vicuna_v1: LLaVA-1.5's words in front"}
    )
    do_pad: bool = field(default=True, metadata={"help": "pad pictures to squares, else crop"})


def train(arguments: list[str]) -> None:
    """Tune a model on an instruction file; started again, go on from the last checkpoint."""
    # First, since it names what is missing.
    from prumerge.experiments.finetuning.tuning import Lora, most_slots, tune  # isort: split
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser((TrainOptions, TrainingArguments), prog="... train")
    parser.set_defaults(learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=0.03)
    parser.set_defaults(num_train_epochs=1, save_steps=200, save_total_limit=2)
    parser.set_defaults(logging_steps=10, logging_first_step=True)
    options, training = parser.parse_args_into_dataclasses(arguments)

    from prumerge.experiments.evaluation.answering import VICUNA_V1
    from prumerge.experiments.finetuning.data import InstructionFile
    from prumerge.experiments.finetuning.samples import to_sample
    from prumerge.methods import resolve
    from prumerge.models.videos import load_clips, open_model

    lora = Lora(options.rank, options.alpha, options.dropout, options.projector,
                training.learning_rate, options.projector_rate)  # fmt: skip
    method = resolve(**named_values(options.reduce))
    dtype = "bfloat16" if training.bf16 else "float32"
    model, processor = open_model(options.model, "cpu", dtype)
    limits = {"max_length": options.max_length, "do_pad": options.do_pad}
    limits["preface"] = VICUNA_V1 if options.conversation == "vicuna_v1" else ""
    limits["clips"] = load_clips(options.model, model.config)
    frames = options.frames if limits["clips"] else None  # else to_sample refuses clips
    most = {"video": most_slots(model, processor, frames), "image": most_slots(model, processor)}
    examples = InstructionFile(
        options.data, options.images, options.on_problem,
        lambda record: to_sample(processor, record, None, most.get(record.kind, 0), **limits),
        options.frames,
    )  # fmt: skip
    _, log = tune(model, processor, examples, training, lora, method, **limits)
    if training.process_index == 0:
        losses = [row["loss"] for row in log if "loss" in row]
        print(f"{len(examples)} records, {len(examples.problems)} left out")
        steps = max((row["step"] for row in log), default=0)
        first_last = f", loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last" if losses else ""
        print(f"{steps} steps{first_last}")
        print(f"adapter in {training.output_dir}")


def arms(arguments: list[str]) -> None:
    """Run the arms and write their rows."""
    from prumerge.experiments.finetuning.arms import ROWS, Plan, run_arms, write_rows

    parser = argparse.ArgumentParser(prog="... arms")
    parser.add_argument("--model", default=Plan.model)
    for name in ("budget", "steps", "long_steps", "batch_size", "turns", "per_family"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Plan, name))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(Plan.seeds))
    parser.add_argument("--rows", type=Path, help="folder of the tables; see above")
    parsed = parser.parse_args(arguments)
    rows, chosen = rows_place(parser, parsed, ROWS), vars(parsed)
    chosen.pop("rows")
    runs, answers = run_arms(Plan(**chosen | {"seeds": tuple(chosen["seeds"])}))
    write_rows({"runs": runs, "answers": answers}, rows)


def cost(arguments: list[str]) -> None:
    """Measure the cost and write the table."""
    from prumerge.experiments.finetuning.arms import ROWS, measure_costs, write_rows

    parser = argparse.ArgumentParser(prog="... cost")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=int, default=32)
    for name, default in (("batch-size", 8), ("steps", 5), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=Path, help="folder of the table; see above")
    parsed = parser.parse_args(arguments)
    rows, chosen = rows_place(parser, parsed, ROWS), vars(parsed)
    budget, _ = chosen.pop("budget"), chosen.pop("rows")
    table = measure_costs(budgets=(None, budget), **chosen)
    write_rows({"cost": table}, rows)
    print(table[["visual_tokens", "step_ms", "samples_per_s", "peak_mib"]].round(1).to_string())


def scenes(arguments: list[str]) -> None:
    """Write drawn scenes as instruction data."""
    from prumerge.experiments.finetuning.data import SceneInstructions, write_scenes

    parser = argparse.ArgumentParser(prog="... scenes")
    parser.add_argument("--folder", type=Path, required=True)
    for name, default in (("count", 100), ("turns", 4), ("grid", 24), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lines", action="store_true", help="JSON lines instead of an array")
    chosen = vars(parser.parse_args(arguments))
    folder, lines = chosen.pop("folder"), chosen.pop("lines")
    print(write_scenes(folder, SceneInstructions(**chosen), lines))


def convert(arguments: list[str]) -> None:
    """Convert a LoRA in LLaVA's own format."""
    from prumerge.models.adapters import convert_adapter, convert_base

    parser = argparse.ArgumentParser(prog="... convert")
    parser.add_argument("--adapter", required=True, help="folder or hub id, safetensors inside")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--language-model", help="folder or hub id the LoRA was trained on")
    parser.add_argument("--model", default="llava-hf/llava-1.5-7b-hf", help="gives the rest")
    chosen = parser.parse_args(arguments)
    print(convert_adapter(chosen.adapter, chosen.output / "adapter"))
    if chosen.language_model:
        print(convert_base(chosen.model, chosen.language_model, chosen.output / "base"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 2 for an unknown one, 1 when something given cannot be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in WORDS:
        print(__doc__, file=sys.stdout if arguments in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        globals()[arguments[0]](arguments[1:])
    except ValueError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with needs("notebooks", "train"), process_group_ended():
        sys.exit(main())
