"""Pages -> a folder with start page, pictures, glossary and search that opens from a disk."""

import json
import re
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from bs4 import BeautifulSoup
from jinja2 import DictLoader, Environment
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from prumerge.paths import NOTEBOOKS, ROOT
from prumerge.workbook.report.pages import Page, mend_links, read_page

DOCUMENTS = [NOTEBOOKS / "GLOSSARY.md"]  # that notebooks link; an installed package has none
SHOWN_TEXT = 4000  # characters of a section that the search looks at
_HERE = files("prumerge.workbook.report")


def write_site(notebooks: Sequence[Path], folder: Path) -> Path:
    """Write executed notebooks, in this order, as a static site; return its start page.

    The folder gets its name when complete, in place of one that is there. A formula that cannot be
    read is a ValueError.
    """
    if not notebooks:
        raise ValueError("no notebook was named: there is nothing to report")
    documents = [path for path in DOCUMENTS if path.exists()]
    names = [path.stem for path in (*notebooks, *documents)]
    pages, beside = ([read_page(path, names) for path in paths] for paths in (notebooks, documents))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "pictures").mkdir(parents=True)
    for name, text in _texts(pages, beside).items():
        (partial / name).write_text(text, encoding="utf-8")
    for page in pages:
        for name, content in page.files.items():
            (partial / name).write_bytes(content)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder / "index.html"


def _texts(pages: list[Page], beside: list[Page]) -> dict[str, str]:
    """Return every file of the site that is text, by name; documents stand beside notebooks."""
    templates = Environment(
        loader=DictLoader({name: _own(f"{name}.j2") for name in ("page.html", "start.html")}),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    every = [*pages, *beside]
    around = {"pages": pages, "documents": beside}
    around["intro"] = intro(ROOT / "README.md", [page.name for page in every])
    texts = {
        "site.css": _own("site.css") + HtmlFormatter(style="default").get_style_defs(".highlight"),
        "search.js": f"const SECTIONS = {_index(every)};\n{_own('search.js')}",
        "index.html": templates.get_template("start.html").render(around, gallery=False),
        "pictures.html": templates.get_template("start.html").render(around, gallery=True),
    }
    page_template = templates.get_template("page.html")
    for page in every:
        texts[f"{page.name}.html"] = page_template.render(around, page=page)
    return texts


def intro(readme: Path, names: Sequence[str] = ()) -> str:
    """Return a README's first words as HTML, without its picture; an installed package has none.

    Links lead to the pages of ``names``; those to other files are text.
    """
    if not readme.exists():
        return ""
    text = readme.read_text(encoding="utf-8")
    words = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text.partition("\n## ")[0].partition("\n")[2])
    soup = BeautifulSoup(markdown2html(words), "html.parser")
    mend_links(soup, names)
    return str(soup)


def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _index(pages: list[Page]) -> str:
    """Return what the search looks at: page, title of the page, anchor, heading, text."""
    rows = [
        [page.name, page.title, section.anchor, section.heading, section.text[:SHOWN_TEXT]]
        for page in pages
        for section in page.sections
    ]
    # A script ends at the first "</script", whatever the quotes around it.
    return json.dumps(rows, ensure_ascii=False).replace("</", "<\\/")
