"""The web page in Chromium, as tests use it: opened on a stand-in, sent files, and read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.page_service import Stand, make_stand_in, serve_on_loopback

CHROMIUM = os.environ.get("UNMASK_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
PHONE = {"width": 390, "height": 844}
Page = Any


@contextmanager
def launch_chromium() -> Iterator[Any]:
    """The browser that is installed; a test that finds none is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}; name it in UNMASK_CHROMIUM")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, stand: Stand, **options: Any) -> Iterator[Page]:
    """The page of a stand-in; at the end, no script failed and the policy was kept."""
    faults: list[str] = []
    with serve_on_loopback(make_stand_in(stand)) as address:
        page = browser.new_page(viewport=PHONE, **options)
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.goto(address)
        yield page
        page.close()
    assert faults == []


def send(page: Page, *names: str, size: int = 1000, kind: str = "video/mp4") -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": kind, "buffer": b"x" * size} for name in names])


def read_result(page: Page, name: str) -> str:
    """The text of the result for a name, once it is there; spaces that do not break are spaces."""
    page.locator("#result-title", has_text=name).wait_for()
    return str(page.locator("#result").text_content()).replace("\xa0", " ")
