"""The report in a browser without network, as wide as a phone and as a screen."""

import pytest
from running_lab import SHOTS

from prumerge.paths import NOTEBOOKS
from prumerge.workbook.report import write_site

PAGES = ("index", "pictures", "02_iqr_selection", "07_cost_model", "explorer", "GLOSSARY")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    notebooks = sorted(p for p in NOTEBOOKS.glob("*.ipynb") if len(p.suffixes) == 1)
    return write_site(notebooks, tmp_path_factory.mktemp("built") / "report").parent


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_need_no_network(width, site, chromium):
    page = chromium.new_page(viewport={"width": width, "height": 900})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for name in PAGES:
        page.goto(f"{(site / name).as_uri()}.html", timeout=30_000)
        wide, window = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert wide <= window, f"{name} is {wide} pixels wide, the window {window}"
        page.screenshot(path=SHOTS / f"report-{name}-{width}.png")
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    page.close()


def test_the_search_leads_to_a_section(site, chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto((site / "index.html").as_uri(), timeout=30_000)
    page.fill("#search input", "fence separates")
    page.screenshot(path=SHOTS / "report-search.png")
    page.click("#found a >> nth=0", timeout=5_000)
    assert "02_iqr_selection.html#" in page.url
    page.fill("#search input", "nosuchword")
    assert page.inner_text("#found") == "nothing found"
    page.fill("#search input", "")
    assert page.locator("#found").is_hidden()
    page.close()
