"""What is here and what it can do: ``python -m prumerge doctor``, ``methods`` or ``paths``."""

import argparse
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence

import torch

import prumerge
from prumerge import paths, settings
from prumerge.models import checks

COMMANDS = {
    "doctor": "what is installed, what is missing, and what a GPU run would need",
    "methods": "the ways to reduce visual tokens, one line each",
    "paths": "the workbook's folders",
}
_EXTRAS = ("notebooks", "test", "sweep", "train", "eval", "browser")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def doctor() -> Iterator[str]:
    """Yield a line about each thing that a run may need, and what to do where it is missing."""
    yield f"python        {sys.version.split()[0]}"
    for name in ("prumerge", "torch", "transformers"):
        yield f"{name:<13} {_version(name) or 'missing: pip install prumerge'}"
    for problem in checks.problems():
        yield f"problem       {problem}"
    for extra in _EXTRAS:
        missing = [name for name in _needed(extra) if _version(name) is None]
        found = f"lacks {', '.join(missing)}: pip install 'prumerge[{extra}]'"
        yield f"extra {extra:<10} {found if missing else 'complete'}"
    mini = (paths.MINI / "model.safetensors").exists()
    yield f"mini-LLaVA    {paths.MINI if mini else 'not here: it comes with the repository'}"
    yield from _gpu()


def _gpu() -> Iterator[str]:
    """Say what there is for LLaVA-1.5, and what it would take."""
    cards = range(torch.cuda.device_count())
    for number in cards:
        card = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}        {card.name}, {card.total_memory / 2**30:.0f} GiB"
    if not cards:
        yield "cuda          no device: the mini-LLaVA runs on the CPU, LLaVA-1.5 wants a GPU"
    yield from _memory()
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    hub = "nothing is fetched (HF_HUB_OFFLINE)" if offline else "models may be fetched"
    free = shutil.disk_usage(os.path.expanduser("~")).free / 2**30
    yield f"hub           {hub}, {free:.0f} GiB of disk are free"
    yield (
        "before a run  python -m prumerge.evaluation pretrained=llava-hf/llava-1.5-7b-hf "
        "device=cuda --tasks real --preflight"
    )


def _memory() -> Iterator[str]:
    """Say how much memory LLaVA-1.5 takes; the estimate needs pandas, an extra."""
    try:
        from prumerge.roofline import estimate_memory
    except ImportError:
        yield "LLaVA-1.5     how much memory it takes: pip install 'prumerge[notebooks]'"
        return
    for model in ("7b", "13b"):
        needed = estimate_memory(model, 640)["footprint_bytes"].item() / 2**30
        yield f"LLaVA-1.5-{model:<4}about {needed:.0f} GiB of GPU memory in FP16 for one prompt"


def methods() -> Iterator[str]:
    """Yield each registered method with a line of its docstring, or preset, and what it needs."""
    told = dict(re.findall(r"^(\S+)  +(\S.*)$", settings.__doc__, re.MULTILINE))
    for name in prumerge.names():
        method = prumerge.resolve(name)
        said = told.get(name) or method.function.__doc__ or "no docstring"
        needs = f"  [{'; '.join(method.needs)}]" if method.needs else ""
        yield f"{name:<15} {said.strip().splitlines()[0]}{needs}"


def folders() -> Iterator[str]:
    """Yield each folder of the workbook, and whether it is there."""
    for name in ("ROOT", "NOTEBOOKS", "FIGURES", "DATA", "RESULTS", "RUNS", "MINI"):
        folder = getattr(paths, name)
        yield f"{name.lower():<10} {folder}{'' if folder.exists() else '  (not there)'}"


def _needed(extra: str) -> list[str]:
    """List the packages that an extra of the installed prumerge asks for."""
    try:
        asked = importlib.metadata.requires("prumerge") or []
    except importlib.metadata.PackageNotFoundError:
        return ["prumerge"]
    return [_NAME.match(line)[0] for line in asked if re.search(rf"extra == .{extra}\b", line)]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a command yields; 1 when ``doctor`` found a problem, else 0."""
    parser = argparse.ArgumentParser(prog="python -m prumerge", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, told in COMMANDS.items():
        commands.add_parser(name, help=told, description=told)
    command = parser.parse_args(arguments).command
    for line in {"doctor": doctor, "methods": methods, "paths": folders}[command]():
        print(line)
    return int(command == "doctor" and bool(checks.problems()))


if __name__ == "__main__":
    sys.exit(main())
