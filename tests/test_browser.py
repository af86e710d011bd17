"""The web page as people use it, in Chromium: sending, following, reading, keeping, deleting, and what goes wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.bundle import SCORER, open_model_folder
from export.fused import FusedModel
from serve.explanation import explain
from serve.scorer import Scorer
from serve.service.app import make_app
from serve.service.engine import Engine
from serve.service.metrics import Metrics
from serve.service.settings import Settings
from serve.service.store import Store
from serve.service.uploads import Uploads
from serve.verdict import DEMONSTRATION
from serve.words import REASONS, format_clock, format_prob
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector
from tests.page_client import Page, read_result, send
from tests.page_service import SETTLED, Stand, make_answer, serve_on_loopback

pytestmark = pytest.mark.browser


@pytest.fixture(name="service")
def fixture_service(pipeline: Pipeline, tmp_path: Path) -> Iterator[str]:
    """The address of the service itself, with a small model."""
    model = FusedModel(pipeline.model / SCORER, "cpu")
    store = Store(tmp_path / "jobs.sqlite")
    with Scorer(open_model_folder(pipeline.model), model, FixedDetector(FACE)) as scorer:
        engine = Engine(Settings(tmp_path), scorer, store, Uploads(tmp_path), Metrics(), "model/")
        with serve_on_loopback(make_app(engine, None)) as address:
            yield address
    store.close()


@pytest.mark.parametrize("name", ["fake.mp4", "real.mp4", "uncertain.mp4"])
def test_a_video_is_sent_followed_and_judged_in_the_words_of_reports(page: Page, name: str) -> None:
    send(page, name)
    text, verdict = read_result(page, name), make_answer(name)
    told = explain(verdict)
    tables = [cell for table in (told.rates, told.odds) if table for row in table.rows for cell in (*row, table.note)]
    sentences = (told.says, told.decision, told.caution, told.threshold, told.unknown_rates, told.even_odds)
    for words in (verdict.outcome, *sentences, *tables, *told.limits, *(value for _, value in told.file + told.model)):
        assert words.replace("\xa0", " ") in text
    assert page.locator("svg.timeline").count() == len(verdict.tracks)
    assert page.locator("svg.scale").get_attribute("aria-label") == told.scale


def test_numbers_are_written_as_in_reports(page: Page) -> None:
    numbers = [0, 1, 0.125, 0.135, 0.0004, 0.04, 0.0625, 0.8125, 0.9996, 0.99, 1 / 3, 0.2511, 0.4375]
    code = "given.map(x => [say.formatProb(x), say.formatClock(9999 * x), say.formatClock(9999 * x, false)])"
    told = [[format_prob(one), format_clock(one * 9999), format_clock(one * 9999, exact=False)] for one in numbers]
    assert (
        page.evaluate(f"async (given) => {{ const say = await import('/static/words.js'); return {code}; }}", numbers)
        == told
    )


def test_suspicious_stretches_are_listed_and_clips_stand_in_a_table_a_keyboard_reaches(page: Page) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    assert page.locator(".stretches li").all_text_contents() == [
        "0:01.0 to 0:02.5 (highest 0.900)",
        "0:04.0 to 0:05.5 (highest 0.950)",
    ]
    page.locator(".face summary").first.focus()
    page.keyboard.press("Enter")
    page.locator(".face tbody tr").first.wait_for()
    assert page.locator(".face tbody tr").count() == 2


def test_frames_and_heat_maps_are_shown_from_the_report(page: Page) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    page.locator("#exhibits img").first.wait_for()
    sizes = page.locator("#exhibits img").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert len(sizes) == 3
    assert min(sizes) > 0
    assert "with the bottom left of the crop hidden" in str(page.locator("#exhibits").text_content())


def test_a_verdict_is_shown_while_its_report_is_made_and_the_report_when_it_is_there(page: Page, stand: Stand) -> None:
    stand.may_report = False
    send(page, "fake.mp4")
    assert "FAKE" in read_result(page, "fake.mp4")
    page.get_by_text("Heat maps and the report are being made.").wait_for()
    assert page.get_by_role("link", name="Open report").count() == 0
    stand.may_report = True
    page.locator("#exhibits img").first.wait_for()
    assert page.get_by_role("link", name="Open report").is_visible()
    assert page.locator("#status").text_content() == "The report on fake.mp4 is ready."


def test_a_report_that_is_ready_before_its_verdict_was_read_is_shown(page: Page, stand: Stand) -> None:
    def hold(route: Any) -> None:
        response = route.fetch()
        stand.may_report = True
        while any(job["report"] not in SETTLED for job in stand.jobs.values()):
            time.sleep(0.05)
        time.sleep(0.5)  # for the event that says so
        route.fulfill(response=response)

    stand.may_report = False
    page.route("**/v1/videos/job-*0", hold)
    send(page, "fake.mp4")
    page.locator("#exhibits img").first.wait_for()


def test_a_verdict_without_a_report_says_so(page: Page) -> None:
    send(page, "noreport-real.mp4")
    assert "There is no report on this video" in read_result(page, "noreport-real.mp4")


def test_a_video_that_is_sent_while_a_report_is_made_is_judged_meanwhile(page: Page, stand: Stand) -> None:
    stand.may_report = False
    send(page, "fake.mp4")
    page.get_by_text("Heat maps and the report are being made.").wait_for()
    send(page, "real.mp4")
    read_result(page, "real.mp4")


def test_of_a_crowd_the_first_faces_are_shown_and_the_others_when_asked_for(page: Page) -> None:
    send(page, "crowd.mp4")
    read_result(page, "crowd.mp4")
    assert page.locator("svg.timeline").count() == 8
    page.get_by_role("button", name="Show the other 3 faces").click()
    assert page.locator("svg.timeline").count() == 11


def test_a_long_history_is_folded_and_unfolded(page: Page) -> None:
    send(page, *(f"real{number}.mp4" for number in range(8)))
    page.get_by_role("button", name="Show more").wait_for()
    page.locator("#work").wait_for(state="hidden")
    shown = page.locator("#history-list li").count()
    page.get_by_role("button", name="Show more").click()
    assert (shown < 8, page.locator("#history-list li").count()) == (True, 8)
    page.get_by_role("button", name="Show the newest only").click()
    assert page.locator("#history-list li").count() == shown


def test_videos_older_than_the_first_list_are_read_when_asked_for(page: Page, stand: Stand) -> None:
    for number in range(60):
        stand.end(stand.add(f"noreport-real{number}.mp4", 10))
    page.reload()
    page.get_by_role("button", name="Show more").click()
    assert page.locator("#history-list li").count() == 50
    page.get_by_role("button", name="Show older ones").click()
    page.locator("#history-list li").nth(59).wait_for()
    page.get_by_role("button", name="Show the newest only").wait_for()


def test_escape_closes_a_result_and_takes_back_what_is_asked_about_deleting(page: Page, stand: Stand) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    page.locator("#result").focus()
    page.keyboard.press("Escape")
    assert page.locator("#result").is_hidden()
    show, delete = (page.get_by_role("button", name=f"{act}: fake.mp4") for act in ("Show result", "Delete"))
    assert show.evaluate("one => one === document.activeElement")
    delete.click()
    page.keyboard.press("Escape")
    delete.click()
    assert len(stand.jobs) == 1


def test_a_file_without_a_score_says_why(page: Page) -> None:
    send(page, "noface.mp4")
    text = read_result(page, "noface.mp4")
    assert "NOT SCORABLE" in text
    assert REASONS["NO_FACE"] in text  # type: ignore[index]
    assert page.locator("svg.scale").count() == 0


def test_the_verdict_and_the_report_can_be_kept(page: Page, tmp_path: Path) -> None:
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Download JSON").click()
    assert waited.value.suggested_filename == "fake.mp4.verdict.json"
    assert json.loads(Path(waited.value.path()).read_text())["outcome"] == "FAKE"
    with page.expect_download() as waited:
        page.get_by_role("link", name="Download report").click()
    assert "Report on" in Path(waited.value.path()).read_text()


def test_history_outlives_a_reload_shows_a_result_again_and_deletes_when_asked_twice(page: Page, stand: Stand) -> None:
    send(page, "fake.mp4", "real.mp4")
    read_result(page, "fake.mp4")
    page.get_by_role("button", name="Show result: real.mp4").click()
    read_result(page, "real.mp4")
    page.reload()
    read_result(page, "real.mp4")
    page.get_by_role("button", name="Delete: real.mp4").click()
    assert len(stand.jobs) == 2
    page.get_by_role("button", name="Really delete? real.mp4").click()
    page.locator("#history-list li").nth(1).wait_for(state="detached")
    assert [job["name"] for job in stand.jobs.values()] == ["fake.mp4"]
    assert page.locator("#result").is_hidden()


def test_progress_is_shown_and_a_video_can_be_cancelled(page: Page) -> None:
    send(page, "slow.mp4")
    page.get_by_text("Looking at it: 0:03 of 0:10").wait_for()
    assert page.locator("#work progress").evaluate("bar => bar.value") == pytest.approx(0.3)
    page.get_by_role("button", name="Cancel: slow.mp4").click()
    page.locator("#history-list").get_by_text("Cancelled.").wait_for()


def test_several_videos_are_sent_one_after_another_and_all_are_judged(page: Page, stand: Stand) -> None:
    names = [f"fake{number}.mp4" for number in range(4)]
    send(page, *names)
    page.locator("#history-list li").nth(3).wait_for()
    assert [job["name"] for job in stand.jobs.values()] == names
    assert page.locator("#work").is_hidden()


def test_what_is_no_video_by_its_type_is_sent_as_bytes(page: Page, stand: Stand) -> None:
    send(page, "fake.mts", kind="text/plain")
    read_result(page, "fake.mts")
    assert stand.types == ["application/octet-stream"]


def test_a_dropped_video_is_taken(page: Page) -> None:
    transfer = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['x'], 'real.mp4')); return data; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    read_result(page, "real.mp4")


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("413.mp4", 10, "The file is longer than an hour."),
        ("415.mp4", 10, "only videos are taken"),
        ("507.mp4", 10, "Full."),
        ("fake.mp4", 1_000_001, "this service takes at most 1.0 MB"),
        ("fake.mp4", 0, "The file is empty"),
    ],
)
def test_a_refusal_is_a_sentence_beside_the_file(page: Page, name: str, size: int, words: str) -> None:
    page.locator("#model").wait_for()
    send(page, name, size=size)
    page.locator("#work-list").get_by_text(words).wait_for()
    page.get_by_role("button", name=f"Remove: {name}").click()
    assert page.locator("#work").is_hidden()


def test_a_full_queue_is_waited_for(page: Page, stand: Stand) -> None:
    send(page, "busy.mp4")
    page.get_by_text("The queue is full. It is tried again in").first.wait_for()
    read_result(page, "busy.mp4")
    assert stand.busy == 0


def test_a_job_that_failed_says_so(page: Page) -> None:
    send(page, "broken.mp4")
    assert "The disk was full before there was a result." in read_result(page, "broken.mp4")


def test_a_hostile_name_is_text(page: Page) -> None:
    name = "<img src=x onerror=alert(1)>fake\u202egnp.mp4"
    send(page, name)
    assert "<img src=x onerror=alert(1)>fake\\u{202e}gnp.mp4" in read_result(page, "onerror")
    assert page.locator("img[src=x]").count() == 0


def test_a_key_is_asked_for_kept_for_the_tab_and_sent(page: Page, stand: Stand) -> None:
    stand.key = "secret"
    page.reload()
    page.get_by_label("API key").fill("wrong")
    assert page.locator("#trouble").is_hidden()
    page.keyboard.press("Enter")
    page.get_by_text("This service needs an API key.").wait_for()
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Use this key").click()
    page.locator("#key-form").wait_for(state="hidden")
    assert page.locator("#files").evaluate("one => one === document.activeElement")
    send(page, "fake.mp4")
    read_result(page, "fake.mp4")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Download report").click()
    assert waited.value.suggested_filename == "fake.mp4.report.html"
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Open report").click()
    opened.value.wait_for_url("**/report?ticket=right")
    assert opened.value.locator("h1").text_content() == "Report on fake.mp4"
    assert opened.value.evaluate("window.opener") is None


def test_a_service_out_of_reach_is_said_and_the_file_can_be_sent_again(page: Page) -> None:
    page.locator("#model").wait_for()
    page.context.set_offline(True)
    send(page, "fake.mp4")
    page.locator("#work-list").get_by_text("The service cannot be reached.").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again: fake.mp4").click()
    read_result(page, "fake.mp4")


def test_a_demonstration_says_so_above_everything(page: Page, stand: Stand) -> None:
    stand.demo = True
    page.reload()
    notice = page.locator(".notice").first
    notice.wait_for()
    assert notice.text_content() == DEMONSTRATION
    assert notice.bounding_box()["y"] < page.locator("h1").bounding_box()["y"]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    send(page, "fake" + "x" * 150 + ".mp4")
    read_result(page, "fake")
    page.locator("#exhibits img").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_service_itself_judges_reports_and_forgets_what_the_page_sends(
    browser: Any, service: str, pipeline: Pipeline, tmp_path: Path
) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"no video" * 100)
    page = browser.new_page()
    page.goto(service)
    page.set_input_files("#files", [str(pipeline.videos[0].path), str(noise)])
    page.locator("#history-list li").nth(1).wait_for()
    assert "P(fake) = 0." in read_result(page, "0-real.mp4")
    page.locator("#exhibits img").first.wait_for()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open report").click()
    opened.value.wait_for_load_state()
    assert opened.value.locator("h1").text_content() == "Report on 0-real.mp4"
    assert opened.value.locator(".verdict").evaluate("one => getComputedStyle(one).display") == "grid"
    page.get_by_role("button", name="Show result: noise.mp4").click()
    assert "NOT SCORABLE" in read_result(page, "noise.mp4")
    for asked in ("Delete: noise.mp4", "Really delete? noise.mp4"):
        page.get_by_role("button", name=asked).click()
    page.locator("#history-list li").nth(1).wait_for(state="detached")
    page.reload()
    page.get_by_role("button", name="Show result: 0-real.mp4").wait_for()
    page.close()
