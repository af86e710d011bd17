"""What a command line may name: files, folders, patterns and lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import UsageError
from serve.inputs import list_inputs, split_list


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a.mp4", "b.mov", "sub/c.mp4", "sub/notes.txt", "odd[1].mp4", "empty/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*texts: str, listed: tuple[str, ...] = ()) -> list[str]:
    return [path.as_posix() for path in list_inputs(texts, listed)]


def test_files_and_folders_are_taken_once_and_in_order(films: Path) -> None:
    assert names("b.mov", "sub", "a.mp4", "b.mov") == ["b.mov", "sub/c.mp4", "a.mp4"]


def test_a_file_is_taken_whatever_its_name_ends_in(films: Path) -> None:
    assert names("sub/notes.txt") == ["sub/notes.txt"]


def test_patterns_that_the_shell_left_alone_are_expanded(films: Path) -> None:
    assert names("*.mp4") == ["a.mp4", "odd[1].mp4"]
    assert names("**/*.mp4") == ["a.mp4", "odd[1].mp4", "sub/c.mp4"]
    assert names("?ub") == ["sub/c.mp4"]


def test_a_file_that_is_named_like_a_pattern_is_the_file(films: Path) -> None:
    assert names("odd[1].mp4") == ["odd[1].mp4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("missing.mp4", "no such file or folder: missing.mp4"),
        ("*.webm", r"nothing matches \*.webm"),
        ("empty", "empty holds no video"),
    ],
)
def test_what_is_not_there_is_misuse(films: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        list_inputs([text])


def test_a_list_stands_where_the_dash_does_and_keeps_what_is_missing(films: Path) -> None:
    assert names("b.mov", "-", listed=("a.mp4", "missing.mp4", "sub")) == [
        "b.mov",
        "a.mp4",
        "missing.mp4",
        "sub/c.mp4",
    ]


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)))
def test_any_file_name_passes_through_a_list_ended_by_nul(found: list[bytes]) -> None:
    listed = split_list(b"".join(name + b"\0" for name in found), null=True)
    assert [os.fsencode(name) for name in listed] == found


def test_lines_of_a_list_end_as_on_any_system() -> None:
    assert split_list(b"a.mp4\n\nb c.mp4\r\n\xff.mp4") == ["a.mp4", "b c.mp4", "\udcff.mp4"]


def test_only_the_end_of_a_line_ends_a_name_of_a_list() -> None:
    names = ["page\fbreak.mp4", "line\u2028separator.mp4", "escape\x1c.mp4"]
    assert split_list("\n".join(names).encode()) == names


@pytest.mark.parametrize("name", ["x" * 300, "nul\0.mp4", "empty"])
def test_a_list_may_name_what_can_be_no_video(films: Path, name: str) -> None:
    assert names("-", listed=(name, "a.mp4")) == [name, "a.mp4"]


def test_a_name_that_is_too_long_is_misuse(films: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder: xxx"):
        list_inputs(["x" * 300])
