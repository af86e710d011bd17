"""The feature cache: round trip, resuming after a kill, content hash, and every refusal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.backbones import Backbone
from extract.cache import (
    SAMPLES,
    ClipRows,
    SamplePicker,
    VideoRecord,
    VideoResult,
    hash_content,
    open_cache,
    read_cache,
    summarise_cache,
    write_cache,
)
from extract.errors import DiskError, FormatError, MismatchError, UsageError
from extract.files import hash_file, write_aside
from extract.manifest import ManifestVideo
from extract.parts import PartStore
from extract.run import Extraction, Extractor, extract_manifest
from tests.fakes import FixedDetector, make_fingerprint, make_tiny_backbone
from tests.media import numbered_frames, write_video

ROOT = Path(__file__).parent.parent
FACE = (20.0, 10.0, 44.0, 34.0)
SOFTWARE = {"numpy": "test"}


def make_result(video_id: str, lengths: list[int], split: str = "train", seed: int = 0) -> VideoResult:
    rng = np.random.default_rng(seed)
    clips = tuple(
        ClipRows(
            track=0, view=0, start_s=10.0 * i, end_s=10.0 * (i + 1), times_s=rng.uniform(0, 9, n),
            boxes=rng.uniform(0, 99, (n, 4)).astype(np.float32), scores=rng.uniform(0, 1, n).astype(np.float32),
            features=rng.normal(size=(n, 8)).astype(np.float16),
        )
        for i, n in enumerate(lengths)
    )  # fmt: skip
    crops = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(sum(lengths))]
    record = VideoRecord(
        id=video_id, path=f"/v/{video_id}", size=7, mtime_ns=9, sha256="ab", label="fake", group="é", pair="",
        dataset="", method="", split=split, protocol="", status="OK" if lengths else "NO_FACE", detail="",
    )  # fmt: skip
    picker = SamplePicker(video_id)
    for crop in crops:
        picker.add(crop[None])
    return VideoResult(record, clips, picker.samples)


def as_manifest(results: list[VideoResult]) -> list[ManifestVideo]:
    return [
        ManifestVideo(r.record.id, Path(r.record.path), "fake", r.record.split, "é")  # type: ignore[arg-type]
        for r in results
    ]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(4, 9), max_size=3), min_size=1, max_size=6))
def test_a_cache_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]]
) -> None:
    path = tmp_path_factory.mktemp("c") / "f.h5"
    results = [make_result(f"{i}.mp4", n, seed=i) for i, n in enumerate(lengths)]
    write_cache(path, make_fingerprint(), SOFTWARE, results)
    with open_cache(path) as cache:
        found = list(cache.read_results(range(len(results))))
    for ours, theirs in zip(found, results, strict=True):
        assert ours.record == theirs.record
        assert [c.features.tobytes() for c in ours.clips] == [c.features.tobytes() for c in theirs.clips]
        assert [c.times_s.tobytes() for c in ours.clips] == [c.times_s.tobytes() for c in theirs.clips]


def test_clips_are_consecutive_rows_of_the_whole_table(tmp_path: Path) -> None:
    write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, [make_result("a", [5, 4]), make_result("b", [7])])
    cache = read_cache(tmp_path / "f.h5")
    assert cache.clips.start.tolist() == [0, 5, 9]
    assert cache.clips.length.tolist() == [5, 4, 7]
    assert cache.clips.video.tolist() == [0, 0, 1]
    assert cache.features.shape == (16, 8)
    assert cache.features.dtype == np.float16


def test_samples_are_crops_with_their_rows_and_never_of_test_videos(tmp_path: Path) -> None:
    results = [make_result(f"{i:03}", [6], "test" if i % 2 else "train", seed=i) for i in range(60)]
    write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, results)
    cache = read_cache(tmp_path / "f.h5")
    assert len(cache.sample_crops) == SAMPLES
    owners = cache.sample_rows // 6
    assert set(owners % 2) == {0}
    with open_cache(tmp_path / "f.h5") as opened:
        crops, features = opened.read_samples()
    assert np.array_equal(crops, cache.sample_crops)
    assert np.array_equal(features.astype(np.float16), cache.features[cache.sample_rows])


def test_samples_are_few_however_long_the_video_and_however_its_clips_come() -> None:
    crops = np.arange(200, dtype=np.uint8).repeat(3).reshape(200, 1, 1, 3)
    whole, pieces = SamplePicker("v"), SamplePicker("v")
    whole.add(crops)
    for start in range(0, 200, 32):
        pieces.add(crops[start : start + 32])
    assert [(s.priority, s.row) for s in whole.samples] == [(s.priority, s.row) for s in pieces.samples]
    assert len(whole.samples) == 4
    assert all(sample.crop.max() == sample.row for sample in whole.samples)


@given(split_at=st.integers(0, 8))
@settings(max_examples=9, deadline=None)
def test_parts_assemble_to_the_same_content_wherever_they_were_cut(
    tmp_path_factory: pytest.TempPathFactory, split_at: int
) -> None:
    folder = tmp_path_factory.mktemp("p")
    results = [make_result(f"{i}", [5, 4], seed=i) for i in range(8)]
    write_cache(folder / "whole.h5", make_fingerprint(), SOFTWARE, results)
    store = PartStore(folder / "f.h5", make_fingerprint(), SOFTWARE)
    for result in results[split_at:]:
        store.add(result)
    store.flush()
    store = PartStore(folder / "f.h5", make_fingerprint(), SOFTWARE, part_s=0)
    for result in results[:split_at]:
        store.add(result)
    store.assemble(as_manifest(results))
    assert hash_of(folder / "f.h5") == hash_of(folder / "whole.h5")
    assert sorted(p.name for p in folder.iterdir()) == ["f.h5", "whole.h5"]


def hash_of(path: Path) -> str:
    with open_cache(path) as cache:
        return hash_content(cache)


def test_content_hash_ignores_where_and_when_but_no_number(tmp_path: Path) -> None:
    first = make_result("a", [5])
    moved = replace(first, record=replace(first.record, path="/elsewhere/a", mtime_ns=1))
    changed = replace(first, clips=(replace(first.clips[0], scores=first.clips[0].scores * 0.5),))
    hashes = []
    for number, result in enumerate((first, moved, changed)):
        write_cache(tmp_path / f"{number}.h5", make_fingerprint(), {"n": number}, [result])
        hashes.append(hash_of(tmp_path / f"{number}.h5"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_info_counts_statuses(tmp_path: Path) -> None:
    write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, [make_result("a", [5]), make_result("b", [])])
    summary = summarise_cache(tmp_path / "f.h5")
    wanted = {"videos": 2, "clips": 1, "rows": 5, "dim": 8, "status_counts": {"NO_FACE": 1, "OK": 1}}
    assert {key: summary[key] for key in wanted} == wanted


def test_a_flipped_byte_in_the_features_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_cache(path, make_fingerprint(), SOFTWARE, [make_result("a", [9])])
    with h5py.File(path, "r") as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match="is damaged"):
        read_cache(path)


def test_files_that_are_no_cache_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such feature cache"):
        read_cache(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(FormatError, match="not a feature cache"):
        read_cache(tmp_path / "text.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["format"] = "unmask-features/0"
    with pytest.raises(FormatError, match=r"'unmask-features/0', expected 'unmask-features/2'"):
        read_cache(tmp_path / "old.h5")


def test_a_cache_of_another_backbone_is_refused_naming_the_field(tmp_path: Path) -> None:
    write_cache(tmp_path / "f.h5", make_fingerprint(trained=True), SOFTWARE, [make_result("a", [5])])
    with pytest.raises(MismatchError, match=r"backbone.trained: found True, expected False"):
        PartStore(tmp_path / "f.h5", make_fingerprint(trained=False), SOFTWARE)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot write"):
        PartStore(tmp_path / "file" / "f.h5", make_fingerprint(), SOFTWARE)


def test_a_cache_with_videos_the_manifest_lacks_is_refused(tmp_path: Path) -> None:
    results = [make_result("a", [5]), make_result("b", [5])]
    write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, results)
    store = PartStore(tmp_path / "f.h5", make_fingerprint(), SOFTWARE)
    with pytest.raises(MismatchError, match=r"1 videos that the manifest does not list \(first: b\)"):
        store.assemble(as_manifest(results[:1]))


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill_disk() -> None:
        with write_aside(tmp_path / "f.bin") as temporary:
            temporary.touch()
            Path("/dev/full").write_bytes(b"x")

    with pytest.raises(DiskError, match=r"no space left on the disk while writing .*f\.bin"):
        fill_disk()
    assert not list(tmp_path.iterdir())


LIMITED_WRITE = """
import resource, signal, sys
from pathlib import Path
from extract.cache import write_cache
from extract.errors import DiskError
from tests.test_cache import SOFTWARE, make_fingerprint, make_result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_cache(Path(sys.argv[1]), make_fingerprint(), SOFTWARE, [make_result("a", [9])])
except DiskError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_cache_the_disk_refuses_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED_WRITE, str(tmp_path / "f.h5")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(f"refused: cannot write {tmp_path / 'f.h5'}: File too large")
    assert done.returncode == 1  # HDF5 left to itself ends with a segmentation fault here
    assert not list(tmp_path.iterdir())


