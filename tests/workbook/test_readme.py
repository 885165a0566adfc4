"""Numbers in the README's tables are those of committed rows, links lead somewhere."""

import re
import tomllib

import pandas as pd
import pytest
import torch
import yaml

from prumerge.paths import MINI, ROOT
from prumerge.workbook import readme as results
from prumerge.workbook.readme import TABLES, main, render

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- rows: \S+ -->.*?<!-- end of rows -->", re.DOTALL)
RESULT = re.compile(r"^\|.*\d (?:%|ms|s|GiB|GB|MB|times)(?: |\b).*$", re.MULTILINE)


def blocks(heading):
    """Return the Python blocks of a section."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_three_lines_run_after_what_comes_before():
    after, before = blocks("Three lines")
    names = {}
    exec(before, names)
    exec(after, names)
    sent = names["inputs"]["input_ids"].shape[1]
    assert names["output"].shape[1] > sent
    assert f"picture sent: {names['reducer'].kept}\n" in after
    names["reducer"].detach()


def test_pictures_in_tiles_and_videos_go_in_as_shown():
    _, before = blocks("Three lines")
    tiles, _, generic = blocks("Any vision-language model")
    names = {}
    exec(before, names)
    exec(tiles, names)
    reducer = names["reducer"]
    assert [sum(own) for own in reducer.kept_by_tile] == reducer.kept == [160, 160]
    assert all(len(own) > 1 for own in reducer.kept_by_tile)
    reducer.detach()
    with pytest.raises(ValueError, match="attach needs a model of a family it knows"):
        exec(generic, names | {"model": torch.nn.Linear(1, 1)})


def test_the_method_shown_is_the_one_that_the_tests_try():
    (shown,) = blocks("Add a method")
    code = (ROOT / "tests/fixtures/every_ninth.py").read_text(encoding="utf-8")
    assert code.endswith(f"\n{shown}")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "notebooks/README.md"])
def test_links_lead_to_files(name):
    document = ROOT / name
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_citation_names_paper_and_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["title"].startswith("LLaVA-PruMerge") and paper["url"] in README


def test_tables_are_what_the_rows_give_today():
    assert render(README) == README, "the rows have changed: make readme"


def test_every_table_is_in_the_readme():
    assert set(re.findall(r"<!-- rows: (\S+) -->", README)) == set(TABLES)


def test_no_table_holds_results_that_no_rows_give():
    """A line of a table with a number and its unit stands between markers, or nowhere."""
    assert RESULT.findall(README)
    assert RESULT.findall(BLOCK.sub("", README)) == []


def test_a_changed_digit_is_noticed_and_mended(tmp_path, capsys):
    block = BLOCK.search(README)[0]
    at = re.compile(r"\d(?= ?%)").search(block).start()
    copy = tmp_path / "README.md"
    copy.write_text(f"{block[:at]}{(int(block[at]) + 1) % 10}{block[at + 1 :]}", encoding="utf-8")
    assert main(copy) == 0
    assert copy.read_text(encoding="utf-8") == block
    assert "changed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [copy]


def test_mini_llavas_table_rounds_its_scores():
    scores = pd.read_csv(MINI / "scores.csv")
    lines = results.mini_scores()[2:]
    assert len(lines) == len(scores)
    for line, row in zip(lines, scores.itertuples(), strict=True):
        family, correct, constant = (cell.strip() for cell in line.strip("|").split("|"))
        assert family == row.family
        assert abs(int(correct.rstrip(" %")) - 100 * row.correct) <= 0.5
        assert abs(int(constant.rstrip(" %")) - 100 * row.best_constant) <= 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!-- rows: mini-score -->\n<!-- end of rows -->", "mini-scores"),
        ("<!-- rows: mini-scores -->\n", "no partner"),
    ],
)
def test_a_marker_that_leads_nowhere_is_refused(text, told, tmp_path, capsys):
    copy = tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    assert main(copy) == 1
    assert told in capsys.readouterr().err
    assert copy.read_text(encoding="utf-8") == text
