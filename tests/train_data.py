"""Small feature caches made in memory: people with a few videos each, features that may or may not tell the label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.cache import ClipRows, ClipTable, FeatureCache, VideoRecord, VideoResult, write_cache
from extract.specs import BackboneSpec, DetectorSpec, Fingerprint

DIM = 16

ClipRow = tuple[int, int, int, int, int, float, float]  # video, track, view, start, length, start_s, end_s


@dataclass(frozen=True)
class CacheRecipe:
    """`signal` is how far a fake's features are moved along one direction, in standard deviations of the noise."""

    groups: int = 20
    videos_per_group: int = 4
    clips: int = 2
    longest: int = 10
    signal: float = 2.0
    seed: int = 0
    shuffle_labels: bool = False
    splits: tuple[str, ...] = ("",)  # given to the groups in turn
    trained: bool = True


def make_fingerprint(trained: bool = True, dim: int = DIM) -> Fingerprint:
    """A fingerprint of a backbone that was never built."""
    return Fingerprint(
        backbone=BackboneSpec(
            name="fake",
            sha256="b" * 64,
            weights="none",
            weights_sha256="w" * 64,
            dim=dim,
            crop_px=32,
            trained=trained,
        ),
        detector=DetectorSpec(kind="mtcnn", name="mtcnn", package="none"),
    )


def make_record(index: int, fake: bool, group: str = "", split: str = "", status: str = "OK") -> VideoRecord:
    """What a cache says of a video that does not exist."""
    return VideoRecord(
        id=f"v{index:04d}.mp4",
        path=f"/nowhere/v{index:04d}.mp4",
        size=1,
        mtime_ns=1,
        sha256=f"{index:064d}",
        label="fake" if fake else "real",
        group=group,
        pair="",
        dataset="toy",
        method="swap" if fake else "",
        split=split,
        protocol="",
        status=status,
        detail="",
    )


def make_cache(recipe: CacheRecipe | None = None) -> FeatureCache:
    """Half of each person's videos are fake; every person has features of their own, clips differ in length."""
    recipe = recipe or CacheRecipe()
    rng = np.random.default_rng(recipe.seed)
    count = recipe.groups * recipe.videos_per_group
    fake = np.arange(count) % 2 == 1
    seen = rng.permutation(fake) if recipe.shuffle_labels else fake  # what the features show
    records: list[VideoRecord] = []
    blocks: list[NDArray[np.float64]] = []
    clip_rows: list[ClipRow] = []
    start = 0
    for video in range(count):
        person = video // recipe.videos_per_group
        split = recipe.splits[person % len(recipe.splits)]
        records.append(make_record(video, bool(fake[video]), f"person{person}", split))
        look = np.random.default_rng((recipe.seed, person)).normal(size=DIM)
        for clip in range(recipe.clips):
            length = int(rng.integers(4, recipe.longest + 1))
            rows = rng.normal(size=(length, DIM)) + look
            rows[:, 0] += recipe.signal * (1 if seen[video] else -1)
            clip_rows.append((video, 0, 0, start, length, 10.0 * clip, 10.0 * clip + 10))
            blocks.append(rows)
            start += length
    return build_cache(records, clip_rows, np.concatenate(blocks), recipe.trained)


def build_cache(
    records: list[VideoRecord],
    clip_rows: list[ClipRow],
    features: NDArray[np.float64],
    trained: bool = True,
) -> FeatureCache:
    """A cache from its parts."""
    columns = list(zip(*clip_rows, strict=True))
    rows = len(features)
    return FeatureCache(
        path=Path("toy.h5"),
        fingerprint=make_fingerprint(trained, features.shape[1]),
        provenance={},
        videos=records,
        clips=ClipTable(
            video=np.array(columns[0], dtype=np.int32),
            track=np.array(columns[1], dtype=np.int32),
            view=np.array(columns[2], dtype=np.int16),
            start=np.array(columns[3], dtype=np.int64),
            length=np.array(columns[4], dtype=np.int32),
            start_s=np.array(columns[5], dtype=np.float64),
            end_s=np.array(columns[6], dtype=np.float64),
        ),
        features=features.astype(np.float16),
        times_s=np.zeros(rows),
        boxes=np.zeros((rows, 4), dtype=np.float32),
        scores=np.ones(rows, dtype=np.float32),
        sample_crops=np.zeros((0, 1, 1, 3), dtype=np.uint8),
        sample_rows=np.zeros(0, dtype=np.int64),
    )


def write_features(path: Path, cache: FeatureCache) -> Path:
    """Writes a cache that was made in memory to a file."""
    table = cache.clips

    def cut_clip(clip: int) -> ClipRows:
        rows = slice(int(table.start[clip]), int(table.start[clip] + table.length[clip]))
        return ClipRows(
            track=int(table.track[clip]),
            view=int(table.view[clip]),
            start_s=float(table.start_s[clip]),
            end_s=float(table.end_s[clip]),
            times_s=cache.times_s[rows],
            boxes=cache.boxes[rows],
            scores=cache.scores[rows],
            features=cache.features[rows],
        )

    results = [
        VideoResult(record, tuple(cut_clip(int(clip)) for clip in np.flatnonzero(table.video == video)))
        for video, record in enumerate(cache.videos)
    ]
    write_cache(path, cache.fingerprint, cache.provenance, results)
    return path
