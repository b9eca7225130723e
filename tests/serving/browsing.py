"""Chromium on the server's page, and what a person does there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS: Final = 120_000
"""A limit, not a wait: what is expected is seen as soon as it is there."""


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "tests/conftest.py skips the page's tests where there is none"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, in a browser without history; no script of it may fail and its policy may not be broken."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda message: wrong.append(message.text) if "Security Policy" in message.text else None,
    )
    page.goto(url)
    yield page
    context.close()
    assert wrong == []


def ask(page: Page, question: str) -> None:
    """Type a question and press Enter."""
    page.get_by_role("textbox", name="Question").fill(question)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    """Wait until an answer is shown whole."""
    from playwright.sync_api import expect

    expect(page.get_by_role("table")).to_be_visible(timeout=PATIENCE_MS)


def answer_in(page: Page) -> str:
    return page.get_by_role("region", name="Answer").locator("p").first.inner_text()
