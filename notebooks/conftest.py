"""Rules for checking the committed notebooks with nbval; one elsewhere has no effect here."""

import os

import pytest

collect_ignore_glob = ["*.failed.ipynb", "*.partial.ipynb"]


def pytest_collectstart(collector):
    """Check only under the variables of recording, and compare a drawing by its size alone."""
    if not hasattr(collector, "skip_compare"):  # set by nbval on the notebooks it collects
        return
    if os.environ.get("TQDM_DISABLE") != "1":
        # Bars, thread counts and notices would differ in cells that are right.
        raise pytest.UsageError("checking notebooks needs their variables: source .ci/env.sh")
    collector.skip_compare += ("image/svg+xml",)
