"""Datasets as they lie on disk: exact counts, official splits, what is noted and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extract import dataset_cli
from extract.datasets.layouts import LAYOUTS, make_manifest
from extract.datasets.listing import Choice, Listing
from extract.errors import FormatError, UsageError
from extract.manifest import read_manifest
from tests.dataset_trees import (
    FFPP_METHODS,
    lay,
    lay_celeb_df,
    lay_celeb_df_v1,
    lay_celeb_df_v2,
    lay_dfdc,
    lay_ffpp,
    pair_ffpp,
)
from unmask import main

NO_SPLIT = Choice(split="none")
TWO_PAIRS = pair_ffpp(2)
CELEB = ["YouTube-real/00251.mp4", "Celeb-real/id20_0001.mp4", "Celeb-synthesis/id20_id3_0001.mp4"]


@pytest.fixture(scope="module")
def celeb_df_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_celeb_df_v2(tmp_path_factory.mktemp("celeb"))


@pytest.fixture(scope="module")
def ffpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_ffpp(tmp_path_factory.mktemp("ffpp"), pair_ffpp())


def count(listing: Listing) -> Counter[tuple[str, str]]:
    return Counter((video.split, video.label) for video in listing.videos)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["manifest", *map(str, arguments)])


def test_celeb_df_v2_has_its_official_counts_and_no_line_of_the_list_is_lost(celeb_df_v2: Path) -> None:
    listing = make_manifest(celeb_df_v2)
    assert count(listing) == {
        ("train", "real"): 712, ("train", "fake"): 5299, ("test", "real"): 178, ("test", "fake"): 340,
    }  # fmt: skip
    first = (celeb_df_v2 / "List_of_testing_videos.txt").read_text().split()[1]
    assert first in {video.id for video in listing.videos if video.split == "test"}
    assert {(v.dataset, v.protocol) for v in listing.videos} == {("Celeb-DF v2", "celeb-df-v2-official")}
    assert (listing.layout, listing.notes) == ("celeb-df", ())


def test_celeb_df_v1_is_told_by_its_list_of_100(tmp_path: Path) -> None:
    listing = make_manifest(lay_celeb_df_v1(tmp_path))
    assert count(listing) == {
        ("train", "real"): 370, ("train", "fake"): 733, ("test", "real"): 38, ("test", "fake"): 62,
    }  # fmt: skip
    assert {(v.dataset, v.protocol) for v in listing.videos} == {("Celeb-DF v1", "celeb-df-v1-official")}


def test_a_real_clip_of_celeb_df_and_the_fakes_made_from_it_are_one_pair(tmp_path: Path) -> None:
    listing = make_manifest(lay_celeb_df(tmp_path, CELEB, CELEB))
    assert {v.id: (v.label, v.group, v.pair, v.method) for v in listing.videos} == {
        "Celeb-real/id20_0001.mp4": ("real", "id20", "id20_0001", ""),
        "Celeb-synthesis/id20_id3_0001.mp4": ("fake", "id20", "id20_0001", "Celeb-synthesis"),
        "YouTube-real/00251.mp4": ("real", "youtube_00251", "", ""),
    }


def test_a_list_of_another_length_is_used_but_not_called_official(tmp_path: Path) -> None:
    listing = make_manifest(lay_celeb_df(tmp_path, CELEB, CELEB[:2]))
    assert {(v.dataset, v.protocol) for v in listing.videos} == {("Celeb-DF v2", "celeb-df-list")}
    assert listing.notes == (
        "List_of_testing_videos.txt has 2 entries, but the official lists have 100 (v1) and 518 (v2): "
        "results are not comparable with published ones",
    )


def test_where_neither_list_nor_names_tell_the_version_it_is_left_open(tmp_path: Path) -> None:
    lay(tmp_path, ["Celeb-real/id3_0001.mp4", "Celeb-synthesis/id3_id4_0001.mp4", "YouTube-real/00249.mp4"])
    assert {video.dataset for video in make_manifest(tmp_path, choice=NO_SPLIT).videos} == {"Celeb-DF"}


@pytest.mark.parametrize("name", ["YouTube-real/00250.mp4", "Celeb-synthesis/id3_id19_0000.mp4"])
def test_the_list_of_v1_beside_videos_of_v2_is_refused(tmp_path: Path, name: str) -> None:
    lay(lay_celeb_df_v1(tmp_path), [name])
    with pytest.raises(FormatError, match=rf"100 entries, as that of v1, but {name} is of v2; put the list of v2"):
        make_manifest(tmp_path)


def test_a_partial_celeb_df_is_listed_and_its_gaps_are_noted(tmp_path: Path) -> None:
    listing = make_manifest(lay_celeb_df(tmp_path, CELEB[1:], CELEB))
    assert len(listing.videos) == 2
    assert listing.notes[0] == f"{tmp_path} has no YouTube-real/; its videos are not listed"
    assert listing.notes[1] == "1 of the 3 entries of List_of_testing_videos.txt are not on disk"


def test_celeb_df_is_found_in_folders_of_other_case_and_one_deeper(tmp_path: Path) -> None:
    names = ["Youtube-real/videos/00251.mp4", "Celeb-real/id20_0001.mp4", "celeb-synthesis/id20_id3_0001.mp4"]
    lay(tmp_path, names)
    listing = make_manifest(lay_celeb_df(tmp_path, [], CELEB))
    assert [(video.id, video.split) for video in listing.videos] == [(name, "test") for name in sorted(names)]


def test_celeb_df_without_its_list_is_refused_and_listed_with_split_none(tmp_path: Path) -> None:
    lay(tmp_path, CELEB)
    with pytest.raises(UsageError, match=r"no List_of_testing_videos.txt .* beside Celeb-real/, or .* --split none"):
        make_manifest(tmp_path)
    assert {(v.split, v.protocol) for v in make_manifest(tmp_path, choice=NO_SPLIT).videos} == {("", "")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"label path\n1 Celeb-real/id20_0001.mp4\n", "line 1: found 'label path', expected a line like"),
        (b"1 Celeb-real/id20_0001.mp4\n1 Celeb-fake/a.mp4\n", "line 2: found '1 Celeb-fake/a.mp4'"),
        (b"0 Celeb-real/id20_0001.mp4\n", "line 1: 0 means fake, but Celeb-real/id20_0001.mp4 is real"),
        (b"1 YouTube-real/00251.mp4\n\n1 YouTube-real/00251.mp4\n", "line 3 names YouTube-real/00251.mp4 again"),
        (b"\xff\xfe1 Y", "is not a text in UTF-8"),
    ],
)
def test_a_damaged_list_is_refused_naming_the_line(tmp_path: Path, text: bytes, message: str) -> None:
    (lay(tmp_path, CELEB) / "List_of_testing_videos.txt").write_bytes(text)
    with pytest.raises(FormatError, match=message):
        make_manifest(tmp_path)


@pytest.mark.parametrize("layout", ["celeb-df", "ffpp"])
def test_a_video_whose_name_does_not_tell_who_is_seen_is_refused(tmp_path: Path, layout: str) -> None:
    lay(lay_celeb_df(tmp_path, CELEB, CELEB), ["Celeb-real/copy of id20.mp4"])
    lay(lay_ffpp(tmp_path, TWO_PAIRS), ["manipulated_sequences/FaceSwap/c23/videos/000.mp4"])
    with pytest.raises(FormatError, match=r"(copy of id20|000)\.mp4 and 0 others are not named like videos"):
        make_manifest(tmp_path, layout)


def test_two_files_of_one_name_in_celeb_df_are_refused(tmp_path: Path) -> None:
    lay(lay_celeb_df(tmp_path, CELEB, CELEB), ["Celeb-real/videos/id20_0001.mp4"])
    with pytest.raises(FormatError, match=r"are both Celeb-real/id20_0001.mp4; keep one of them"):
        make_manifest(tmp_path)


def test_ffpp_has_its_official_counts_in_every_method(ffpp: Path) -> None:
    listing = make_manifest(ffpp)
    counts: Counter[tuple[str, str]] = Counter((video.split, video.method) for video in listing.videos)
    for split, videos in {"train": 720, "val": 140, "test": 140}.items():
        assert [counts[split, method] for method in ("", *FFPP_METHODS)] == [videos] * 5
    assert {(v.dataset, v.protocol) for v in listing.videos} == {("FF++ c23", "ffpp-official")}
    assert (listing.layout, listing.notes) == ("ffpp", ())


def test_560_test_fakes_of_four_methods_stay_560(ffpp: Path, tmp_path: Path) -> None:
    assert run(ffpp, "--out", tmp_path / "v.csv").exit_code == 0
    fakes = {v.id for v in read_manifest(tmp_path / "v.csv") if v.split == "test" and v.label == "fake"}
    assert len(fakes) == 560


def test_no_group_of_ffpp_is_divided_by_the_official_split(ffpp: Path) -> None:
    splits: dict[str, set[str]] = {}
    for video in make_manifest(ffpp).videos:
        splits.setdefault(video.group, set()).add(video.split)
    assert len(splits) == 500
    assert all(len(found) == 1 for found in splits.values())


def test_a_pair_of_ffpp_is_one_group_and_a_fake_belongs_to_its_target(tmp_path: Path) -> None:
    found = {v.id: (v.group, v.pair, v.split) for v in make_manifest(lay_ffpp(tmp_path, TWO_PAIRS, (1, 1, 0))).videos}
    assert len(found) == 20
    assert found["original_sequences/youtube/c23/videos/003.mp4"] == ("002_003", "003", "val")
    assert found["manipulated_sequences/FaceSwap/c23/videos/003_002.mp4"] == ("002_003", "003", "val")
    assert found["manipulated_sequences/FaceSwap/c23/videos/000_001.mp4"] == ("000_001", "000", "train")


def test_every_compression_of_ffpp_is_listed_or_the_one_that_is_wanted(tmp_path: Path) -> None:
    lay(lay_ffpp(tmp_path, TWO_PAIRS), [f"original_sequences/youtube/{c}/videos/000.mp4" for c in ("c0", "c40")])
    datasets = Counter(video.dataset for video in make_manifest(tmp_path).videos)
    assert datasets == {"FF++ c23": 20, "FF++ raw": 1, "FF++ c40": 1}
    assert len(make_manifest(tmp_path, choice=Choice(compression="raw")).videos) == 1


def test_a_compression_that_is_not_on_disk_is_refused_naming_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds c23, but c40 was wanted"):
        make_manifest(lay_ffpp(tmp_path, TWO_PAIRS), choice=Choice(compression="c40"))


def test_what_the_lists_of_ffpp_name_and_what_lies_on_disk_may_differ_and_is_noted(tmp_path: Path) -> None:
    lay_ffpp(tmp_path, TWO_PAIRS, (1, 1, 0))
    (tmp_path / "original_sequences/youtube/c23/videos/003.mp4").unlink()
    lay(tmp_path, ["manipulated_sequences/FaceSwap/c23/videos/000_003.mp4"])
    listing = make_manifest(tmp_path)
    assert listing.notes[:2] == (
        "1 of the 20 videos that the split lists name are not on disk",
        "1 videos are named by no split list and have no split",
    )
    assert "2 pairs, but the official ones 360, 70 and 70" in listing.notes[2]
    [stranger] = [video for video in listing.videos if video.path.stem == "000_003"]
    assert (stranger.split, stranger.protocol, stranger.group) == ("", "", "000_001_002_003")


def test_the_actors_beside_ffpp_are_left_out_with_a_note(tmp_path: Path) -> None:
    lay(lay_ffpp(tmp_path, TWO_PAIRS), ["original_sequences/actors/c23/videos/01__hugging_happy.mp4"])
    listing = make_manifest(tmp_path)
    assert len(listing.videos) == 20
    assert "original_sequences/actors: 1 videos left out; they have no official split" in listing.notes


def test_the_lists_of_ffpp_may_lie_in_splits(tmp_path: Path) -> None:
    lay_ffpp(tmp_path, TWO_PAIRS, (1, 0, 1))
    (tmp_path / "splits").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.json").rename(tmp_path / f"splits/{split}.json")
    assert Counter(video.split for video in make_manifest(tmp_path).videos) == {"train": 10, "test": 10}


def test_ffpp_without_a_list_is_refused_and_grouped_by_its_fakes_with_split_none(tmp_path: Path) -> None:
    lay_ffpp(tmp_path, TWO_PAIRS)
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").unlink()
    with pytest.raises(UsageError, match=r"has no train.json, .*splits, or list the videos .* --split none"):
        make_manifest(tmp_path)
    listing = make_manifest(tmp_path, choice=NO_SPLIT)
    assert {(v.group, v.split) for v in listing.videos} == {("000_001", ""), ("002_003", "")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["000", "001"], ["002"]]', r'val.json: entry 1 is not what was expected, a pair like \["953", "974"\]'),
        ('[["000", 1]]', r"val.json: entry 0"),
        ("{", r"val.json: the file is not what was expected"),
        ('[["002", "000"]]', r"val.json names 000, which .*train.json has already named"),
    ],
)
def test_a_damaged_list_of_ffpp_is_refused_naming_the_entry(tmp_path: Path, text: str, message: str) -> None:
    lay_ffpp(tmp_path, TWO_PAIRS, (1, 0, 0))
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        make_manifest(tmp_path)


PART = {
    "a.mp4": {"label": "FAKE", "split": "train", "original": "b.mp4"},
    "b.mp4": {"label": "REAL", "split": "train"},
    "c.mp4": {"label": "REAL", "split": "train", "original": None},
}


def test_a_fake_of_dfdc_is_grouped_with_its_original_over_all_parts(tmp_path: Path) -> None:
    lay_dfdc(tmp_path / "dfdc_train_part_0", PART)
    lay_dfdc(tmp_path / "dfdc_train_part_1", {"d.mp4": {"label": "FAKE", "original": "b.mp4"}})
    found = {(v.path.name, v.label, v.group, v.pair, v.split, v.protocol) for v in make_manifest(tmp_path).videos}
    assert found == {
        ("a.mp4", "fake", "b", "b", "", ""), ("b.mp4", "real", "b", "b", "", ""),
        ("c.mp4", "real", "c", "c", "", ""), ("d.mp4", "fake", "b", "b", "", ""),
    }  # fmt: skip


def test_one_part_of_dfdc_is_enough_and_its_gaps_are_noted(tmp_path: Path) -> None:
    part = lay_dfdc(tmp_path / "dfdc_train_part_7", PART)
    (part / "c.mp4").rename(part / "x.mp4")
    listing = make_manifest(part)
    assert [video.id for video in listing.videos] == ["a.mp4", "b.mp4"]
    assert listing.notes == (
        "1 videos that metadata.json names are not on disk",
        "1 videos left out: no metadata.json names them",
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"label": "FAKED", "original": "b.mp4"}, "entry a.mp4 is not what was expected, a label REAL, or FAKE with"),
        ({"label": "FAKE"}, "entry a.mp4 .*Field required"),
        ({"original": "b.mp4"}, "entry a.mp4"),
        ({"label": "REAL", "original": "b.mp4"}, "entry a.mp4"),
        ("FAKE", "entry a.mp4"),
    ],
)
def test_malformed_metadata_of_dfdc_is_refused_naming_file_and_entry(
    tmp_path: Path, entry: object, message: str
) -> None:
    part = lay_dfdc(tmp_path / "dfdc_train_part_0", {"b.mp4": {"label": "REAL"}, "a.mp4": entry})
    with pytest.raises(FormatError, match=rf"dfdc_train_part_0/metadata.json: {message}"):
        make_manifest(part)


def test_metadata_of_dfdc_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (lay(tmp_path, ["a.mp4"]) / "metadata.json").write_text("label,original")
    with pytest.raises(FormatError, match=r"metadata.json: the file is not what was expected"):
        make_manifest(tmp_path)


def test_folders_are_found_in_any_case_and_no_class_is_lost(tmp_path: Path) -> None:
    lay(tmp_path, ["REAL/a.mp4", "REAL/b.AVI", "fake/a.mp4", "fake/deep/c.mkv", "fake/notes.txt", "other/d.mp4"])
    assert [(v.id, v.label) for v in make_manifest(tmp_path).videos] == [
        ("REAL/a.mp4", "real"), ("REAL/b.AVI", "real"), ("fake/a.mp4", "fake"), ("fake/deep/c.mkv", "fake"),
    ]  # fmt: skip


def test_folders_take_groups_and_pairs_from_names(tmp_path: Path) -> None:
    names = ["Real/0001.mp4", "Fake/0001_fake.mp4", "Fake/0002_fake.mp4", "Real/id3_0004.mp4", "Fake/id3_id7_0004.mp4"]
    listing = make_manifest(lay(tmp_path, [*names, "Real/000.mp4"]))
    assert {v.id: (v.group, v.pair) for v in listing.videos} == {
        "Real/000.mp4": ("000", "000"),
        "Real/0001.mp4": ("0001", "0001"),
        "Fake/0001_fake.mp4": ("0001", "0001"),
        "Fake/0002_fake.mp4": ("", ""),
        "Real/id3_0004.mp4": ("id3", ""),
        "Fake/id3_id7_0004.mp4": ("id3", ""),
    }
    assert listing.notes == ("the groups were read from file names: check them",)


@pytest.mark.parametrize("names", [["Real/a.mp4"], ["Real/a.mp4", "Fake/notes.txt"], ["fake/a.mp4"]])
def test_a_folder_without_both_classes_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"folder (real|fake)"):
        make_manifest(lay(tmp_path, names))


def test_a_csv_is_taken_over_and_its_gaps_are_noted(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,split\nx/a.mp4,fake,test\n")
    listing = make_manifest(tmp_path / "list.csv")
    assert [(video.id, video.split) for video in listing.videos] == [("x/a.mp4", "test")]
    assert listing.notes == (
        "1 of these files do not exist",
        "no real video is listed; training and evaluation need both classes",
        "no column or name tells who is seen; fill in `group`, or persons leak",
    )


def test_what_fits_no_layout_is_refused_with_all_that_was_looked_for(tmp_path: Path) -> None:
    looked = r"Celeb-real/.*\(celeb-df\).*original_sequences/.*\(ffpp\).*Fake/ \(folders\).*metadata.json \(dfdc\)"
    with pytest.raises(UsageError, match=rf"fits no layout; looked for {looked}"):
        make_manifest(lay(tmp_path, ["a.mp4"]))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("celeb-df", "has neither Celeb-real/ nor Celeb-synthesis/"),
        ("ffpp", "has neither original_sequences/ nor manipulated_sequences/"),
        ("dfdc", "has no metadata.json"),
        ("folders", "has no folder real and no folder fake"),
        ("csv", "is a directory, but --layout csv wants a file"),
    ],
)
def test_a_layout_that_is_named_but_not_there_is_refused(tmp_path: Path, layout: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_manifest(lay(tmp_path, ["a.mp4"]), layout)


def test_a_file_is_no_dataset_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a file, but --layout ffpp wants a directory"):
        make_manifest(lay(tmp_path, ["a.csv"]) / "a.csv", "ffpp")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory"):
        make_manifest(tmp_path / "nothing")


def test_a_layout_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no video in parts with metadata.json"):
        make_manifest(lay_dfdc(tmp_path, {}))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(compression="c23"), "--compression is for --layout ffpp"),
        (Choice(split="identity-disjoint"), "--split identity-disjoint is for --layout celeb-df"),
    ],
)
def test_options_of_another_dataset_are_refused(tmp_path: Path, choice: Choice, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_manifest(lay(tmp_path, ["Real/a.mp4", "Fake/b.mp4"]), choice=choice)


def test_the_command_offers_every_layout() -> None:
    assert set(dataset_cli.LAYOUTS) == {"auto", *LAYOUTS}


def test_the_command_counts_what_it_lists_and_puts_notes_on_stderr(tmp_path: Path) -> None:
    result = run(lay_celeb_df(tmp_path, CELEB, CELEB[1:]), "--out", tmp_path / "v.csv")
    assert result.exit_code == 0
    assert "3 videos of Celeb-DF v2, 2 real, 1 fake, 2 groups\n  train 1 real, 0 fake\n  test  1 real, 1 fake\n" in (
        result.stdout
    )
    assert result.stderr.startswith("warning: List_of_testing_videos.txt has 2 entries")


def test_the_command_prints_one_json_document(tmp_path: Path) -> None:
    out = tmp_path / "v.csv"
    result = run(lay_ffpp(tmp_path / "ff", TWO_PAIRS, (1, 0, 1)), "--compression", "c23", "--out", out, "--json")
    document = json.loads(result.stdout)
    assert {key: document[key] for key in ("manifest", "layout", "datasets", "videos", "groups", "identities")} == {
        "manifest": str(out), "layout": "ffpp", "datasets": ["FF++ c23"], "videos": 20, "groups": 2, "identities": None,
    }  # fmt: skip
    assert document["splits"] == {"train": {"real": 2, "fake": 8}, "test": {"real": 2, "fake": 8}}


def test_the_command_says_misuse_in_one_sentence(tmp_path: Path) -> None:
    result = run(tmp_path, "--out", tmp_path / "v.csv")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "fits no layout" in result.stderr
    assert not (tmp_path / "v.csv").exists()
