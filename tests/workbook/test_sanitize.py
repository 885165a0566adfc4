"""The file that tells nbval what to overlook: every pair is active, and no number is overlooked."""

import re

import pytest
from nbval.plugin import get_sanitize_patterns

from prumerge.paths import NOTEBOOKS

TEXT = (NOTEBOOKS / "sanitize.cfg").read_text(encoding="utf-8")
PAIRS = get_sanitize_patterns(TEXT)


def sanitised(text):
    for pattern, replacement in PAIRS:
        text = re.sub(pattern, replacement, text)
    return text


def test_nbval_reads_every_pair_in_the_file():
    assert len(PAIRS) == TEXT.count("regex:") == TEXT.count("replace:") > 0
    assert all(replacement.strip() for _, replacement in PAIRS)


def test_every_pair_has_a_use():
    text = "<object at 0x7f3a2b10> took 1.25 s"
    for pattern, _ in PAIRS:
        assert re.search(pattern, text), pattern


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<object at 0x7f3a2b10>", "<object at 0x7f3a2c44>"),
        ("encoding took 1.25 s", "encoding took 31 s"),
        ("training took 2 min", "training took 3 min"),
    ],
)
def test_what_differs_between_runs_is_overlooked(one, other):
    assert sanitised(one) == sanitised(other)


@pytest.mark.parametrize("text", ["576", "0.1234", "1.5e-3", "kept 32 of 576", "prefill_ms 12.5"])
def test_numbers_of_a_result_are_compared(text):
    assert sanitised(text) == text
