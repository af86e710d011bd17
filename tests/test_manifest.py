"""The manifest: round trip, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import FormatError, UnmaskError, UsageError
from extract.manifest import ManifestVideo, read_manifest, write_manifest
from unmask import main


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    real, fake = touch(tmp_path / "set/Real/a.mp4"), touch(tmp_path / "set/Fake/b.mp4")
    out = tmp_path / "lists/videos.csv"
    write_manifest(out, [ManifestVideo("a", real, "real", group="anna"), ManifestVideo("b", fake, "fake")])
    assert out.read_text().splitlines()[1] == "../set/Real/a.mp4,real,,anna,,,,"
    assert [video.path.resolve() for video in read_manifest(out)] == [real.resolve(), fake.resolve()]


def test_a_link_to_a_video_keeps_its_own_name_and_a_linked_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "disk/a.mp4")
    (tmp_path / "folder").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/b.mp4").symlink_to(tmp_path / "disk/a.mp4")
    write_manifest(tmp_path / "v.csv", [ManifestVideo("b", tmp_path / "folder/b.mp4", "real")])
    assert read_manifest(tmp_path / "v.csv")[0].id == "disk/b.mp4"


def test_a_manifest_that_is_not_there_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such manifest: .*make one with `unmask manifest DIR"):
        read_manifest(tmp_path / "v.csv")


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


@settings(deadline=None)  # every example waits for the disk
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


def test_a_manifest_that_was_completed_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    touch(tmp_path / "Real/a.mp4")
    touch(tmp_path / "Fake/b.mp4")
    command = ["manifest", str(tmp_path), "--out", str(tmp_path / "v.csv")]
    assert [CliRunner().invoke(main, command).exit_code for _ in range(2)] == [0, 0]
    by_hand = (tmp_path / "v.csv").read_text().replace("fake,,", "fake,,anna")
    (tmp_path / "v.csv").write_text(by_hand)
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, (tmp_path / "v.csv").read_text()) == (2, by_hand)
    assert "exists already and says something else" in refused.output
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    videos = [ManifestVideo("x", tmp_path / "caf\udce9.mp4", "real")]
    with pytest.raises(FormatError, match=r"caf.*udce9.* is not; rename that file"):
        write_manifest(tmp_path / "v.csv", videos)
    assert not list(tmp_path.iterdir())
