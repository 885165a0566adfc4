"""A new user's first steps in JupyterLab: open, run all cells, move a slider, ask."""

import re
import time
import uuid

from running_lab import SHOTS, wait_for
from small_tower import with_package

OPEN_S, RUN_S, MOVE_S, ASK_S = 90, 240, 30, 120
# What the browser holds of each picture of the explorer, as text.
PICTURES = """async () => Promise.all([...document.querySelectorAll("img.widget-image")].map(
    async (image) => (new Uint8Array(await (await fetch(image.src)).arrayBuffer())).join()))"""


def run_all(lab, page, name, **changes):
    """Open a notebook and run all its cells; leave when the last one has a number."""
    cells = lab.put(name, **changes)
    # A workspace of its own: else the lab opens former notebooks again, in tabs behind this one.
    place = f"lab/workspaces/{uuid.uuid4().hex}/tree/{name}.ipynb"
    page.goto(f"{lab.url}/{place}?token={lab.token}", timeout=1e3 * OPEN_S)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=1e3 * OPEN_S)
    # Run All is lost while the page and the kernel do not know each other.
    wait_for(lambda: lab.kernel_waits(name), OPEN_S, f"the kernel of {name} waits")
    page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=1e3 * OPEN_S)
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-prompt")

    def done():
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0, (
            page.locator('[data-mime-type="application/vnd.jupyter.error"]').first.inner_text()
        )
        # JupyterLab takes cells far out of view off the page: the last one's number counts.
        texts = [text.strip() for text in prompts.all_inner_texts()]
        return f"[{cells}]:" in texts and all(re.fullmatch(r"\[\d+\]:", text) for text in texts)

    try:
        wait_for(done, RUN_S, f"all cells of {name} have run", pause_s=0.5)
    finally:
        page.screenshot(path=SHOTS / f"{name}-run.png")
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0


def open_page(chromium):
    """Return a page and the list of errors that its scripts raise."""
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def test_the_quickstart_runs_and_shows_its_figures(lab, chromium):
    page, errors = open_page(chromium)
    run_all(lab, page, "00_quickstart", per_family=1)  # fewer questions
    page.locator(".jp-RenderedImage img").first.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "00_quickstart.png")
    assert page.locator(".jp-RenderedImage img").count() >= 2
    assert errors == []
    page.close()


def choose(page, name, label):
    """Pick an entry of one of the explorer's lists."""
    found = page.locator(".widget-dropdown", has=page.locator(f"label:text-is('{name}')"))
    found.locator("select").select_option(label=label)


@with_package
def test_the_explorer_opens_on_a_photograph_that_the_pretrained_tower_sees(lab, chromium):
    page, errors = open_page(chromium)
    run_all(lab, page, "explorer", until="look = explorer.look", photograph="'flower'")
    page.wait_for_selector("img.widget-image >> nth=2", timeout=1e3 * MOVE_S)
    counted = page.locator(".widget-html-content", has_text="visual tokens (").first
    assert "flower (CC BY 2.0" in counted.inner_text()
    assert page.locator(".widget-html-content", has_text="tuned for saliency").count() == 1
    assert page.locator("button:text-is('ask')").is_disabled()
    page.screenshot(path=SHOTS / "explorer-photograph.png")
    before = page.evaluate(PICTURES)
    choose(page, "photograph", "temple")
    wait_for(lambda: "temple" in counted.inner_text(), MOVE_S, "the temple is shown")
    wait_for(lambda: page.evaluate(PICTURES)[1] != before[1], MOVE_S, "the map changed", 0.01)
    before = page.evaluate(PICTURES)
    choose(page, "tower", "the model's own")
    wait_for(lambda: page.evaluate(PICTURES)[1] != before[1], MOVE_S, "the map changed", 0.01)
    wait_for(page.locator("button:text-is('ask')").is_enabled, MOVE_S, "one may ask")
    before = page.evaluate(PICTURES)
    choose(page, "order", "raster")
    # A click overtakes a change that the page holds back, and the change then clears the answer.
    wait_for(lambda: page.evaluate(PICTURES)[2] != before[2], MOVE_S, "token 1 is another", 0.01)
    page.click("button:text-is('ask')")
    page.wait_for_selector("td:text-is('all tokens') >> nth=1", timeout=1e3 * ASK_S)
    page.screenshot(path=SHOTS / "explorer-photograph-asked.png")
    assert errors == []
    page.close()


def test_the_explorer_follows_a_slider_and_answers(lab, chromium):
    page, errors = open_page(chromium)
    changes = {"photograph": "''", "tower": '"the model\'s own"'}
    run_all(lab, page, "explorer", until="look = explorer.look", **changes)
    page.wait_for_selector("img.widget-image >> nth=2", timeout=1e3 * MOVE_S)
    before = page.evaluate(PICTURES)
    counted = page.locator(".widget-html-content", has_text="visual tokens (").first
    said = counted.inner_text()
    slider = page.locator(".widget-slider", has=page.locator("label:text-is('budget')"))
    slider.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "explorer-before.png")
    started = time.perf_counter()
    slider.locator(".noUi-handle").press("PageUp")
    wait_for(lambda: page.evaluate(PICTURES)[0] != before[0], MOVE_S, "the picture changed", 0.01)
    print(f"from key to picture: {1e3 * (time.perf_counter() - started):.0f} ms")
    wait_for(lambda: counted.inner_text() != said, MOVE_S, "the count changed")
    page.click("button:text-is('ask')")
    page.wait_for_selector("td:text-is('all tokens') >> nth=1", timeout=1e3 * ASK_S)
    page.screenshot(path=SHOTS / "explorer-after.png")
    page.locator("button:text-is('ask')").scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "explorer-asked.png")
    assert errors == []
    page.close()
