"""The report: every link inside it leads somewhere, and nothing of it comes from elsewhere."""

import json
import re
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from prumerge.paths import NOTEBOOKS
from prumerge.workbook.report import read_page, write_site
from prumerge.workbook.report.__main__ import main
from prumerge.workbook.report.pages import formulas_to_mathml

FOUND = sorted(p for p in NOTEBOOKS.glob("*.ipynb") if len(p.suffixes) == 1)
WITH_ADDRESS = [("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of all committed notebooks: its folder, and its pages as trees."""
    folder = tmp_path_factory.mktemp("built") / "report"
    write_site(FOUND, folder)
    pages = {
        path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in folder.glob("*.html")
    }
    return folder, pages


def addresses(page):
    for tag, attribute in WITH_ADDRESS:
        for part in page.find_all(tag, attrs={attribute: True}):
            yield tag, part[attribute]


def test_there_is_a_page_for_every_notebook(site):
    others = {"index.html", "pictures.html", "GLOSSARY.html"}
    assert set(site[1]) == others | {f"{path.stem}.html" for path in FOUND}


def test_the_glossary_is_one_click_from_every_page(site):
    _, pages = site
    for path in FOUND:
        main = pages[f"{path.stem}.html"].main
        assert main.find("a", href="GLOSSARY.html", string="glossary"), path.stem
    assert all(page.header.find("a", href="GLOSSARY.html") for page in pages.values())
    assert pages["index.html"].main.find("a", href="GLOSSARY.html")
    words = [cell.get_text() for cell in pages["GLOSSARY.html"].main.select("td:first-child")]
    source = (NOTEBOOKS / "GLOSSARY.md").read_text(encoding="utf-8")
    assert len(words) == source.count("\n| ") - 2 * source.count("\n| word ")
    assert {"class token", "prefill", "KV cache", "interquartile range"} <= set(words)


def test_every_internal_link_leads_somewhere(site):
    folder, pages = site
    tried = 0
    for name, page in pages.items():
        for _, address in addresses(page):
            if re.match("https?:|data:", address):
                continue
            target, _, anchor = address.partition("#")
            target, tried = unquote(target) or name, tried + 1
            assert (folder / target).is_file(), f"{name} leads to {address}"
            if anchor:  # browsers look for the words as they stand, then for what they mean
                assert pages[target].find(id=[anchor, unquote(anchor)]), f"{name}: {address}"
    assert tried > 100


def test_nothing_is_fetched_from_elsewhere(site):
    folder, pages = site
    for name, page in pages.items():
        fetched = [a for tag, a in addresses(page) if tag != "a" and re.match("(https?:)?//", a)]
        assert fetched == [], name
        assert [part.name for part in page.find_all(["iframe", "object", "embed"])] == []
    own = (folder / "site.css").read_text() + (folder / "search.js").read_text().split("\n", 1)[1]
    assert not re.search(r"https?://|@import|fetch\(|XMLHttpRequest", own)


def test_every_picture_has_words_and_stands_in_the_gallery(site):
    _, pages = site
    shown = pages["pictures.html"].find_all("img")
    assert len(shown) >= len(FOUND)
    for picture in shown:
        assert len(picture["alt"].split()) >= 8, picture["src"]
    for path in FOUND:
        files = {picture["src"] for picture in pages[f"{path.stem}.html"].find_all("img")}
        assert files <= {picture["src"] for picture in shown}


def test_pages_suit_a_phone_and_a_screen_reader(site):
    for name, page in site[1].items():
        assert page.html["lang"] == "en"
        assert "width=device-width" in page.find("meta", attrs={"name": "viewport"})["content"]
        assert len(page.find_all("h1")) == 1, name
        assert all(table.parent["class"] == ["wide"] for table in page.find_all("table")), name


def test_the_start_page_tells_every_question_and_answer(site):
    cards = site[1]["index.html"].find_all("section", class_="card")
    assert len(cards) == len(FOUND)
    for card in cards:
        question, answer = (p.get_text() for p in card.find_all("p"))
        assert len(question) > 20 and len(answer) > 30, card.h3.get_text()


def test_formulas_are_drawn_by_the_browser(site):
    page = site[1]["02_iqr_selection.html"]
    assert page.find("math", display="block") is not None
    assert "$Q_1$" not in page.get_text()


def test_the_search_knows_every_section(site):
    folder, pages = site
    line = (folder / "search.js").read_text(encoding="utf-8").split("\n", 1)[0]
    rows = json.loads(
        line.removeprefix("const SECTIONS = ").removesuffix(";").replace("<\\/", "</")
    )
    names = [*(path.stem for path in FOUND), "GLOSSARY"]
    headings = sum(len(pages[f"{name}.html"].find_all(["h1", "h2", "h3"])) for name in names)
    assert len(rows) == headings
    assert any(row[0] == "02_iqr_selection" and "whisker" in row[4] for row in rows)
    assert any(row[0] == "GLOSSARY" and "Wilson interval" in row[4] for row in rows)
    assert all(pages[f"{row[0]}.html"].find(id=row[2]) for row in rows)


def write(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def test_links_to_files_of_the_repository_become_text(tmp_path):
    text = "# A\n\n[b](b.ipynb#x) [lost](c.ipynb) [module](../prumerge/a.py) [web](https://a.org)"
    page = read_page(write(tmp_path / "a.ipynb", new_markdown_cell(text)), ["b"])
    links = [a["href"] for a in BeautifulSoup(page.body, "html.parser").find_all("a")]
    assert [link for link in links if not link.startswith("#")] == ["b.html#x", "https://a.org"]
    assert "lost module" in BeautifulSoup(page.body, "html.parser").get_text()


def test_a_widget_leaves_its_picture(tmp_path):
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "widget"}
    output = new_output("display_data", data | {"image/png": "iVBORw0KGgo="})
    words = new_markdown_cell("# A\n\n*Picture:* nothing at\nall, `really`.\n\nMore.")
    cell = new_code_cell("1", outputs=[output])
    page = read_page(write(tmp_path / "a.ipynb", words, cell))
    assert page.files == {"pictures/a-1-0.png": b"\x89PNG\r\n\x1a\n"}
    assert [picture.words for picture in page.pictures] == ["nothing at all, really."]
    assert "model_id" not in page.body


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("a $x$ and $y_1$", 2),
        ("$$\nx + y\n$$", 1),
        ("`$x$` and ```\n$x$\n```", 0),
        ("5$ and 6$, $ 7 $", 0),
    ],
)
def test_formulas_and_nothing_else_become_mathml(text, formulas):
    assert formulas_to_mathml(text).count("<math") == formulas


def test_what_cannot_be_shown_is_told_in_one_line(tmp_path, capsys):
    lost = tmp_path / "lost.ipynb"
    assert main([str(lost), "--to", str(tmp_path / "site")]) == 1
    wrong = write(tmp_path / "a.ipynb", new_markdown_cell("# A\n\n$x^$"))
    assert main([str(wrong), "--to", str(tmp_path / "site")]) == 1
    told = capsys.readouterr().err
    assert "lost.ipynb" in told and "no formula" in told
    assert told.count("\n") == 2
    assert not (tmp_path / "site").exists()


def test_a_new_report_replaces_the_old_one(tmp_path):
    first = write(tmp_path / "a.ipynb", new_markdown_cell("# A"))
    second = write(tmp_path / "b.ipynb", new_markdown_cell("# B"))
    for notebook in (first, second):
        assert main([str(notebook), "--to", str(tmp_path / "site")]) == 0
    assert (tmp_path / "site/b.html").exists() and not (tmp_path / "site/a.html").exists()
    assert not (tmp_path / "site.partial").exists()
