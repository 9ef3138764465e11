"""A page in a real browser: on a phone, in the dark, without a mouse, without a network, with hostile texts."""

import json

import browser
import pytest
import small_run

from mpo_jax.reporting.page import write_page
from mpo_jax.reporting.run_folder import read_run


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One run with texts, four runs side by side, and one whose every text is hostile."""
    folder = tmp_path_factory.mktemp("pages")
    one = small_run.write_run(folder / "one")
    hostile = small_run.write_run(folder / "hostile", text=small_run.HOSTILE)
    rows = json.loads((hostile / "reward_gap.json").read_text())
    rows["after"][1]["name"] = rows["before"][1]["name"] = small_run.HOSTILE
    (hostile / "reward_gap.json").write_text(json.dumps(rows))
    several = [small_run.write_run(folder / f"a-run-with-a-long-name-{i}", after=0.2 * i) for i in range(4)]
    found = {
        "one": [read_run(one, "one", texts=True)],
        "several": [read_run(path, path.name, texts=True) for path in several],
        "hostile": [read_run(hostile, small_run.HOSTILE, texts=True)],
    }
    for name, runs in found.items():
        write_page(folder / f"{name}.html", runs)
    return {name: folder / f"{name}.html" for name in found}


@pytest.mark.parametrize("size", [browser.WIDE, browser.NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "several", "hostile"])
def test_it_fits_and_asks_for_nothing_and_is_silent(chromium, pages, tmp_path, name, scheme, size):
    looked = browser.Looked(chromium, pages[name], scheme=scheme, size=size)
    looked.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    picture = tmp_path / f"{name}-{scheme}-{size['width']}.png"
    looked.page.screenshot(path=str(picture), full_page=True)
    assert picture.stat().st_size > 20_000
    assert looked.said == []
    assert looked.asked == []
    assert looked.overflow() <= 0


def test_the_dark_is_dark(chromium, pages):
    def brightness(scheme: str) -> tuple[int, int]:
        page = browser.Looked(chromium, pages["one"], scheme=scheme).page
        script = "name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
        return page.evaluate(script, "backgroundColor"), page.evaluate(script, "color")

    paper, ink = brightness("light")
    assert paper > 600 > ink
    paper, ink = brightness("dark")
    assert paper < 150 < ink


def test_the_keyboard_reaches_every_fold_and_opens_it(chromium, pages):
    page = browser.Looked(chromium, pages["one"]).page
    folds = page.locator("summary").count()
    assert folds == 3  # answers in two languages, and all settings
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.tagName + ' ' + document.activeElement.textContent.trim()")
        if at.startswith("SUMMARY"):
            reached.add(at)
            page.keyboard.press("Enter")
    assert len(reached) == folds
    assert page.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")


def test_what_has_the_focus_is_seen(chromium, pages):
    page = browser.Looked(chromium, pages["one"]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_tables_name_their_cells_and_drawings_say_what_they_are(chromium, pages):
    page = browser.Looked(chromium, pages["several"]).page
    bare = "[...document.querySelectorAll('table')].filter(one => !one.caption || one.querySelector('th:not([scope])')).length"
    assert page.evaluate(bare) == 0
    assert page.evaluate("[...document.querySelectorAll('[role=img], [role=region]')].every(one => one.ariaLabel)")
    assert page.evaluate("[...document.querySelectorAll('svg')].every(one => one.closest('[role=img], [aria-hidden=true]'))")
    assert page.locator("h1").count() == 1


def test_words_can_be_told_from_the_paper(chromium, pages):
    """WCAG's contrast of at least 4.5, of quiet words too."""
    script = """() => {
      const light = colour => { const [r, g, b] = colour.match(/\\d+/g).map(Number).map(x => x / 255)
          .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b }
      const paper = light(getComputedStyle(document.body).backgroundColor)
      return Math.min(...[...document.querySelectorAll('h1, .quiet, .note, a, .ends, .big')].map(one => {
        const ink = light(getComputedStyle(one).color)
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) }))
    }"""
    for scheme in ("light", "dark"):
        assert browser.Looked(chromium, pages["one"], scheme=scheme).page.evaluate(script) >= 4.5


def test_it_can_be_printed(chromium, pages, tmp_path):
    page = browser.Looked(chromium, pages["one"], scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert len(page.pdf()) > 10_000
