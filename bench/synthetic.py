"""A feature cache of any size whose labels can be learned: people with real and fake videos of one clip each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extract.cache import ClipRows, VideoRecord, VideoResult, write_cache
from extract.specs import BackboneSpec, DetectorSpec, Fingerprint

FRAMES = 32
PEOPLE_SHARE = 20  # videos a person
FAKE_SHARE = 0.86  # of Celeb-DF v2


def write_synthetic_cache(path: Path, videos: int, dim: int, fingerprint: Fingerprint | None = None) -> Path:
    """Fakes differ a little in the mean and in the change from frame to frame; every person looks different.

    The features say that they come from nothing there is, unless `fingerprint` names something.
    """
    write_cache(path, fingerprint or _name_nothing(dim), {"synthetic": True}, _make_results(videos, dim))
    return path


def _name_nothing(dim: int) -> Fingerprint:
    backbone = BackboneSpec(
        name="synthetic", sha256="0" * 64, weights="none", weights_sha256="0" * 64, dim=dim, crop_px=224, trained=True
    )
    return Fingerprint(backbone=backbone, detector=DetectorSpec(kind="mtcnn", name="none", package="none"))


def _make_results(videos: int, dim: int) -> Iterator[VideoResult]:
    rng = np.random.default_rng(0)
    mean, change = (rng.normal(size=dim).astype(np.float32) / np.sqrt(dim) for _ in range(2))
    boxes, scores = np.tile(np.array([0, 0, 9, 9], np.float32), (FRAMES, 1)), np.ones(FRAMES, np.float32)
    times_s, signs = np.arange(FRAMES) / 3.2, np.where(np.arange(FRAMES) % 2, 1, -1).astype(np.float32)
    for video in range(videos):
        person = video // PEOPLE_SHARE
        fake = rng.random() < FAKE_SHARE
        rows = rng.standard_normal((FRAMES, dim), np.float32)
        rows += np.random.default_rng(person).standard_normal(dim, np.float32)
        if fake:
            rows += 3 * mean + np.outer(signs, 3 * change)
        clip = ClipRows(0, 0, 0.0, 10.0, times_s, boxes, scores, rows.astype(np.float16))
        yield VideoResult(_describe(video, person, fake), (clip,))


def _describe(video: int, person: int, fake: bool) -> VideoRecord:
    name = f"v{video:06d}.mp4"
    label, method = ("fake", "synthetic") if fake else ("real", "")
    return VideoRecord(
        id=name, path=name, size=1, mtime_ns=1, sha256=f"{video:064x}", label=label, group=f"person{person}", pair="",
        dataset="synthetic", method=method, split="", protocol="", status="OK", detail="",
    )  # fmt: skip
