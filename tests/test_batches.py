"""Batches: the same clips wherever their rows are, and the order in which an epoch shows them."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from tests.train_data import CacheRecipe, build_cache, make_cache, make_record, write_features
from train import rows
from train.batches import BatchReader
from train.config import AugmentConfig
from train.dataset import ClipData, open_clip_data, read_clip_data, select_usable
from train.rows import StreamedRows, parse_bytes, plan_memory
from train.samplers import Sampler
from train.shared import attach, share_features

CPU = torch.device("cpu")
MB = 1 << 20


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache file of 80 videos."""
    return write_features(tmp_path_factory.mktemp("cache") / "f.h5", make_cache())


def stream(path: Path, most_bytes: int) -> ClipData:
    """The same videos with rows that stay in the file."""
    from extract.cache import open_cache

    with open_cache(path) as cache:
        return read_clip_data(cache, StreamedRows(path, cache.fingerprint.backbone.dim, most_bytes))


def read_epoch(data: ClipData, clips: NDArray[np.int64], kind: str = "shuffle", seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    batches = BatchReader(data, CPU).read_shuffled(clips, 8, Sampler(kind, data), AugmentConfig(), generator)
    return [clip for batch in batches for clip in batch.clips.tolist()]


@pytest.mark.parametrize("most_bytes", [1, 4000, 60_000, 1 << 20])
@pytest.mark.parametrize("step", [1, 3])
def test_clips_that_are_streamed_are_those_in_memory(features: Path, most_bytes: int, step: int) -> None:
    data, streamed = select_usable(make_cache()), stream(features, most_bytes)
    clips = np.arange(len(data.clip_video))[::step]
    for of, expected in zip(
        BatchReader(streamed, CPU).read_in_order(clips, 1), BatchReader(data, CPU).read_in_order(clips, 1), strict=True
    ):
        assert of.clips == expected.clips
        assert of.labels == expected.labels
        assert torch.equal(of.features, expected.features)


def test_a_streamed_epoch_shows_every_clip_once_in_an_order_of_its_own(features: Path) -> None:
    streamed = stream(features, 20_000)
    clips = np.arange(len(streamed.clip_video))[::2]
    first, second = (read_epoch(streamed, clips, seed=seed) for seed in (0, 1))
    assert sorted(first) == sorted(second) == clips.tolist()
    assert first != second
    assert np.abs(np.diff(first)).mean() > 10, "neighbours of the cache are not neighbours of an epoch"


def test_streaming_holds_no_more_rows_than_it_may(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    fill = StreamedRows.fill

    def spy(self: StreamedRows, first: int, rows: NDArray[np.float16]) -> None:
        loaded.append(rows.nbytes)
        fill(self, first, rows)

    monkeypatch.setattr(StreamedRows, "fill", spy)
    streamed = stream(features, 32_000)
    for _ in BatchReader(streamed, CPU).read_in_order(np.arange(len(streamed.clip_video)), 4):
        pass
    assert max(loaded) * 16 <= 32_000  # two pools of eight portions
    assert sum(loaded) >= 2 * 16 * int(streamed.clip_length.sum())


def test_training_reads_rows_of_the_training_clips_alone() -> None:
    data = select_usable(make_cache())
    clips = np.array([1, 4, 7])
    expected = torch.cat(
        [data.rows.load(int(data.clip_start[c]), int(data.clip_start[c] + data.clip_length[c])) for c in clips]
    )
    assert torch.equal(torch.cat(list(BatchReader(data, CPU).read_rows(clips))), expected)


def read_attached(handle, queue):  # type: ignore[no-untyped-def]
    data = attach(handle)
    queue.put((data.rows.load(0, len(data.clip_start)).double().sum().item(), len(data.records)))


def test_shared_rows_are_those_of_the_cache_in_another_process_too(features: Path) -> None:
    with share_features(features) as (data, handle):
        expected = select_usable(make_cache())
        rows = len(expected.clip_start)
        assert torch.equal(data.rows.load(0, rows), expected.rows.load(0, rows))
        assert len(data.records) == 80
        queue = multiprocessing.get_context("fork").Queue()
        process = multiprocessing.get_context("fork").Process(target=read_attached, args=(handle, queue))
        process.start()
        total, records = queue.get(timeout=30)
        process.join()
    assert total == pytest.approx(float(expected.rows.load(0, rows).double().sum()))
    assert records == 0, "names are not sent along"


def test_balanced_epochs_show_as_many_reals_as_fakes() -> None:
    data = make_lopsided()
    shown = read_epoch(data, np.arange(40), "balanced")
    labels = data.labels[data.clip_video[shown]]
    assert (len(shown), labels.sum()) == (40, 20)
    reals = Counter(clip for clip, label in zip(shown, labels, strict=True) if label == 0)
    assert set(reals.values()) == {2, 3}, "8 real clips come as often as one another"


def test_a_paired_epoch_shows_every_fake_beside_a_real_clip_of_its_pair() -> None:
    data = make_lopsided()
    shown = np.array(read_epoch(data, np.arange(40), "paired"))
    reals, fakes = data.clip_video[shown[::2]], data.clip_video[shown[1::2]]
    assert (data.labels[reals] == 0).all()
    assert (data.labels[fakes] == 1).all()
    named = data.pairs[fakes] != ""
    assert named.any()
    assert not named.all()
    assert (data.pairs[reals[named]] == data.pairs[fakes[named]]).all()


def test_pairs_that_nobody_named_are_refused() -> None:
    with pytest.raises(UnmaskError, match="column `pair`"):
        Sampler("paired", select_usable(make_cache()))


def test_of_a_fake_only_the_largest_face_is_learned_from_and_of_a_real_video_every_face() -> None:
    records = [make_record(0, True), make_record(1, False)]
    spans = [(0.0, 10.0), (0.0, 10.0), (10.0, 20.0)]
    rows = [(v, t, 0, 4 * (3 * v + t), 4, *spans[t]) for v in range(2) for t in range(3)]
    cache = build_cache(records, rows, np.zeros((24, 16)))
    cache.boxes[:, 2:] = 10
    cache.boxes[4:8, 2:] = 20  # the second face of the fake
    data = select_usable(cache)
    assert data.list_clips(np.array([0, 1])).tolist() == [0, 1, 2, 3, 4, 5]
    assert data.list_training_clips(np.array([0, 1])).tolist() == [1, 2, 3, 4, 5]


def test_areas_read_from_a_file_are_those_of_the_cache_in_memory(tmp_path: Path) -> None:
    cache = make_cache()
    cache.boxes[:] = np.random.default_rng(0).uniform(0, 99, cache.boxes.shape)
    with open_clip_data(write_features(tmp_path / "f.h5", cache)) as data:
        np.testing.assert_array_equal(data.clip_leads, select_usable(cache).clip_leads)


def test_rows_that_are_not_finite_are_refused_wherever_they_are(tmp_path: Path) -> None:
    cache = make_cache()
    cache.features[300, 3] = np.nan
    path = write_features(tmp_path / "f.h5", cache)
    with pytest.raises(FormatError, match="not finite"), open_clip_data(path):
        pass
    with pytest.raises(FormatError, match="not finite"):
        stream(path, 1 << 20).rows.load(290, 310)
    with pytest.raises(FormatError, match="not finite"), share_features(path):
        pass


def test_rows_stay_in_the_file_when_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_read_resident", lambda: 400 * MB)
    assert plan_memory(800 * MB, 1900 * MB) is None
    assert plan_memory(800 * MB, 1500 * MB) == 256 * MB  # of 500, after what is used and what training needs
    assert plan_memory(800 * MB, 1490 * MB) == 256 * MB, "a little more or less changes no order of clips"
    assert plan_memory(800 * MB, 2500 * MB, processes=4) == 512 * MB
    with pytest.raises(UsageError, match=r"at least 1032 MB, but it may use 1020 MB; give more with --memory"):
        plan_memory(800 * MB, 1020 * MB)


def test_without_a_limit_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_read_available", lambda: 2000 * MB)
    assert plan_memory(900 * MB, None) is None
    assert plan_memory(1100 * MB, None) == 512 * MB


def test_sizes_of_memory_are_read() -> None:
    assert [parse_bytes(text) for text in ("1KB", "1.5 MB", "4GB")] == [1024, 1572864, 4 << 30]


@pytest.mark.parametrize("text", ["", "4", "GB", "-1GB", "4PB", "nanGB", "infGB"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write for example 800MB"):
        parse_bytes(text)


def make_lopsided() -> ClipData:
    """8 real clips and 32 fakes; all but four of the fakes name their pair."""
    fakes = [i % 5 != 0 for i in range(40)]
    records = [replace(make_record(i, fake), pair=f"p{i // 5}") for i, fake in enumerate(fakes)]
    records = [replace(r, pair="") if i % 10 == 1 else r for i, r in enumerate(records)]
    clip_rows = [(i, 0, 0, 4 * i, 4, 0.0, 10.0) for i in range(40)]
    return select_usable(build_cache(records, clip_rows, np.zeros((160, 16))))


def test_a_recipe_of_one_class_is_shuffled() -> None:
    data = select_usable(make_cache(CacheRecipe(groups=4)))
    reals = np.flatnonzero(data.labels[data.clip_video] == 0)
    assert sorted(read_epoch(data, reals, "balanced")) == reals.tolist()


@pytest.mark.parametrize("kind", ["balanced", "paired"])
def test_rows_in_a_file_are_shuffled_and_nothing_else(features: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="--sampling shuffle"):
        Sampler(kind, stream(features, 20_000))


def test_a_cache_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_features(tmp_path / "f.h5", make_cache())
    streamed = stream(path, 20_000)
    write_features(path, make_cache(CacheRecipe(seed=1)))
    with pytest.raises(MismatchError, match="was replaced"):
        streamed.rows.load(0, 4)
