"""The web page while somebody reads it: what is read stays, slips lose nothing, and what went wrong is in sight."""

from __future__ import annotations

from typing import Any

import pytest

from tests.page_client import Page, read_result, send
from tests.page_service import Stand

pytestmark = pytest.mark.browser


def test_what_is_read_is_not_replaced_by_a_video_that_ends_meanwhile(page: Page, stand: Stand) -> None:
    send(page, "real.mp4")
    read_result(page, "real.mp4")
    send(page, "slow.mp4")
    page.get_by_text("Looking at it").wait_for()
    page.get_by_role("button", name="Show result: real.mp4").click()
    read_result(page, "real.mp4")
    page.locator("#result:focus").wait_for()
    stand.end(next(job for job in stand.jobs.values() if job["name"] == "slow.mp4"))
    page.get_by_role("button", name="Show result: slow.mp4").wait_for()
    page.wait_for_timeout(300)
    assert "real.mp4" in str(page.locator("#result-title").text_content())


def test_the_row_of_the_open_result_is_marked_and_one_button_leads_back_to_it(page: Page) -> None:
    send(page, "fake.mp4", "real.mp4")
    read_result(page, "fake.mp4")
    assert page.locator("[aria-current]").get_by_role("button", name="Show result: fake.mp4").count() == 1
    page.get_by_role("button", name="Show result: real.mp4").click()
    read_result(page, "real.mp4")
    page.get_by_role("button", name="Back to the list").click()
    current = page.locator("[aria-current]")
    assert (current.count(), page.locator("#result").is_visible()) == (1, True)
    show = current.get_by_role("button", name="Show result: real.mp4")
    assert show.evaluate("one => one === document.activeElement")


def test_a_result_that_failed_can_be_closed(page: Page) -> None:
    send(page, "broken.mp4")
    read_result(page, "broken.mp4")
    page.get_by_role("button", name="Close").click()
    assert page.locator("#result").is_hidden()


def test_a_double_click_does_not_delete(page: Page, stand: Stand) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    page.get_by_role("button", name="Delete: fake.mp4").dblclick()
    page.get_by_role("button", name="Really delete? fake.mp4").wait_for()
    assert len(stand.jobs) == 1


def test_what_went_wrong_far_down_the_page_is_in_sight_until_the_next_press(page: Page) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    page.locator("#exhibits img").first.wait_for()
    page.locator("footer").scroll_into_view_if_needed()
    page.route("**/cancel", lambda route: route.abort())
    send(page, "slow.mp4")
    page.get_by_text("Looking at it").wait_for()
    page.get_by_role("button", name="Cancel: slow.mp4").evaluate("one => one.click()")  # without scrolling to it
    page.locator("#trouble").wait_for()
    assert page.evaluate("scrollY") > 0
    assert 0 <= page.locator("#trouble").bounding_box()["y"] < 40
    page.get_by_role("button", name="Back to the list").click()
    assert page.locator("#trouble").is_hidden()


def test_a_page_that_was_opened_before_its_service_goes_on_when_that_is_there(page: Page) -> None:
    page.route("**/v1/**", lambda route: route.abort())
    page.reload()
    page.get_by_text("The service cannot be reached.").wait_for()
    page.unroute("**/v1/**")
    page.locator("#model").wait_for()
    assert page.locator("#trouble").is_hidden()


def test_a_page_that_is_still_sending_asks_before_it_is_left(page: Page) -> None:
    asked: list[str] = []

    def leave(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", leave)
    page.route("**/v1/videos?name=*", lambda route: route.abort() if "never" in route.request.url else None)
    page.locator("summary").click()  # nobody is asked who has not touched the page
    send(page, "never.mp4")
    page.get_by_role("button", name="Remove: never.mp4").wait_for()
    page.reload()
    assert asked == []
    page.locator("summary").click()
    send(page, "fake.mp4")
    page.get_by_text("Sending").wait_for()
    page.reload()
    assert asked == ["beforeunload"]


def test_on_paper_there_is_the_result_and_nothing_to_press(page: Page) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    page.locator("#exhibits img").first.wait_for()
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("button:visible, a:visible, #drop:visible, #history:visible").count() == 0
    assert page.locator(".verdict, #exhibits img").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.emulate_media(media="screen")
    page.get_by_role("button", name="Close").click()
    page.emulate_media(media="print")
    assert page.locator("#history").is_visible()