@pytest.fixture
def dataset(tmp_path: Path) -> list[ManifestVideo]:
    videos = []
    for number in range(3):
        path = write_video(tmp_path / f"{number}.mp4", numbered_frames(20 + number)[3:])
        videos.append(ManifestVideo(path.name, path, "fake" if number % 2 else "real"))
    (tmp_path / "broken.mp4").write_text("no video")
    return [*videos, ManifestVideo("broken.mp4", tmp_path / "broken.mp4", "real")]


def run(videos: list[ManifestVideo], out: Path, backbone: Path) -> Extraction:
    return extract_manifest(videos, Extractor(FixedDetector(FACE), Backbone(backbone, "cpu")), out)


def test_extraction_records_a_bad_video_and_goes_on(tmp_path: Path, dataset: list[ManifestVideo]) -> None:
    done = run(dataset, tmp_path / "f.h5", make_tiny_backbone(tmp_path))
    assert done.status_counts == {"DECODE_ERROR": 1, "OK": 3}
    cache = read_cache(tmp_path / "f.h5")
    assert [v.id for v in cache.videos] == ["0.mp4", "1.mp4", "2.mp4", "broken.mp4"]
    assert [video.sha256 for video in cache.videos] == [hash_file(tmp_path / video.id) for video in cache.videos]
    assert cache.clips.length.tolist() == [17, 18, 19]


