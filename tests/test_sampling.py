"""Samplings: where the instants of a clip lie, what a cache remembers of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from extract.backbones import Backbone
from extract.cache import read_cache
from extract.clips import Clip, ClipSpecs, read_clips
from extract.errors import MismatchError, UsageError, VideoError
from extract.manifest import ManifestVideo
from extract.pipeline import Extractor
from extract.run import extract_manifest
from extract.specs import (
    BackboneSpec,
    CropSpec,
    DetectorSpec,
    EvenSampling,
    Fingerprint,
    RateSampling,
    SamplingSpec,
    TrackSpec,
    require_same,
)
from extract.video import open_video
from tests.conftest import FACE
from tests.fakes import FixedDetector, make_fingerprint, make_tiny_backbone
from tests.media import carphone, numbered_frames, read_number, write_video
from unmask import main

GREY_FACE = (20.0, 10.0, 44.0, 34.0)


def read_all(path: Path, sampling: str) -> list[Clip]:
    specs = ClipSpecs(SamplingSpec.parse(sampling), CropSpec(size_px=32), TrackSpec())
    return list(read_clips(open_video(path), specs, FixedDetector(GREY_FACE)))


def test_caches_made_before_there_were_rates_keep_their_fingerprint() -> None:
    backbone = BackboneSpec(
        name="tiny", sha256="0" * 64, weights="random:0", weights_sha256="1" * 64, dim=8, crop_px=32, trained=False
    )
    detector = DetectorSpec(kind="mtcnn", name="fixed", package="fixed==1")
    usual = Fingerprint(
        backbone=backbone, detector=detector, sampling=SamplingSpec.parse("even:32"), crop=CropSpec(size_px=32)
    )
    assert usual.sha256 == "5d439b42f4e1bec2ad8745f3f9fe2817c7a810a7e4d6e59a41c10217ee970432"
    fixed = usual.model_copy(update={"sampling": SamplingSpec.parse("even:3", clips=1)})
    assert fixed.sha256 == "a5eaf46465246e93fce2d83f08c79689324563f97bb618fe20d22504e9671aa3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("even:8", EvenSampling(count=8)),
        ("even:2", EvenSampling(count=2, min_frames=2)),
        ("rate:8", RateSampling(fps=8)),
        ("rate:7.5", RateSampling(fps=7.5)),
        ("rate:0.5", RateSampling(fps=0.5, min_frames=2)),
        ("rate:0.01", RateSampling(fps=0.01, min_frames=1)),
    ],
)
def test_a_sampling_is_read_and_survives_its_document(text: str, expected: SamplingSpec) -> None:
    assert SamplingSpec.parse(text) == expected
    fingerprint = make_fingerprint().model_copy(update={"sampling": expected})
    assert Fingerprint.model_validate_json(fingerprint.model_dump_json()) == fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("even:0", "not understood; write even:COUNT or rate:FPS"),
        ("even:7.5", "not understood"),
        ("rate:", "not understood"),
        ("rate:fast", "not understood"),
        ("random:8", "not understood"),
        ("rate:0", "out of range"),
        ("rate:-8", "out of range"),
        ("rate:60.5", "at most 60 a second"),
        ("rate:nan", "out of range"),
        ("rate:inf", "out of range"),
    ],
)
def test_samplings_that_cannot_be_are_misuse(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplingSpec.parse(text)


def test_a_rate_in_one_clip_however_long_is_misuse() -> None:
    with pytest.raises(UsageError, match="leave --clips out, or sample even:COUNT"):
        SamplingSpec.parse("rate:8", clips=1)


def test_samplings_of_two_kinds_differ_in_words() -> None:
    with pytest.raises(MismatchError, match=r"fps: found 8\.0.*kind: found 'rate', expected 'even'"):
        require_same(RateSampling(fps=8), EvenSampling(), "the samplings differ", "make one again")


@given(start_s=st.floats(0, 100), length_s=st.floats(0.001, 10), fps=st.floats(0.1, 60))
def test_instants_of_a_rate_have_one_step_inside_their_clip(start_s: float, length_s: float, fps: float) -> None:
    sampling = RateSampling(fps=fps)
    instants = sampling.sample_instants(start_s, start_s + length_s)
    assert start_s <= instants[0] <= instants[-1] <= start_s + length_s
    assert np.allclose(np.diff(instants), 1 / fps)
    assert instants[-1] + 1 / fps > start_s + length_s - 1e-9  # as many as fit
    assert len(instants) == 1 or instants[0] - start_s == pytest.approx(0.5 / fps)


@given(duration_s=st.floats(0.01, 500), fps=st.floats(0.05, 60))
def test_clips_of_a_long_video_always_have_the_instants_for_a_score(duration_s: float, fps: float) -> None:
    sampling = SamplingSpec.parse(f"rate:{fps}")
    spans = sampling.cut_clips(duration_s, 100_000)
    assert spans == EvenSampling(min_frames=sampling.min_frames).cut_clips(duration_s, 100_000)
    counts = [len(sampling.sample_instants(*span)) for span in spans]
    assert len(spans) == 1 or min(counts) >= sampling.min_frames
    assert max(counts) <= 601


def test_a_file_that_claims_years_is_not_sampled_for_years() -> None:
    sampling = RateSampling(fps=60)
    spans = sampling.cut_clips(1e9, frames=100)
    assert sum(len(sampling.sample_instants(*span)) for span in spans) == 25 * 600


def test_frames_of_every_clip_are_one_step_apart(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(51)[1:], rate=4)
    first, second = read_all(path, "rate:2")
    assert [read_number(crop) for crop in first.crops] == list(range(2, 26, 2))
    assert np.allclose(np.diff(first.times_s), 0.5)
    assert np.allclose(np.diff(second.times_s), 0.5)
    assert first.track == second.track


def test_a_rate_above_the_video_s_own_gives_each_frame_once(tmp_path: Path) -> None:
    (clip,) = read_all(write_video(tmp_path / "v.mp4", numbered_frames(15)[3:], rate=10), "rate:60")
    assert [read_number(crop) for crop in clip.crops] == list(range(3, 15))


def test_a_clip_too_short_for_its_rate_says_how_many_frames_it_gave(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(13)[3:])  # 0.4 s
    with pytest.raises(VideoError, match="TOO_SHORT: sampled frames in its longest clip: 3; a score needs at least 4"):
        read_all(path, "rate:8")


def test_a_face_missed_for_two_sampled_frames_keeps_its_track(tmp_path: Path) -> None:
    frames = numbered_frames(41)[1:]
    for frame in (*frames[8:12], *frames[24:28]):
        frame[:] = 0
    (clip,) = read_all(write_video(tmp_path / "v.mp4", frames, rate=4), "rate:2")  # out of sight for a second, twice
    assert len(clip.crops) == 16


def test_a_cache_at_a_rate_is_what_scoring_computes_from_its_fingerprint(tmp_path: Path) -> None:
    backbone = Backbone(make_tiny_backbone(tmp_path), "cpu")
    extractor = Extractor(FixedDetector(FACE), backbone, SamplingSpec.parse("rate:8"))
    extract_manifest([ManifestVideo("v", carphone(), "real")], extractor, tmp_path / "features.h5")
    cache = read_cache(tmp_path / "features.h5")
    assert cache.fingerprint == extractor.fingerprint
    prints = Fingerprint.model_validate_json(cache.fingerprint.model_dump_json())  # as a model carries it
    specs = ClipSpecs(prints.sampling, prints.crop, prints.tracks)
    (clip,) = read_clips(open_video(carphone()), specs, FixedDetector(FACE))
    assert np.diff(clip.times_s).max() - np.diff(clip.times_s).min() < 0.05  # a frame of the footage more or less
    assert np.array_equal(cache.features, backbone.embed(clip.crops).astype(np.float16))


def test_boxes_are_interpolated_at_small_steps_too() -> None:
    detector = FixedDetector(FACE)
    specs = ClipSpecs(SamplingSpec.parse("rate:25"), CropSpec(size_px=32), TrackSpec())
    (clip,) = read_clips(open_video(carphone()), specs, detector)
    assert np.array_equal(clip.boxes, np.repeat([FACE], len(clip.boxes), axis=0))
    assert sum(shape[0] for shape in detector.batches) < 0.8 * len(clip.crops)


def test_a_cache_of_another_sampling_is_not_continued(tmp_path: Path) -> None:
    extractor = Extractor(FixedDetector(FACE), Backbone(make_tiny_backbone(tmp_path), "cpu"))
    video = ManifestVideo("v", carphone(), "real")
    extract_manifest([video], extractor, tmp_path / "features.h5")
    with pytest.raises(MismatchError, match="sampling"):
        extract_manifest([video], replace(extractor, sampling=RateSampling(fps=8)), tmp_path / "features.h5")


def test_a_sampling_that_is_not_understood_is_misuse_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "videos.csv").write_text(f"path,label\n{carphone()},real\n")
    command = ["extract", str(tmp_path / "videos.csv"), "--backbone", str(make_tiny_backbone(tmp_path))]
    result = CliRunner().invoke(
        main, [*command, "--detector", "mtcnn", "--sampling", "rate:99", "--out", str(tmp_path / "f.h5")]
    )
    assert (result.exit_code, "at most 60 a second" in result.stderr) == (2, True)
