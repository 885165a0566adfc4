"""Where and in which precision the benchmarks compute: ``--device cuda --dtype bfloat16``."""

import pytest
import torch

from prumerge.models.loading import find_precision


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="cpu or cuda")
    parser.addoption("--dtype", help="by default float32 on a CPU and bfloat16 elsewhere")


@pytest.fixture
def device(pytestconfig) -> str:
    """Where pictures lie and methods compute."""
    return pytestconfig.getoption("device")


@pytest.fixture
def dtype(pytestconfig, device) -> torch.dtype:
    """Precision of features, keys and the encoder's weights."""
    return find_precision(pytestconfig.getoption("dtype"), device)
