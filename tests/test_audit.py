"""The audit: every mistake that splits were found to have is named, and a clean split passes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.audit import near_duplicates, same_files
from extract.audit.leaks import audit_manifest
from extract.audit.report import Audit, Finding
from extract.cache import VideoRecord
from extract.errors import MismatchError
from extract.files import hash_file
from extract.manifest import Label, ManifestVideo, Split, write_manifest
from tests.train_data import build_cache, make_record, write_features
from unmask import main

NOWHERE = Path("/nowhere")
SPLITS: tuple[Split, ...] = ("train", "train", "val", "test")
LABELS: tuple[Label, ...] = ("real", "fake")
DIM = 32


def clip(name: str, split: Split, group: str = "", label: Label = "real", pair: str = "") -> ManifestVideo:
    return ManifestVideo(f"{name}.mp4", NOWHERE / f"{name}.mp4", label, split, group, pair)


def make_clean(folder: Path) -> list[ManifestVideo]:
    """Twelve persons, each a real clip and the fake made from it, on the disk and in one split."""
    videos = []
    for person in range(12):
        split: Split = SPLITS[person % 4]
        for label in LABELS:
            path = folder / f"{label}{person}.mp4"
            path.write_bytes(f"{label} of {person:02}".encode())
            name, pair = f"person{person}", f"clip{person}"
            videos.append(ManifestVideo(path.name, path, label, split, name, pair, protocol="toy"))
    return videos


def run_audit(folder: Path, videos: Sequence[ManifestVideo], *arguments: str) -> Result:
    write_manifest(folder / "videos.csv", videos)
    return CliRunner().invoke(main, ["audit", str(folder / "videos.csv"), *arguments])


def find(audit: Audit, kind: str) -> list[Finding]:
    return [finding for finding in audit.findings if finding.kind == kind]


def test_a_clean_split_passes_and_says_what_was_checked_and_what_was_not(tmp_path: Path) -> None:
    result = run_audit(tmp_path, make_clean(tmp_path))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "24 videos: train 6 real and 6 fake, val 3 real and 3 fake, test 3 real and 3 fake",
        "checked: persons and groups of 24 videos",
        "checked: source clips of 12 fakes",
        "checked: content of 24 files: 0 by the hash in the cache, 24 read, the rest by place and size",
        "note: not checked: near duplicates; name the cache of features to find them",
        "note: not checked: the counts of toy, which are not known",
    ]


def test_videos_shuffled_without_regard_to_persons_fail_in_one_sentence_with_the_protocol(tmp_path: Path) -> None:
    clean = make_clean(tmp_path)
    order = np.random.default_rng(0).permutation(len(clean))
    result = run_audit(tmp_path, [replace(v, split=clean[i].split) for v, i in zip(clean, order, strict=True)])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "unmask: the split toy divides 3 persons between train and test (3 of 6 test videos)"
    )
    assert result.stderr.count("\n") == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["train", "val", "test"])), min_size=1, max_size=20))
def test_a_person_is_found_exactly_where_two_splits_show_them(shown: list[tuple[int, Split]]) -> None:
    audit = audit_manifest([clip(str(i), split, f"p{person}") for i, (person, split) in enumerate(shown)])
    found = {finding.splits: finding for finding in find(audit, "person")}
    for earlier, later in (("train", "val"), ("train", "test"), ("val", "test")):
        both = {p for p, s in shown if s == earlier} & {p for p, s in shown if s == later}
        assert ((earlier, later) in found) == bool(both)
        if both:
            finding = found[earlier, later]
            assert finding.count == len(both)
            assert finding.videos == sum(p in both and s == later for p, s in shown)


def test_the_person_whose_face_a_swap_wears_is_compared_too() -> None:
    audit = audit_manifest([clip("id1_id2_0000", "train", "id1", "fake"), clip("id2_0007", "test", "id2")])
    (finding,) = find(audit, "person")
    assert finding.examples == ("id2: id1_id2_0000.mp4 in train, id2_0007.mp4 in test",)


def test_a_group_that_is_no_person_is_compared_as_a_group() -> None:
    pair = [clip("000", "train", "000_003"), clip("003", "test", "000_003")]
    audit = audit_manifest([replace(video, dataset="FF++ c23") for video in pair])
    assert not find(audit, "person")
    assert find(audit, "group")[0].what == "divides 1 group between train and test (1 of 1 test video)"


@pytest.mark.parametrize(("original", "fake"), [("train", "test"), ("test", "train")])
def test_a_fake_whose_source_clip_is_in_another_split_is_found(original: Split, fake: Split) -> None:
    videos = [clip("a", original, pair="a.mp4"), clip("b", fake, label="fake", pair="a.mp4")]
    (finding,) = find(audit_manifest(videos), "source clip")
    assert (finding.splits, finding.count, finding.videos) == (("train", "test"), 1, 1)
    unnamed = [replace(videos[0], pair=""), videos[1]]  # the fake names the path of a clip that names nothing
    assert find(audit_manifest(unnamed), "source clip") == [finding]


@pytest.mark.parametrize("way", ["copy", "symlink", "other path"])
def test_a_test_video_left_in_train_is_found_under_any_name(tmp_path: Path, way: str) -> None:
    videos = make_clean(tmp_path)
    left, other = next(v for v in videos if v.split == "test"), tmp_path / "train" / "x.mp4"
    other.parent.mkdir()
    if way == "copy":
        shutil.copy(left.path, other)
    elif way == "symlink":
        other.symlink_to(left.path)
    path = tmp_path / "train" / ".." / left.path.name if way == "other path" else other
    audit = audit_manifest([*videos, ManifestVideo("train/x.mp4", path, left.label, "train")])
    (finding,) = find(audit, "same file")
    assert (finding.splits, finding.count, finding.videos) == (("train", "test"), 1, 1)
    assert finding.examples == (f"train/x.mp4 in train, {left.id} in test",)


def test_only_files_of_one_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = []
    for name, content in {"a": "123", "b": "12", "c": "1", "d": "456"}.items():
        (tmp_path / f"{name}.mp4").write_text(content)
        videos.append(replace(clip(name, "train"), path=tmp_path / f"{name}.mp4"))
    read: list[str] = []

    def watch(path: Path) -> str:
        read.append(path.stem)
        return hash_file(path)

    monkeypatch.setattr(same_files, "hash_file", watch)
    assert same_files.find_same_content(videos, {}).groups == ()
    assert read == ["a", "d"]


def test_two_names_of_one_file_are_the_same_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(same_files, "hash_file")
    (tmp_path / "v.mp4").write_text("123")
    os.link(tmp_path / "v.mp4", tmp_path / "w.mp4")
    videos = [replace(clip(name, "train"), path=tmp_path / f"{name}.mp4") for name in ("v", "w")]
    assert same_files.find_same_content(videos, {}).groups == (tuple(videos),)


def test_missing_and_empty_files_are_counted_and_are_no_leak(tmp_path: Path) -> None:
    videos = make_clean(tmp_path)
    videos[0].path.unlink()
    videos[1].path.write_bytes(b"")
    videos[-1].path.write_bytes(b"")
    audit = audit_manifest(videos)
    assert not audit.findings
    assert "not checked: the content of 1 file that cannot be found or read" in audit.notes
    assert "not checked: 2 files of no bytes" in audit.notes


def test_a_file_that_cannot_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(path)

    monkeypatch.setattr(same_files, "hash_file", refuse)
    same = same_files.find_same_content(make_clean(tmp_path), {})
    assert (same.missing, same.hashed, same.groups) == (24, 0, ())


def test_a_video_listed_twice_in_one_split_is_noted_and_is_no_leak(tmp_path: Path) -> None:
    videos = make_clean(tmp_path)
    audit = audit_manifest([*videos, replace(videos[0], id="again.mp4")])
    assert not audit.findings
    assert "1 file listed more than once in one split, where it counts double" in audit.notes


def test_a_manifest_of_two_protocols_names_both(tmp_path: Path) -> None:
    videos = [replace(v, split="train", protocol=v.label) if v.split == "test" else v for v in make_clean(tmp_path)]
    videos = [replace(v, split="test") if v.group == "person3" else v for v in videos]
    videos = [replace(v, group="one") if v.group in ("person3", "person7") else v for v in videos]
    assert audit_manifest(videos).summary == (
        "the split of this manifest (fake, real) divides 1 person between train and test (2 of 2 test videos)"
    )


def test_a_missing_file_listed_by_two_paths_is_still_one(tmp_path: Path) -> None:
    videos = [
        replace(clip("a", "train"), path=tmp_path / "x/../v.mp4"),
        replace(clip("b", "test"), path=tmp_path / "v.mp4"),
    ]
    assert find(audit_manifest(videos), "same file")


def test_one_file_that_is_called_real_and_fake_is_found_without_any_split(tmp_path: Path) -> None:
    videos = [replace(video, split="") for video in make_clean(tmp_path)]
    videos[1].path.write_bytes(videos[0].path.read_bytes())
    (finding,) = audit_manifest(videos).findings
    assert finding.kind == "two labels"
    assert finding.examples == ("real0.mp4 real, fake0.mp4 fake",)


def test_without_any_split_there_is_nothing_to_leak_and_that_is_said(tmp_path: Path) -> None:
    videos = [replace(video, split="", protocol="") for video in make_clean(tmp_path)]
    result = run_audit(tmp_path, videos)
    assert result.exit_code == 0
    assert "24 videos: no split 12 real and 12 fake" in result.stdout
    assert "no video has a split, so there is none to compare" in result.stdout


def test_what_a_split_made_later_may_divide_is_noted(tmp_path: Path) -> None:
    videos = [replace(video, split="") for video in make_clean(tmp_path)]
    videos[2].path.write_bytes(videos[0].path.read_bytes())
    note = "1 file listed in several groups, which a split made by group may divide"
    assert note in audit_manifest(videos).notes
    assert note not in audit_manifest([replace(video, split="train") for video in videos]).notes


def test_gaps_of_the_manifest_are_counted(tmp_path: Path) -> None:
    videos = make_clean(tmp_path)
    videos[0] = replace(videos[0], split="")
    videos[1] = replace(videos[1], group="", pair="")
    notes = audit_manifest(videos).notes
    assert "not checked: 1 video without a split" in notes
    assert "not checked: who is seen in 1 video without `group`" in notes
    assert "not checked: which clip 1 fake without `pair` came from" in notes


def test_a_loop_over_folders_that_lost_one_class_fails(tmp_path: Path) -> None:
    videos = [video for video in make_clean(tmp_path) if video.split != "test" or video.label == "fake"]
    (finding,) = audit_manifest(videos).findings
    assert (finding.kind, finding.what) == ("one class", "has no real video among the 3 of test")


def make_celeb_df() -> list[ManifestVideo]:
    """Counts as in the official split of Celeb-DF v2, the persons invented and apart."""
    labels: list[tuple[Label, Split, int]] = [
        ("real", "test", 178),
        ("fake", "test", 340),
        ("real", "train", 712),
        ("fake", "train", 5299),
    ]
    return [
        replace(clip(f"{label}-{split}-{i}", split, f"{label}{split}{i}", label), protocol="celeb-df-v2-official")
        for label, split, count in labels
        for i in range(count)
    ]


def make_ffpp(methods: Sequence[str] = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")) -> list[ManifestVideo]:
    """The official split of FaceForensics++ in one compression: 360, 70 and 70 pairs."""
    videos = []
    for number in range(500):
        split: Split = "train" if number < 360 else "val" if number < 430 else "test"
        first, second = f"{2 * number:03}", f"{2 * number + 1:03}"
        names = [("", first), ("", second)] + [
            (m, f"{a}_{b}") for m in methods for a, b in ((first, second), (second, first))
        ]
        for method, name in names:
            made = clip(f"{method or 'original'}/{name}", split, f"{first}_{second}", "fake" if method else "real")
            videos.append(replace(made, pair=name[:3], method=method, dataset="FF++ c23", protocol="ffpp-official"))
    return videos


def test_official_counts_pass() -> None:
    audit = audit_manifest([*make_celeb_df(), *make_ffpp()])
    assert not audit.findings
    assert {"counts of celeb-df-v2-official", "counts of ffpp-official"} <= set(audit.checked)


def test_a_list_whose_first_line_was_taken_for_a_header_fails(tmp_path: Path) -> None:
    result = run_audit(tmp_path, make_celeb_df()[1:])
    assert result.exit_code == 1
    assert result.stderr == (
        "unmask: the official split celeb-df-v2-official has test: 177 real, 340 fake instead of 178 real, 340 fake "
        "(one too few is a list whose first line was taken for a header, or one video that is not on disk)\n"
    )


def test_videos_keyed_on_the_name_alone_collapse_four_methods_and_fail() -> None:
    by_name = {video.path.stem: video for video in make_ffpp()}
    audit = audit_manifest(list(by_name.values()))
    assert [finding.what.partition(":")[0] for finding in audit.findings] == [
        "has FF++ c23, fakes of Deepfakes", "has FF++ c23, fakes of Face2Face", "has FF++ c23, fakes of FaceSwap",
    ]  # fmt: skip
    assert all("by the name they share, or methods are not on disk" in finding.what for finding in audit.findings)


def test_fakes_whose_method_was_forgotten_fail() -> None:
    videos = [replace(video, method="") for video in {video.path.stem: video for video in make_ffpp()}.values()]
    parts = [finding.what for finding in audit_manifest(videos).findings]
    assert any("fakes of no method: 720 train, 140 val, 140 test instead of 0 train" in part for part in parts)


def test_a_part_that_was_not_downloaded_fails_and_says_so() -> None:
    (finding,) = audit_manifest([v for v in make_ffpp() if v.id != "FaceSwap/999_998.mp4"]).findings
    assert (finding.splits, finding.count) == (("test",), 1)
    assert "139 test instead of 720 train, 140 val, 140 test" in finding.what
    assert "not on disk" in finding.what


def test_a_later_method_is_counted_where_it_is_listed() -> None:
    later = [video for video in make_ffpp(["FaceShifter"]) if video.method]
    assert not audit_manifest([*make_ffpp(), *later]).findings
    (finding,) = audit_manifest([*make_ffpp(), *later[1:]]).findings
    assert "fakes of FaceShifter: 719 train" in finding.what


def test_more_videos_than_the_official_split_has_fail() -> None:
    extra = replace(clip("extra", "test", "extra", "real"), protocol="celeb-df-v2-official")
    (finding,) = audit_manifest([*make_celeb_df(), extra]).findings
    assert "179 real, 340 fake instead" in finding.what
    assert "listed twice under two names, or others were mixed in" in finding.what


def test_a_video_under_the_wrong_label_fails_where_the_sum_is_right() -> None:
    first, *others = make_celeb_df()
    (finding,) = audit_manifest([replace(first, label="fake"), *others]).findings
    assert "under another label, than in the official list" in finding.what


def make_features(
    folder: Path, looks: Sequence[int], trained: bool = True, noise: float = 0.3, sha256: str | None = None
) -> Path:
    """A video for each look, two clips of it; videos of one look are near duplicates."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(max(looks) + 1, DIM))
    rows = [seen[look] + noise * rng.normal(size=(4, DIM)) + 3 for look in looks for _ in range(2)]
    clips = [(i // 2, 0, 0, 4 * i, 4, 0.0, 10.0) for i in range(2 * len(looks))]
    records = [make_record(i, bool(i % 2)) for i in range(len(looks))]
    records = [replace(record, sha256=sha256 or record.sha256) for record in records]
    return write_features(folder / "f.h5", build_cache(records, clips, np.concatenate(rows), trained))


def list_cached(*splits: Split) -> list[ManifestVideo]:
    return [clip(f"v{i:04}", split, label="fake" if i % 2 else "real") for i, split in enumerate(splits)]


SIX: tuple[Split, ...] = ("train", "train", "val", "val", "test", "test")


def test_features_of_one_recording_in_two_splits_are_found(tmp_path: Path) -> None:
    features = make_features(tmp_path, [0, 1, 2, 3, 1, 4])
    (finding,) = audit_manifest(list_cached(*SIX), features).findings
    assert (finding.kind, finding.splits, finding.videos) == ("near duplicate", ("train", "test"), 1)
    assert finding.examples[0].startswith("v0004.mp4 is v0001.mp4 (similarity 0.9")


def test_features_of_different_recordings_pass_and_one_split_may_hold_two_of_one(tmp_path: Path) -> None:
    audit = audit_manifest(list_cached(*SIX), make_features(tmp_path, [0, 0, 1, 1, 2, 3]))
    assert not audit.findings
    assert "features of 6 videos" in audit.checked


def test_files_of_the_same_bytes_are_not_reported_as_near_duplicates_too(tmp_path: Path) -> None:
    videos = [replace(video, label="real") for video in list_cached(*SIX)]
    audit = audit_manifest(videos, make_features(tmp_path, [0, 1, 2, 3, 1, 4], sha256="aa"))
    assert find(audit, "same file")
    assert not find(audit, "near duplicate")


def test_a_video_is_as_close_as_the_closest_of_its_clips(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second, *others = rng.normal(size=(5, DIM))
    looks = [first, second, *others, first + 0.5 * rng.normal(size=DIM), second]
    owners = [0, 1, 2, 3, 4, 5, 5]  # the last video is less like the first than it is like the second
    clips = [(owner, 0, 0, 4 * i, 4, 0.0, 10.0) for i, owner in enumerate(owners)]
    cache = build_cache([make_record(i, bool(i % 2)) for i in range(6)], clips, np.repeat(looks, 4, axis=0))
    (finding,) = audit_manifest(list_cached(*SIX), write_features(tmp_path / "f.h5", cache), 0.7).findings
    assert finding.examples == ("v0005.mp4 is v0001.mp4 (similarity 1.00)",)


def test_the_similarity_asked_for_decides(tmp_path: Path) -> None:
    features = make_features(tmp_path, [0, 1, 2, 3, 1, 4], noise=1.0)
    videos = [replace(video, path=tmp_path / video.id) for video in list_cached(*SIX)]
    low, high = (run_audit(tmp_path, videos, str(features), "--similarity", least) for least in ("0.5", "0.99"))
    assert (
        low.stderr == "unmask: the split of this manifest shows 1 of 2 test videos in train too, as near duplicates\n"
    )
    assert (low.exit_code, high.exit_code) == (1, 0)


def test_an_untrained_backbone_is_compared_only_when_a_similarity_is_given(tmp_path: Path) -> None:
    features = make_features(tmp_path, [0, 1, 2, 3, 1, 4], trained=False)
    silent = audit_manifest(list_cached(*SIX), features)
    assert not silent.findings
    assert any("untrained" in note for note in silent.notes)
    assert audit_manifest(list_cached(*SIX), features, 0.85).findings


def test_the_closest_clip_is_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(n, 5)).astype(np.float32) for n in (7, 11))
    products = one @ other.T
    for block in (1, 3, 11, 50):
        monkeypatch.setattr(near_duplicates, "BLOCK", block)
        similarity, closest = near_duplicates.find_closest(one, other)
        np.testing.assert_array_equal(closest, products.argmax(axis=1))
        np.testing.assert_allclose(similarity, products.max(axis=1), rtol=1e-5)  # sums of another order


def test_a_cache_of_other_videos_is_refused(tmp_path: Path) -> None:
    features = make_features(tmp_path, [0, 1])
    with pytest.raises(MismatchError, match=r"knows none of the 1 videos of this manifest, such as other\.mp4"):
        audit_manifest([clip("other", "train")], features)


def test_videos_that_the_cache_does_not_have_or_has_otherwise_are_counted(tmp_path: Path) -> None:
    features = make_features(tmp_path, [0, 1])
    notes = audit_manifest(list_cached("train", "test", "test"), features).notes
    assert "not checked: near duplicates of 1 video without features in the cache" in notes
    assert any(note.startswith("2 videos whose split, label or group is another in the cache") for note in notes)


def record_of(video: ManifestVideo, **changes: object) -> VideoRecord:
    stat = video.path.stat()
    record = replace(make_record(0, False), id=video.id, size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256="aa")
    return replace(record, **changes)  # type: ignore[arg-type]


def test_the_hash_in_the_cache_stands_for_a_file_that_did_not_change(tmp_path: Path) -> None:
    first, second, third, *_ = make_clean(tmp_path)
    records = {video.id: record_of(video) for video in (first, second, third)}
    os.utime(third.path, ns=(0, 0))
    same = same_files.find_same_content([first, second, third], records)
    assert [[video.id for video in group] for group in same.groups] == [[first.id, second.id]]
    assert (same.recorded, same.hashed) == (2, 1)


def test_the_hash_in_the_cache_stands_for_a_file_that_is_elsewhere(tmp_path: Path) -> None:
    first, second, *_ = make_clean(tmp_path)
    digest = hash_file(second.path)
    records = {first.id: record_of(first, sha256=digest, size=second.path.stat().st_size)}
    first.path.unlink()
    same = same_files.find_same_content([first, second], records)
    assert [[video.id for video in group] for group in same.groups] == [[first.id, second.id]]
    assert same.missing == 0


def test_the_document_holds_the_findings_and_the_sentence(tmp_path: Path) -> None:
    videos = make_clean(tmp_path)
    videos[0] = replace(videos[0], split="test")
    result = run_audit(tmp_path, videos, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["clean"], document["videos"]) == (1, False, 24)
    assert result.stderr == f"unmask: {document['summary']}\n"
    assert {finding["kind"] for finding in document["findings"]} == {"person", "source clip"}
    assert document["splits"]["test"] == {"real": 4, "fake": 3}
