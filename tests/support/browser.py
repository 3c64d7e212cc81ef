"""The web page in a real browser: headless Chromium, and what it asks for and complains of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

_OPTIONS = (
    "--no-sandbox",  # containers seldom allow one
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # no look-ups
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_SOON_MS = 60_000  # after which something hangs
_REFUSED = "Failed to load resource"  # Chromium's complaint of each status from 400 on


@dataclass
class Visit:
    """A page, with all that it requested (method and path) and what went wrong in it."""

    page: Page
    requests: list[tuple[str, str]] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def count(self, path: str) -> int:
        """How often a path was requested."""
        return sum(path == asked for _, asked in self.requests)

    def add(self, *files: Path) -> None:
        """Choose pictures, and wait until each has tags or an error."""
        before = self.page.locator("#pictures .card").count()
        self.page.set_input_files("#files", [str(file) for file in files])
        self.page.wait_for_function(
            "n => document.querySelectorAll('#pictures .card').length === n",
            arg=before + len(files),
        )
        self.settle()

    def settle(self) -> None:
        """Wait until no picture waits for its features or its first tags."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('#pictures .card')].every(card =>"
            " !card.classList.contains('waiting') &&"
            " (!card.querySelector('.error').hidden || card.querySelector('.tag, .note:not(:empty)')))"
        )

    def write(self, words: str) -> None:
        """Put words into the box, and wait until the pictures were matched with them."""
        self.page.fill("#labels", words)
        self.matched()

    def matched(self) -> None:
        """Wait for the answer to the last edit."""
        self.page.wait_for_selector("#results[aria-busy='false']")

    def tags(self, card: int = 0) -> dict[str, str]:
        """A picture's labels with their scores, as they are shown."""
        rows = self.page.locator("#pictures .card").nth(card).locator(".tag")
        return dict(text.split("\n") for text in rows.all_inner_texts())


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield the browser, with a camera that shows a test picture."""
    expect.set_options(timeout=_SOON_MS)  # a camera alone takes seconds where cores are busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """Yield the page at an address, in a window of its own."""
    window = browser.new_context(**context)
    page = window.new_page()
    page.set_default_timeout(_SOON_MS)
    visited = Visit(page)

    def requested(request: Any) -> None:
        if request.url.startswith("http"):
            visited.requests.append((request.method, _path(request.url)))
            visited.hosts.add(urlsplit(request.url).netloc)

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(_REFUSED):
            visited.problems.append(message.text)

    page.on("request", requested)
    page.on("response", lambda response: visited.statuses.append(response.status))
    page.on("console", said)
    page.on("pageerror", lambda error: visited.problems.append(str(error)))
    try:
        page.goto(url)
        yield visited
    finally:
        window.close()


def _path(url: str) -> str:
    return urlsplit(url).path
