"""The manifest: layouts, counts, round trip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import FormatError, UnmaskError, UsageError
from extract.manifest import ManifestVideo, make_manifest, read_manifest, write_manifest
from unmask import main


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_are_found_in_any_case_and_no_class_is_lost(tmp_path: Path) -> None:
    for name in ("REAL/a.mp4", "REAL/b.AVI", "fake/a.mp4", "fake/deep/c.mkv", "fake/notes.txt", "other/d.mp4"):
        touch(tmp_path / name)
    videos = make_manifest(tmp_path)
    assert [(v.id, v.label) for v in videos] == [
        ("REAL/a.mp4", "real"), ("REAL/b.AVI", "real"), ("fake/a.mp4", "fake"), ("fake/deep/c.mkv", "fake"),
    ]  # fmt: skip


def test_folders_take_groups_and_pairs_from_names(tmp_path: Path) -> None:
    names = ("Real/0001.mp4", "Fake/0001_fake.mp4", "Fake/0002_fake.mp4", "Real/id3_0004.mp4", "Fake/id3_id7_0004.mp4")
    for name in (*names, "Real/000.mp4"):
        touch(tmp_path / name)
    found = {v.id: (v.group, v.pair) for v in make_manifest(tmp_path)}
    assert found == {
        "Real/000.mp4": ("000", "000"),
        "Real/0001.mp4": ("0001", "0001"),
        "Fake/0001_fake.mp4": ("0001", "0001"),
        "Fake/0002_fake.mp4": ("", ""),
        "Real/id3_0004.mp4": ("id3", ""),
        "Fake/id3_id7_0004.mp4": ("id3", ""),
    }


@pytest.mark.parametrize("names", [["Real/a.mp4"], ["Real/a.mp4", "Fake/notes.txt"], ["a.mp4"]])
def test_a_folder_without_both_classes_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        touch(tmp_path / name)
    with pytest.raises(UsageError, match=r"folder (real|fake)"):
        make_manifest(tmp_path)


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "set/Real/a.mp4")
    touch(tmp_path / "set/Fake/b.mp4")
    out = tmp_path / "lists/videos.csv"
    write_manifest(out, make_manifest(tmp_path / "set"))
    assert out.read_text().splitlines()[1] == "../set/Real/a.mp4,real,,a,a,,,"
    assert all(video.path.is_file() for video in read_manifest(out))


def test_other_columns_and_a_byte_order_mark_are_no_obstacle(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", "\ufefffps,label,path,group\n25,FAKE,x/a.mp4,anna\n")
    assert read_manifest(path) == [ManifestVideo("x/a.mp4", tmp_path / "x/a.mp4", "fake", group="anna")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.mp4,maybe\n", r"line 2: label 'maybe' is unknown; expected real or fake"),
        ("path,label,split\na.mp4,real,dev\n", r"line 2: split 'dev' is unknown"),
        ("path,label\n,real\n", r"line 2: the path is empty"),
        ("path,label\na.mp4,real\na.mp4,fake\n", r"lists a.mp4 twice"),
        ("file,label\na.mp4,real\n", r"has no column path"),
        ("path,label\n", r"lists no video"),
    ],
)
def test_a_manifest_with_a_fault_is_refused_naming_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_manifest(write(tmp_path / "v.csv", text))


def test_a_binary_file_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UnmaskError):
        read_manifest(tmp_path / "v.csv")


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12).map(str.strip)


@given(
    rows=st.lists(st.tuples(st.sampled_from(["real", "fake"]), st.sampled_from(["", "train", "test"]), NAMES, NAMES)),
)
def test_a_manifest_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("m")
    videos = [
        ManifestVideo(f"{i}.mp4", folder / f"{i}.mp4", label, split, group, dataset=dataset)  # type: ignore[arg-type]
        for i, (label, split, group, dataset) in enumerate([("real", "", "", ""), *rows])
    ]
    write_manifest(folder / "v.csv", videos)
    assert read_manifest(folder / "v.csv") == videos


def test_the_command_counts_what_it_lists(tmp_path: Path) -> None:
    touch(tmp_path / "Real/a.mp4")
    touch(tmp_path / "Fake/b.mp4")
    result = CliRunner().invoke(main, ["manifest", str(tmp_path), "--out", str(tmp_path / "v.csv")])
    assert result.exit_code == 0
    assert "2 videos, 1 real, 1 fake" in result.output
