"""Results of videos that do not exist, as extraction gives them, and ways to damage the cache that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from extract.cache import ClipRows, SamplePicker, VideoRecord, VideoResult, hash_content, open_cache, write_cache
from extract.manifest import ManifestVideo
from tests.fakes import make_fingerprint

SOFTWARE = {"numpy": "test"}
DIM = 8


def make_result(
    video_id: str, lengths: Sequence[int], split: str = "train", seed: int = 0, dim: int = DIM
) -> VideoResult:
    """One video with clips of the given lengths; without any it shows no face."""
    rng = np.random.default_rng(seed)
    clips = tuple(
        ClipRows(
            track=0, view=0, start_s=10.0 * i, end_s=10.0 * (i + 1), times_s=rng.uniform(0, 9, n),
            boxes=rng.uniform(0, 99, (n, 4)).astype(np.float32), scores=rng.uniform(0, 1, n).astype(np.float32),
            features=rng.normal(size=(n, dim)).astype(np.float16),
        )
        for i, n in enumerate(lengths)
    )  # fmt: skip
    record = VideoRecord(
        id=video_id, path=f"/v/{video_id}", size=7, mtime_ns=9, sha256="ab", label="fake", group="é", pair="",
        dataset="", method="", split=split, protocol="", status="OK" if lengths else "NO_FACE", detail="",
    )  # fmt: skip
    picker = SamplePicker(video_id)
    for _ in range(sum(lengths)):
        picker.add(rng.integers(0, 255, (1, 32, 32, 3), np.uint8))
    return VideoResult(record, clips, picker.samples)


def make_results(count: int, lengths: Sequence[int] = (5, 4)) -> list[VideoResult]:
    """Videos 000, 001, ... each with numbers of its own."""
    return [make_result(f"{i:03}", lengths, seed=i) for i in range(count)]


def as_manifest(results: Sequence[VideoResult]) -> list[ManifestVideo]:
    """The manifest that lists the videos of some results."""
    return [
        ManifestVideo(r.record.id, Path(r.record.path), "fake", r.record.split, "é")  # type: ignore[arg-type]
        for r in results
    ]


def save(path: Path, results: Sequence[VideoResult], trained: bool = True) -> Path:
    """Writes a cache of results in order of id."""
    ordered = sorted(results, key=lambda result: result.record.id)
    dim = next((clip.features.shape[1] for r in results for clip in r.clips), DIM)
    write_cache(path, make_fingerprint(dim, trained), SOFTWARE, ordered)
    return path


def hash_of(path: Path) -> str:
    """The content hash of a cache, computed anew."""
    with open_cache(path) as cache:
        return hash_content(cache)


def list_datasets(path: Path) -> list[str]:
    """The names of all datasets that hold anything."""
    names: list[str] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.size else None)
    return names


def flip_byte(path: Path, offset: int) -> None:
    """Changes one byte of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)