def test_a_second_run_redoes_only_what_changed(tmp_path: Path, dataset: list[ManifestVideo]) -> None:
    backbone = make_tiny_backbone(tmp_path)
    run(dataset, tmp_path / "f.h5", backbone)
    before = (tmp_path / "f.h5").stat().st_mtime_ns
    assert run(dataset, tmp_path / "f.h5", backbone).reused == 4
    assert (tmp_path / "f.h5").stat().st_mtime_ns == before
    write_video(tmp_path / "1.mp4", numbered_frames(30)[3:])
    assert run(dataset, tmp_path / "f.h5", backbone).reused == 3
    assert read_cache(tmp_path / "f.h5").clips.length.tolist() == [17, 27, 19]


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, dataset: list[ManifestVideo]) -> None:
    extractor = Extractor(FixedDetector(FACE), Backbone(make_tiny_backbone(tmp_path), "cpu"))

    def interrupt(record: VideoRecord) -> None:
        if record.id == "1.mp4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_manifest(dataset, extractor, tmp_path / "f.h5", on_video=interrupt)
    assert extract_manifest(dataset, extractor, tmp_path / "f.h5").reused == 2


def test_labels_and_splits_follow_the_manifest_without_new_work(tmp_path: Path, dataset: list[ManifestVideo]) -> None:
    backbone = make_tiny_backbone(tmp_path)
    run(dataset, tmp_path / "f.h5", backbone)
    assert run([replace(v, split="test") for v in dataset], tmp_path / "f.h5", backbone).reused == 4
    assert {v.split for v in read_cache(tmp_path / "f.h5").videos} == {"test"}


KILLED_RUN = """
import sys, time
from pathlib import Path
from extract.backbones import Backbone
from extract.manifest import ManifestVideo
from extract.run import Extractor, extract_manifest
from tests.fakes import FixedDetector
folder, backbone = Path(sys.argv[1]), Path(sys.argv[2])
videos = [ManifestVideo(p.name, p, "fake") for p in sorted(folder.glob("*.mp4"))]
def wait(record):
    print(record.id, flush=True)
    if record.id == "2.mp4" and "--stop" in sys.argv:
        time.sleep(60)
extractor = Extractor(FixedDetector((20.0, 10.0, 44.0, 34.0)), Backbone(backbone, "cpu"))
extract_manifest(videos, extractor, folder / "f.h5", part_s=0, on_video=wait)
"""


def test_a_run_killed_halfway_ends_with_the_content_of_an_unbroken_one(tmp_path: Path) -> None:
    backbone = make_tiny_backbone(tmp_path)
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", numbered_frames(20 + number)[3:])
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path), str(backbone)]
    with subprocess.Popen([*command, "--stop"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "2.mp4":
            assert process.poll() is None
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "f.h5").exists()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert second.stdout.split() == ["3.mp4", "4.mp4"]
    broken = hash_of(tmp_path / "f.h5")
    (tmp_path / "f.h5").unlink()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert hash_of(tmp_path / "f.h5") == broken
