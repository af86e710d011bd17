"""The page in each of its states under the rules of axe-core, and without the colours that it chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.page_client import PHONE, Page, open_page, read_result, send
from tests.page_service import Stand

pytestmark = pytest.mark.browser
DESKTOP = {"width": 1280, "height": 900}
# Besides the default rules: no target is smaller than 24 px.
OPTIONS = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}


@pytest.fixture(name="page")
def fixture_page(browser: Any, stand: Stand) -> Iterator[Page]:
    """Open to axe-core, which the page's policy would keep out; without motion, so that no colour is on its way."""
    with open_page(browser, stand, bypass_csp=True, reduced_motion="reduce") as page:
        page.locator("#model").wait_for()
        yield page


def show_empty(page: Page, stand: Stand) -> None:
    page.locator("#history-none").wait_for()


def show_upload(page: Page, stand: Stand) -> None:
    page.route("**/v1/videos?name=*", lambda route: None)  # never answered
    send(page, "first.mp4", "second.mp4")
    page.get_by_text("Waits to be sent.").wait_for()


def show_work(page: Page, stand: Stand) -> None:
    send(page, "slow.mp4")
    page.get_by_text("Looking at it: 0:03 of 0:10").wait_for()


def show_fake(page: Page, stand: Stand) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    page.locator("#exhibits img").first.wait_for()
    page.locator(".face summary").first.click()
    page.locator(".face tbody tr").first.wait_for()


def show_report(page: Page, stand: Stand) -> None:
    show_fake(page, stand)
    page.goto(page.get_by_role("link", name="Open report").evaluate("one => one.href"))


def show_real(page: Page, stand: Stand) -> None:
    stand.may_report = False
    send(page, "real.mp4")
    page.get_by_text("Heat maps and the report are being made.").wait_for()


def show_unscorable(page: Page, stand: Stand) -> None:
    send(page, "noface.mp4")
    read_result(page, "noface.mp4")


def show_failed(page: Page, stand: Stand) -> None:
    send(page, "broken.mp4")
    read_result(page, "broken.mp4")


def show_refused(page: Page, stand: Stand) -> None:
    send(page, "415.mp4", "507.mp4")
    page.get_by_role("button", name="Try again: 507.mp4").wait_for()


def show_history(page: Page, stand: Stand) -> None:
    for number in range(8):
        stand.end(stand.add(f"noreport-{('real', 'fake', 'uncertain', 'noface')[number % 4]}{number}.mp4", 10))
    page.reload()
    page.get_by_role("button", name="Delete: noreport-real4.mp4").click()
    page.get_by_text("Really delete?").wait_for()


def show_key(page: Page, stand: Stand) -> None:
    stand.key = "secret"
    page.reload()
    page.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    page.locator("#trouble").wait_for()


def show_demonstration(page: Page, stand: Stand) -> None:
    stand.demo = True
    page.reload()
    page.locator(".notice").wait_for()


def show_out_of_reach(page: Page, stand: Stand) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    page.reload()
    page.locator("#trouble").wait_for()


STATES = [
    show_empty, show_upload, show_work, show_fake, show_report, show_real, show_unscorable, show_failed, show_refused,
    show_history, show_key, show_demonstration, show_out_of_reach,
]  # fmt: skip


@pytest.mark.parametrize("show", STATES)
def test_axe_finds_no_violation(page: Page, stand: Stand, show: Callable[[Page, Stand], None]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    show(page, stand)
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for size in (PHONE, DESKTOP):
            page.set_viewport_size(size)
            for broken in axe.run(page, options=OPTIONS).response["violations"]:
                nodes = [" ".join(map(str, node["target"])) for node in broken["nodes"]]
                found.append(f"{scheme}, {size['width']} px: {broken['id']}, {broken['help']}: {nodes}")
    assert found == []


def test_where_the_system_sets_the_colours_shapes_borders_and_words_tell_the_same(page: Page, stand: Stand) -> None:
    show_fake(page, stand)
    send(page, "slow.mp4")
    page.locator("#work progress").wait_for()
    page.emulate_media(forced_colors="active")
    ink = read_style(page, "h1", "color")
    assert page.locator(".verdict .outcome").text_content() == "FAKE"
    assert (read_style(page, ".verdict", "borderTopStyle"), read_style(page, ".verdict", "borderTopColor")) == (
        "solid",
        ink,
    )
    assert read_style(page, ".verdict path.full", "fill") == ink
    assert page.locator(".row[aria-current]").get_by_text("FAKE", exact=True).is_visible()
    assert read_style(page, ".row[aria-current]", "borderLeftWidth") == "4px"
    for part in (".clip", ".frames", ".threshold"):
        assert read_style(page, f"svg.timeline {part}", "stroke") == ink
    assert page.locator("svg.timeline rect[fill='url(#hatch)']").count() == page.locator(".stretches li").count()
    assert read_style(page, ".hatch-line", "stroke") == ink
    assert page.get_by_text("Looking at it: 0:03 of 0:10").is_visible()


def read_style(page: Page, selector: str, name: str) -> str:
    return str(page.locator(selector).first.evaluate("(one, name) => getComputedStyle(one)[name]", name))
