"""Is this environment fit? Each problem is one sentence that says what to do.

Only the standard library is imported here, so that the check can speak where other imports fail.
``python -P prumerge/models/checks.py`` runs it from the shell.
"""

import importlib
import importlib.util
import sys

OLDEST_PYTHON = (3, 11)


def python_problem(version: tuple[int, ...] = sys.version_info[:3]) -> str | None:
    """Say whether the interpreter is too old."""
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return None
    found, needed = (".".join(map(str, parts)) for parts in (version, OLDEST_PYTHON))
    return f"Python {found} is too old: prumerge needs {needed} or newer."


def torchvision_problem() -> str | None:
    """Say whether a torchvision is installed that cannot load beside the torch here.

    transformers imports torchvision wherever it finds one. Where torchvision was built for another
    torch (the usual one beside a CPU build of torch), that breaks the import of every LLaVA class
    with a message that never names the cause. prumerge works without torchvision.
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


def problems() -> list[str]:
    """Collect what is wrong with this environment, a sentence per problem."""
    found = (check() for check in (python_problem, torchvision_problem))
    return [sentence for sentence in found if sentence is not None]


def require_loadable_torchvision() -> None:
    """Stop before transformers trips over a torchvision that cannot load."""
    if (problem := torchvision_problem()) is not None:
        raise ImportError(problem)


if __name__ == "__main__":
    sentences = problems()
    for sentence in sentences:
        print(f"set-up: {sentence}", file=sys.stderr)
    sys.exit(len(sentences) > 0)
