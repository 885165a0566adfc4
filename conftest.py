"""Modules that need lmms-eval are left alone where the extra `eval` is not installed."""

from importlib.util import find_spec

_NEED_LMMS_EVAL = "comparison harness preflight results scoring tasks __main__".split()
collect_ignore = (
    []
    if find_spec("lmms_eval")
    else [f"prumerge/experiments/evaluation/{name}.py" for name in _NEED_LMMS_EVAL]
)


def pytest_addoption(parser):
    """Let a test that starts several processes be repeated: an end may fail now and then."""
    parser.addoption("--launches", type=int, default=1, help="times to launch several processes")
