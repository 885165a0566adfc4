"""Optional packages: what is missing is told in one sentence, with the extra that brings it."""

import contextlib
import sys
from collections.abc import Iterator

ALONE = {"lmms_eval": ", then pip install --no-deps lmms-eval"}
"""Packages that no extra brings."""


@contextlib.contextmanager
def needs(*extras: str) -> Iterator[None]:
    """Import, or run, in this block what needs extras of the package.

    Args:
        extras: Names in ``pyproject.toml``, such as ``"notebooks"``.

    Raises:
        ModuleNotFoundError: For a missing package, naming it and the extras.
        SystemExit: Instead of it, where a command of prumerge was called with ``python -m``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "prumerge").partition(".")[0]
        if package == "prumerge":
            raise
        told = f"{package} is missing here: pip install 'prumerge[{','.join(extras)}]'"
        told += ALONE.get(package, "")
        if _called():
            raise SystemExit(f"error: {told}") from error
        raise ModuleNotFoundError(told, name=error.name) from error


def _called() -> bool:
    """Whether this process is ``python -m prumerge...``, whose user wants no traceback."""
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return bool(after) and after[0].startswith("prumerge")
