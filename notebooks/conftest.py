"""Rules for checking the committed notebooks with nbval; one elsewhere has no effect here."""

import os

import pytest

from prumerge.models.checks import looks_through_tower, tower_problem

collect_ignore_glob = ["*.failed.ipynb", "*.partial.ipynb"]


def pytest_collectstart(collector):
    """Check only under the variables of recording, and compare a drawing by its size alone."""
    if not hasattr(collector, "skip_compare"):  # set by nbval on the notebooks it collects
        return
    if os.environ.get("TQDM_DISABLE") != "1":
        # Bars, thread counts and notices would differ in cells that are right.
        raise pytest.UsageError("checking notebooks needs their variables: source .ci/env.sh")
    collector.skip_compare += ("image/svg+xml",)


def pytest_collection_modifyitems(items):
    """Skip pages of a pretrained tower where it or its photographs are missing."""
    if (problem := tower_problem()) is None:
        return
    pages = {item.path for item in items if item.path.suffix == ".ipynb"}
    pages = {path for path in pages if looks_through_tower(path)}
    for item in items:
        if item.path in pages:
            item.add_marker(pytest.mark.skip(reason=problem))
