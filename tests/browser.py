"""How do tests look at a page? In Debian's Chromium, headless, driven by playwright, which brings no browser of its own."""

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


def program() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def why_not() -> str | None:
    """Why nothing can be looked at here, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "a page is looked at by playwright: pip install -r requirements-dev.txt"
    if program() is None:
        return "a page is looked at in Chromium: apt-get install chromium"
    return None


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser. Skips the test where there is none."""
    if reason := why_not():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to sandbox the superuser's pages
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Looked:
    """A page that was opened. `said`: errors and warnings of its console, and errors of its scripts; `asked`: addresses that it
    asked for, itself left out."""

    def __init__(self, browser, path: Path, *, scheme: str = "light", size: dict[str, int] = WIDE):
        self.page = browser.new_page(viewport=size, color_scheme=scheme)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        address = path.resolve().as_uri()
        self.page.on("request", lambda request: self.asked.append(request.url) if request.url != address else None)
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto(address)

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
