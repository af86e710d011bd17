"""The files of the web page: they load nothing from elsewhere, can be read aloud, and are sent as they should be."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from extract.errors import Reason
from serve.service.page import DOCUMENT, STATIC, TYPES, WORDS, list_words, load_assets, make_page_router
from serve.words import PURPOSES, REASONS

SCRIPTS = sorted(name for name in TYPES if name.endswith(".js"))
ADDRESSES = ["/", *(f"/static/{name}" for name in TYPES if name != DOCUMENT)]


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def read(name: str) -> str:
    return load_assets()[name].content.decode()


ELEMENTS = Elements(read(DOCUMENT)).found


@pytest.fixture(name="client")
def fixture_client() -> TestClient:
    app = FastAPI()
    app.include_router(make_page_router())
    return TestClient(app)


def test_every_file_beside_the_page_is_sent_by_its_name_and_no_other_is() -> None:
    assert {path.name for path in STATIC.iterdir() if path.is_file()} | {WORDS} == set(TYPES)


def test_the_page_names_nothing_outside_the_service() -> None:
    for name in TYPES:
        text = read(name).replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|url\((?!#)|['\"(]//", text), name
    addresses = [found[key] for _, found in ELEMENTS for key in ("src", "href") if key in found]
    assert all(str(address).startswith(("/static/", "#")) for address in addresses)
    assert {str(address).removeprefix("/static/") for address in addresses if "/" in str(address)} <= set(TYPES)


def test_the_page_keeps_to_its_own_policy() -> None:
    assert not [tag for tag, found in ELEMENTS if tag == "style" or "style" in found]
    assert not [found for tag, found in ELEMENTS if tag == "script" and "src" not in found]
    assert not [key for _, found in ELEMENTS for key in found if key.startswith("on")]
    for name in SCRIPTS:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(", read(name))
        assert not re.search(r"\.style\b|\bstyle:", read(name))


def test_each_id_of_the_page_stands_for_one_thing_and_every_reference_finds_it() -> None:
    ids = [str(found["id"]) for _, found in ELEMENTS if "id" in found]
    assert len(ids) == len(set(ids))
    made_later = {"result-title"}  # with the first result; its article is hidden until then
    for _, found in ELEMENTS:
        for key in ("for", "aria-labelledby", "aria-describedby"):
            assert set(str(found.get(key) or "").split()) <= {*ids, *made_later}
    for wanted in re.findall(r'\bat\("([^"]+)"\)', read("app.js")):
        assert wanted in ids or wanted in ("exhibits", "report-acts")


def test_the_page_can_be_read_aloud_and_used_with_a_keyboard() -> None:
    assert ("html", {"lang": "en"}) in ELEMENTS
    levels = [int(tag[1]) for tag, _ in ELEMENTS if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    labelled = {found["for"] for tag, found in ELEMENTS if tag == "label"}
    assert {found["id"] for tag, found in ELEMENTS if tag == "input"} == labelled
    assert any(found.get("aria-live") == "polite" for _, found in ELEMENTS)
    assert not any(int(str(found["tabindex"])) > 0 for _, found in ELEMENTS if "tabindex" in found)


def test_the_page_knows_phones_the_dark_and_those_whom_motion_troubles() -> None:
    sheet = read("app.css")
    for query in ("@media (max-width", "prefers-color-scheme: dark", "prefers-reduced-motion", ":focus-visible"):
        assert query in sheet
    assert any(found.get("name") == "viewport" for _, found in ELEMENTS)


def test_the_page_has_a_sentence_for_every_reason_and_every_purpose() -> None:
    assert list_words() == {"reasons": dict(REASONS), "purposes": PURPOSES}
    assert set(REASONS) == set(Reason)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_file_is_sent_with_its_type_and_under_the_policy(client: TestClient, address: str) -> None:
    response = client.get(address)
    assert response.status_code == 200
    assert response.headers["content-type"] == TYPES[address.removeprefix("/static/").strip("/") or DOCUMENT]
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = response.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert "unsafe" not in response.headers["content-security-policy"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient, address: str) -> None:
    tag = client.get(address).headers["etag"]
    again = client.get(address, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["", "page.py", "index.html", "..%2fpage.py", "%2e%2e/page.py", "app.js%00"])
def test_nothing_else_can_be_asked_for(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_a_head_request_is_answered_without_the_content(client: TestClient) -> None:
    response = client.head("/")
    assert (response.status_code, response.content) == (200, b"")
