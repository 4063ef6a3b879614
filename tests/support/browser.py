"""Debian's chromium, driven by Playwright: what a page looks like to somebody who opens it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
ABSENT = "no chromium here (apt-get install chromium): the page was not looked at"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = 1280, 390
"""Pixels."""
PATIENCE_MS = 30_000


@dataclass
class Screen:
    """An open page, and what the browser complained of: console errors, exceptions, requests that
    failed."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the screen."""
        script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(script))


@contextmanager
def running() -> Iterator[Browser]:
    """The browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip(ABSENT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, where: str | Path, width: int = WIDE, scheme: str = "light"
) -> Iterator[Screen]:
    """A page by its URL or file, on a screen of this width; ``scheme``: light or dark."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        has_touch=width <= PHONE,
        is_mobile=width <= PHONE,
    )
    context.set_default_timeout(PATIENCE_MS)
    screen = Screen(context.new_page())
    watch(screen)
    screen.page.goto(where.as_uri() if isinstance(where, Path) else where)
    yield screen
    context.close()


def watch(screen: Screen) -> None:
    page, complaints = screen.page, screen.complaints
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
