"""A notebook, or a document beside it -> its page, pictures and searchable text.

nbconvert renders; what it leaves to scripts from elsewhere is done here: formulas become MathML,
which browsers draw themselves, pictures become files with alternative texts, and links lead to
pages of the site.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from traitlets.config import Config

from prumerge.workbook.runs import drop_widgets

DESCRIPTION = re.compile(r"^\*Picture:\* *(.+?)(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_MARKS = re.compile(r"[*`]|\*\*")
_PROSE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)  # code, which holds no formulas
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\d$])", re.DOTALL)
_CONFIG = Config(
    HTMLExporter={
        "template_name": "basic",
        "exclude_input_prompt": True,
        "exclude_output_prompt": True,
        "preprocessors": ["nbconvert.preprocessors.ExtractOutputPreprocessor"],
    },
    ExtractOutputPreprocessor={
        "output_filename_template": "{unique_key}-{cell_index}-{index}{extension}"
    },
)


@dataclass(frozen=True)
class Picture:
    """A picture of a notebook: its file, what it shows in words, and the claim it stands under."""

    file: str
    words: str
    claim: str
    anchor: str


@dataclass(frozen=True)
class Section:
    """A heading, its anchor on the page, and the text below it up to the next one."""

    heading: str
    anchor: str
    text: str


@dataclass(frozen=True)
class Page:
    """A notebook ready for the site; ``question`` and ``answer`` stand in its title cell.

    A Markdown document is a page as well; it has neither of the two.
    """

    name: str
    title: str
    question: str
    answer: str
    body: str  # its cells as HTML
    pictures: list[Picture]
    sections: list[Section]  # for the search
    files: dict[str, bytes] = field(repr=False)  # contents of the pictures by name


def read_page(source: Path, names: Collection[str] = ()) -> Page:
    """Render an executed notebook or a Markdown document (``.md``).

    Links to ``names`` lead to pages of the site; those to other files become text.
    """
    name = source.stem
    document = _read(source)
    drop_widgets(document)
    _describe_pictures(document)
    first = document.cells[0].source
    for cell in document.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas_to_mathml(cell.source)
    body, resources = HTMLExporter(config=_CONFIG).from_notebook_node(
        document, {"unique_key": name, "output_files_dir": "pictures"}
    )
    soup = BeautifulSoup(body, "html.parser")
    mend_links(soup, {*names, name})
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "wide", "tabindex": "0"}))
    sections, pictures = _walk(soup)
    title = sections[0].heading if sections else name
    said = (_paragraph(first, word) for word in ("Question", "Answer"))
    return Page(name, title, *said, str(soup), pictures, sections, dict(resources["outputs"]))


def _read(source: Path) -> NotebookNode:
    """Return a notebook; a document becomes one of a single cell, so that both look alike."""
    if source.suffix == ".md":
        return new_notebook(cells=[new_markdown_cell(source.read_text(encoding="utf-8"))])
    return nbformat.read(source, as_version=4)


def _describe_pictures(document: NotebookNode) -> None:
    """Give each picture the words above it as alternative text."""
    words = ""
    for cell in document.cells:
        if cell.cell_type == "markdown":
            if described := DESCRIPTION.findall(cell.source):
                words = _plain(described[-1])
            continue
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata.setdefault("image/png", {})["alt"] = words or "no description"


def _paragraph(source: str, word: str) -> str:
    """Return the paragraph of the title cell that starts with a bold word."""
    found = re.search(rf"\*\*{word}\.?\*\*[\s·]*(.+?)(?=\n\s*\n|\n\*\*|\Z)", source, re.DOTALL)
    return _plain(found[1]) if found else ""


def _plain(markdown: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)
    return " ".join(_MARKS.sub("", text).split())


def mend_links(soup: BeautifulSoup, names: Collection[str]) -> None:
    """Let links lead to the pages of ``names``, and leave only the words of those to files."""
    for link in soup.find_all("a", href=True):
        target, mark, anchor = link["href"].partition("#")
        path = Path(target)
        if not target or re.match(r"[a-z]+:", target):
            continue
        if path.suffix in (".ipynb", ".md") and path.stem in names:
            link["href"] = f"{path.stem}.html{mark}{anchor}"
        else:  # a file of the repository, which the site does not hold
            link.unwrap()


def _walk(soup: BeautifulSoup) -> tuple[list[Section], list[Picture]]:
    """Collect headings with the text below them, and the pictures under each."""
    sections, pictures = [], []
    heading, anchor, texts = "", "", []

    def close():
        if heading:
            sections.append(Section(heading, anchor, " ".join(" ".join(texts).split())))

    for cell in soup.find_all("div", class_="cell", recursive=False):
        for part in cell.find_all(["h1", "h2", "h3", "p", "li", "pre", "td", "th", "img"]):
            if part.name in ("h1", "h2", "h3"):
                close()
                heading, anchor, texts = _heading(part), part.get("id", ""), []
            elif part.name == "img":
                part["loading"] = "lazy"
                pictures.append(Picture(part["src"], part.get("alt", ""), heading, anchor))
            else:
                texts.append(part.get_text(" "))
    close()
    return sections, pictures


def _heading(part: Tag) -> str:
    return part.get_text().removesuffix("¶").strip()


def formulas_to_mathml(text: str) -> str:
    """Replace ``$...$`` and ``$$...$$`` in Markdown by MathML, code left alone.

    Example:
        >>> formulas_to_mathml("`$x$` is $x$")[:20]
        '`$x$` is <math xmlns'
    """
    parts = _PROSE.split(text)
    parts[::2] = [_FORMULA.sub(_mathml, part) for part in parts[::2]]
    return "".join(parts)


def _mathml(found: re.Match) -> str:
    latex, display = found[1] or found[2], "block" if found[1] else "inline"
    try:
        return convert(latex.strip(), display=display)
    except Exception as error:  # the converter has a class of its own for each mistake
        raise ValueError(f"no formula that MathML can show: {found[0]} ({error})") from error
