"""Numbers in the README stand in a committed file, links lead somewhere."""

import re

import pandas as pd

from prumerge.paths import MINI, ROOT

README = (ROOT / "README.md").read_text()


def test_links_lead_to_files():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_mini_llavas_table_is_that_of_its_scores():
    rows = re.findall(r"^\| (\w+) \| (\d+) % \| (\d+) % \|$", README, re.MULTILINE)
    scores = pd.read_csv(MINI / "scores.csv").set_index("family")
    assert [row[0] for row in rows] == list(scores.index)
    for family, correct, constant in rows:
        assert int(correct) == round(100 * scores["correct"][family])
        assert int(constant) == round(100 * scores["best_constant"][family])
