"""The feature cache: round trip, resuming after a kill, content hash, and every refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.cache import (
    SAMPLES,
    SamplePicker,
    VideoRecord,
    open_cache,
    read_cache,
    summarise_cache,
    write_cache,
)
from extract.cache_writer import CLIP_COLUMNS, ROW_COLUMNS
from extract.errors import DiskError, FormatError, UsageError
from extract.files import write_aside
from tests.cache_data import SOFTWARE, flip_byte, hash_of, make_result, make_results, save
from tests.fakes import make_fingerprint

ROOT = Path(__file__).parent.parent
FACE = (20.0, 10.0, 44.0, 34.0)
DATASETS = [*ROW_COLUMNS, *(f"clips/{name}" for name in CLIP_COLUMNS)]
DATASETS += [f"videos/{f.name}" for f in fields(VideoRecord)]
DATASETS += ["samples/priority", "samples/row", "samples/crop"]


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


@settings(max_examples=30, deadline=None)
@given(chosen=st.lists(st.integers(0, 5), unique=True), read_bytes=st.integers(1, 2000))
def test_results_are_read_in_any_order_and_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[int], read_bytes: int
) -> None:
    results = [make_result(f"{i}", [4] * (i % 3), seed=i) for i in range(6)]
    path = save(tmp_path_factory.mktemp("c") / "f.h5", results)
    with pytest.MonkeyPatch.context() as patch, open_cache(path) as cache:
        patch.setattr("extract.cache.READ_BYTES", read_bytes)
        found = list(cache.read_results(chosen))
    assert [result.record for result in found] == [results[i].record for i in chosen]
    for ours, index in zip(found, chosen, strict=True):
        assert [c.boxes.tolist() for c in ours.clips] == [c.boxes.tolist() for c in results[index].clips]
        assert sorted(s.row for s in ours.samples) == sorted(s.row for s in results[index].samples)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(), min_size=1, max_size=4))
def test_every_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    results = [make_result(f"{i}", []) for i in range(len(texts))]
    results = [replace(r, record=replace(r.record, detail=t)) for r, t in zip(results, texts, strict=True)]
    path = save(tmp_path_factory.mktemp("c") / "f.h5", results)
    assert [record.detail for record in read_cache(path).videos] == texts


def test_a_file_name_that_is_no_utf_8_comes_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    assert read_cache(save(tmp_path / "f.h5", [make_result(name, [5])])).videos[0].id == name


@settings(max_examples=15, deadline=None)
@given(chunk_bytes=st.integers(16, 4000), lengths=st.lists(st.integers(4, 40), max_size=6))
def test_chunks_of_any_size_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, chunk_bytes: int, lengths: list[int]
) -> None:
    result = make_result("a", lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.cache_writer.CHUNK_BYTES", chunk_bytes)
        cache = read_cache(save(tmp_path_factory.mktemp("c") / "f.h5", [result]))
    wanted = np.concatenate([np.zeros((0, 8), np.float16), *(clip.features for clip in result.clips)])
    assert np.array_equal(cache.features, wanted)


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


def test_content_hash_ignores_where_and_when_but_no_number(tmp_path: Path) -> None:
    first = make_result("a", [5])
    moved = replace(first, record=replace(first.record, path="/elsewhere/a", mtime_ns=1))
    changed = replace(first, clips=(replace(first.clips[0], scores=first.clips[0].scores * 0.5),))
    hashes = []
    for number, result in enumerate((first, moved, changed)):
        write_cache(tmp_path / f"{number}.h5", make_fingerprint(), {"n": number}, [result])
        hashes.append(hash_of(tmp_path / f"{number}.h5"))
    assert hashes[0] == hashes[1] != hashes[2]


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(4, 9), max_size=3), min_size=1, max_size=30))
def test_the_content_hash_is_stored_as_it_is_computed(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]]
) -> None:
    results = [make_result(f"{i:02}", n, "test" if i % 5 == 0 else "train", seed=i) for i, n in enumerate(lengths)]
    path = save(tmp_path_factory.mktemp("c") / "f.h5", results)
    with open_cache(path) as cache:
        assert cache.content_sha256 == hash_of(path)


def test_results_out_of_order_have_no_stored_hash_but_the_same_content(tmp_path: Path) -> None:
    results = make_results(3)
    save(tmp_path / "sorted.h5", results)
    write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, results[::-1])
    with open_cache(tmp_path / "f.h5") as cache:
        assert cache.content_sha256 is None
    assert summarise_cache(tmp_path / "f.h5")["content_sha256"] == hash_of(tmp_path / "sorted.h5")


def test_info_counts_statuses(tmp_path: Path) -> None:
    write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, [make_result("a", [5]), make_result("b", [])])
    summary = summarise_cache(tmp_path / "f.h5")
    wanted = {"videos": 2, "clips": 1, "rows": 5, "dim": 8, "status_counts": {"NO_FACE": 1, "OK": 1}}
    assert {key: summary[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", DATASETS)
def test_a_changed_byte_is_noticed_by_whoever_reads_it(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "f.h5", [make_result("a", [9])])
    with h5py.File(path, "r") as file:
        offset = file[name].id.get_chunk_info(0).byte_offset
    flip_byte(path, offset + 3)
    with pytest.raises(FormatError, match=f"is damaged in {name}: "):
        read_everything(path)


def read_everything(path: Path) -> None:
    with open_cache(path) as cache:
        list(cache.read_results(range(cache.video_count)))


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
from tests.cache_data import SOFTWARE, make_result
from tests.fakes import make_fingerprint
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
