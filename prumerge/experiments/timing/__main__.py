"""``python -m prumerge.timing``: time every stage of answering, and write rows.

python -m prumerge.timing --batches 1 8 --budgets 576 64
python -m prumerge.timing --model random-7b --device cuda --until-full
python -m prumerge.timing --model random-next-7b --device cuda --budgets 2880 640 320 160
python -m prumerge.timing --model random-video-7b --device cuda --budgets 2048 512 256

Rows join those in data/results/timing if no option is given; else they go to data/runs/timing, or
where --rows says.
"""

import argparse
import sys
from pathlib import Path

from prumerge.experiments.arguments import rows_place
from prumerge.experiments.timing.runs import Grid, time_grid
from prumerge.experiments.timing.stages import load_subject
from prumerge.experiments.timing.tables import answer_times
from prumerge.paths import RESULTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and say where the rows go."""
    usual = Grid()
    parser = argparse.ArgumentParser(prog="python -m prumerge.timing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", default="mini", help="mini, a folder, a hub id, random-7b, random-next-7b ...")
    add("--layers", type=int, help="cut random weights to so many layers")
    add("--device", default="cpu", help="cpu or cuda")
    add("--dtype", help="such as bfloat16; by default float32 on a CPU, bfloat16 elsewhere")
    add("--method", default=usual.method, help="what reduces")
    add("--budgets", type=int, nargs="+", default=usual.budgets, help="visual tokens per picture")
    add("--pictures", type=int, default=usual.pictures, help="in each prompt, 5 as LLaVA-NeXT's")
    add("--batches", type=int, nargs="+", default=usual.batches, help="prompts answered together")
    add("--until-full", action="store_true", help="double the batch until memory runs out")
    add("--new-tokens", type=int, nargs="+", default=usual.new_tokens, help="output lengths")
    add("--attention", nargs="+", default=usual.attention, help="sdpa, eager, flash_attention_2")
    add("--text-tokens", type=int, default=usual.text_tokens, help="text tokens of a prompt")
    add("--repeats", type=int, default=usual.repeats, help="timed calls of each stage")
    add("--most-s", type=float, default=usual.most_s, help="seconds, then no further repeats")
    told = "CSV file; by default data/results/timing/mini-cpu.csv, with any option data/runs/timing"
    add("--rows", type=Path, help=told)
    chosen = parser.parse_args(arguments)
    chosen.folder = rows_place(parser, chosen, RESULTS / "timing")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 1 where a model or an argument does not work here."""
    chosen = parse(arguments)
    lists = ("budgets", "batches", "new_tokens", "attention")
    try:
        grid = Grid(
            method=chosen.method,
            text_tokens=chosen.text_tokens,
            pictures=chosen.pictures,
            repeats=chosen.repeats,
            most_s=chosen.most_s,
            until_full=chosen.until_full,
            **{name: tuple(getattr(chosen, name)) for name in lists},
        )
        subject = load_subject(chosen.model, chosen.device, chosen.dtype, chosen.layers)
        name = f"{Path(subject.name).name.partition('@')[0]}-{chosen.device.partition(':')[0]}.csv"
        path = chosen.rows or chosen.folder / name
        rows = time_grid(subject, grid, path)
    except ValueError as error:
        print(f"timing: {error}", file=sys.stderr)
        return 1
    if len(rows):
        print(answer_times(rows).round(1).to_string())
        print(f"rows: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
