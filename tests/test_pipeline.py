"""The pipeline: features as of one video after the other, a status for every file, bounded and endable."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract import isolation
from extract.backbones import Backbone
from extract.clips import read_clips
from extract.manifest import ManifestVideo
from extract.pipeline import Extractor, Pipeline, StageTimes
from extract.results import OK, VideoResult
from extract.video import open_video
from tests.fakes import FixedDetector, make_tiny_backbone
from tests.media import carphone, carphone_frames, numbered_frames, write_video

FACE = (48.0, 30.0, 112.0, 108.0)


@pytest.fixture
def extractor(tmp_path: Path) -> Extractor:
    return Extractor(FixedDetector(FACE), Backbone(make_tiny_backbone(tmp_path), "cpu"), decoders=2)


def extract(extractor: Extractor, paths: list[Path]) -> dict[str, VideoResult]:
    with Pipeline(extractor, StageTimes()) as pipeline:
        results = pipeline.run([ManifestVideo(path.name, path, "real") for path in paths])
        return {result.record.id: result for result in results}


def test_features_are_those_of_one_video_after_the_other(tmp_path: Path, extractor: Extractor) -> None:
    frames = carphone_frames(60)
    paths = [write_video(tmp_path / f"{n}.mp4", frames[n:][:count]) for n, count in enumerate((30, 7, 60, 12, 45, 5))]
    found = extract(extractor, paths)
    for path in paths:
        clips = list(read_clips(open_video(path), extractor.clip_specs, extractor.detector))
        result = found[path.name]
        assert result.record.status == OK
        for rows, clip in zip(result.clips, clips, strict=True):
            assert np.array_equal(rows.features, extractor.backbone.embed(clip.crops).astype(np.float16))
            assert np.array_equal(rows.times_s, clip.times_s)
            assert np.array_equal(rows.boxes, clip.boxes)


def test_stages_say_how_long_they_were_at_work(tmp_path: Path, extractor: Extractor) -> None:
    busy = StageTimes()
    begun = time.perf_counter()
    with Pipeline(replace(extractor, decoders=1), busy) as pipeline:
        list(pipeline.run([ManifestVideo("v", carphone(), "real")]))
    wall_s = time.perf_counter() - begun
    assert all(0 < seconds < wall_s for seconds in (busy.decode_s, busy.detect_s, busy.crop_s, busy.backbone_s))


def test_crashing_and_hanging_files_cost_their_own_status_only(
    tmp_path: Path, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-m", "tests.faulty_decoder"))
    names = ["a.mp4", "crash1.mp4", "b.mp4", "hang.mp4", "crash2.mp4", "c.mp4"]
    paths = [write_video(tmp_path / name, carphone_frames(20)) for name in names]
    found = extract(replace(extractor, decode_limit_s=1.5), paths)
    statuses = {name: result.record.status for name, result in found.items()}
    assert statuses == {
        "a.mp4": "OK", "b.mp4": "OK", "c.mp4": "OK",
        "crash1.mp4": "DECODER_CRASHED", "crash2.mp4": "DECODER_CRASHED", "hang.mp4": "TIMED_OUT",
    }  # fmt: skip


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A file cut off, with bytes flipped, overwritten, removed or repeated."""
    at = rng.randrange(len(content))
    span = slice(at, at + rng.choice((1, 8, 200, 3000)))
    copy = bytearray(content)
    match rng.randrange(5):
        case 0:
            return content[:at]
        case 1:
            for _ in range(rng.choice((1, 20, 400))):
                copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        case 2:
            copy[span] = bytes(len(copy[span]))
        case 3:
            del copy[span]
        case _:
            copy[at:at] = copy[span]
    return bytes(copy)


def test_200_mutated_files_give_200_statuses(tmp_path: Path, extractor: Extractor) -> None:
    rng = random.Random(0)
    frames = carphone_frames(20)
    originals = [
        write_video(tmp_path / "v.mp4", frames, container_options={"movflags": "faststart"}),
        write_video(tmp_path / "v.mkv", frames),
        write_video(tmp_path / "v.avi", frames, codec="mpeg4"),
        write_video(tmp_path / "v.ts", frames),
    ]
    paths = []
    for number in range(200):
        original = originals[number % 4]
        paths.append(tmp_path / f"{number:03}{original.suffix}")
        paths[-1].write_bytes(mutate(original.read_bytes(), rng))
    found = extract(extractor, paths)
    assert len(found) == 200
    statuses = [result.record.status for result in found.values()]
    assert {"OK", "DECODE_ERROR"} <= set(statuses)
    assert all(result.record.detail for result in found.values() if result.record.status != OK)
    assert all(np.isfinite(clip.features).all() for result in found.values() for clip in result.clips)


def test_an_error_that_is_no_video_s_fault_ends_the_run(tmp_path: Path, extractor: Extractor) -> None:
    class BrokenDetector(FixedDetector):
        def detect(self, frames: np.ndarray) -> list:  # type: ignore[type-arg]
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract(replace(extractor, detector=BrokenDetector()), [carphone()])


def test_a_pipeline_ends_in_the_middle_of_its_work(tmp_path: Path, extractor: Extractor) -> None:
    paths = [write_video(tmp_path / f"{n}.mp4", numbered_frames(60, 640, 480)) for n in range(8)]
    pipeline = Pipeline(extractor, StageTimes())
    next(pipeline.run([ManifestVideo(path.name, path, "real") for path in paths]))
    begun = time.monotonic()
    pipeline.close()
    assert time.monotonic() - begun < 30
