"""Modules that need lmms-eval are left alone where the extra `eval` is not installed."""

import gc
import os
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter

gc.set_threshold(50_000)  # at 700, a sixth of collecting is looking for garbage

if "PYTEST_XDIST_WORKER" in os.environ:  # it collects every test, so all of this is needed
    # What a module imports under jaxtyping's hook is compiled anew, all of torch included; what is
    # there before comes from its cache.
    for _name in ("seaborn", "transformers.models.llava.modeling_llava", "transformers.trainer"):
        import_module(_name)

_NEED_LMMS_EVAL = "comparison harness preflight results scoring tasks __main__".split()
collect_ignore = (
    []
    if find_spec("lmms_eval")
    else [f"prumerge/experiments/evaluation/{name}.py" for name in _NEED_LMMS_EVAL]
)


# Called for each field of settings, operation within a block, module of a tower, layer of a model:
# half of all checked calls, of arguments that have no shapes.
_NO_SHAPES = {
    "settings": "check _number _whole",
    "scores": "InFloat32.__torch_function__",
    "tower": "_only _check_held _needed _attention_of _check_block _patch_layer _holds_patches",
    "models.caches": "given cache_in",
    "models.stages": "_published Dropping._reads Dropping.starts",
}


_LONG = "test_notebooks test_gpu test_sweep_run test_finetuning_runs test_report test_setup".split()


def pytest_collection_modifyitems(items):
    """Begin with files of a few long tests: the last ones should leave no process alone at work."""
    items.sort(key=lambda item: item.path.suffix != ".ipynb" and item.path.stem not in _LONG)


def pytest_collection_finish():
    """Look for garbage no more in what stays to the end: modules and tests."""
    for module, names in _NO_SHAPES.items():
        for name in names.split():
            attrgetter(name)(import_module(f"prumerge.{module}")).__no_type_check__ = True
    gc.freeze()
    gc.set_threshold(700)


def pytest_addoption(parser):
    """Let a test that starts several processes be repeated: an end may fail now and then."""
    parser.addoption("--launches", type=int, default=1, help="times to launch several processes")
