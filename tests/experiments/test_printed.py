"""The printed tables: shaped as the data dictionary says, and complete."""

import csv
import re

import pandas as pd
import pytest

from prumerge.experiments.printed import PAPER, read_printed, reads_as
from prumerge.paths import DATA

FILES = sorted(PAPER.glob("*.csv"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def dictionary() -> dict[str, list[str]]:
    """First column of each table in the data dictionary's section, by its heading."""
    text = (DATA / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## `paper/`.*?(?=^## |\Z)", text, re.M | re.S).group()
    words: dict[str, list[str]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", section, re.M):
        first = [re.split(r" *\| *", line)[1] for line in block.splitlines()]
        words[first[0].strip("`")] = [word.strip("`") for word in first[2:]]
    return words


def test_every_file_is_in_the_dictionary():
    assert {path.name for path in FILES} == set(dictionary()["file"])


@each_file
def test_columns_and_words_are_those_of_the_dictionary(path):
    words = dictionary()
    rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert all(list(row) == words["column"] for row in rows)
    for row in rows:
        assert row["unit"] in words["unit"]
        assert set(row["source"].split()) <= set(words["source"])
        assert row["trust"] in words["trust"]
        assert re.fullmatch(r"\d+(\.\d+)?", row["value"]), row
        assert all(row[name] == row[name].strip() != "" for name in row)
        # Only authors' own pages are publications; the rest is hearsay.
        own = {"page", "fastervlm"} & set(row["source"].split())
        assert bool(own) == (row["trust"] == "primary")


@each_file
def test_no_cell_is_given_twice_and_lines_end_plainly(path):
    table = read_printed(path.stem)
    assert not table.duplicated(["table", "row", "column"]).any()
    assert b"\r" not in path.read_bytes()


@pytest.mark.parametrize(
    ("name", "numbers"),
    {
        "table_1_earlier_versions": 3,  # two POPE scores, one VQAv2
        "table_2_efficiency": 8 * 4,
        "table_3_video": 6 * 8 - 4 + 3,  # four cells are empty, three counts come from the text
        "others_video": 9 * (4 + 1),  # four benchmarks and a count of tokens
        "table_4_sampling": 7 + 7 + 5 + 3 + 4,  # a count of tokens for each of the benchmarks
        "table_5_modules": 3 * 5,
        "table_6_training": 2 * 5,
        "table_7_other_reducers": 6 * 6,
    }.items(),
)
def test_every_printed_number_is_there(name, numbers):
    assert len(read_printed(name)) == numbers


def test_main_results_are_complete_for_all_six_benchmarks():
    table = read_printed("table_1_main_results")
    ours = table[table["row"].str.startswith("LLaVA-1.5")]
    assert (ours.groupby("row").size() == 7).all() and ours["row"].nunique() == 6
    assert set(ours["column"]) == {
        "VQAv2", "ScienceQA", "TextVQA", "POPE", "MME", "MMBench", "visual tokens",
    }  # fmt: skip


def test_digits_stay_as_printed():
    table = read_printed("table_2_efficiency").set_index(["row", "column"])
    cell = table.loc[("7B FP16", "storing activation")]
    assert cell["printed"] == "4.60" and cell["value"] == 4.6


def test_tables_agree_where_they_print_the_same_thing():
    cells = pd.concat(read_printed(path.stem) for path in FILES)
    one, five, seven = (cells[cells["table"] == str(number)] for number in (1, 5, 7))
    for table, row in ((five, "selection and supplement"), (seven, "PruMerge+ (25 percent)")):
        name = "LLaVA-1.5 7B + PruMerge" + "+" * (table is seven)
        there = table[table["row"] == row].set_index("column")["value"].drop(
            "visual tokens", errors="ignore"
        )  # fmt: skip
        here = one[one["row"] == name].set_index("column")["value"]
        assert (here[there.index] == there).all()


def test_unknown_table_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no printed table 'table_9'.*table_2_efficiency"):
        read_printed("table_9")


@pytest.mark.parametrize(
    ("value", "printed", "agrees"),
    [
        (9.3276, "9.3", True),
        (9.3501, "9.3", False),
        (0.2274, "0.28", False),
        (0.2274, "0.23", True),
        (1.781, "1.80", True),  # a filled-up column: only 1.8 was rounded to
        (28.94, "29.0", True),
        (28.4, "29.0", False),
        (40, "40", True),
    ],
)
def test_a_number_reads_as_printed_when_its_digits_do(value, printed, agrees):
    assert reads_as(value, printed) is agrees
