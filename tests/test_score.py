"""Scoring: the same numbers as training, every bad file a verdict with a reason, exit codes, no torch."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle import SCORER, open_model_folder
from export.fused import FusedModel
from extract import session
from extract.cache import read_cache
from extract.files import hash_file
from serve.lines import format_line
from serve.scorer import Scorer
from serve.verdict import Outcome, Verdict
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector
from tests.media import carphone, numbered_frames, write_audio, write_video
from train.checkpoint import load_head, load_run
from unmask import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scorer(pipeline: Pipeline) -> Scorer:
    """A scorer that sees the faces where extraction saw them."""
    return Scorer(open_model_folder(pipeline.model), FusedModel(pipeline.model / SCORER, "cpu"), FixedDetector(FACE))


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind that cannot be scored, by the reason it should get."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 99)
    cut = write_video(folder / "cut.mp4", numbered_frames(50))
    os.truncate(cut, cut.stat().st_size // 2)
    return {
        "empty": folder / "empty.mp4",
        "text": folder / "text.mp4",
        "cut": cut,
        "audio": write_audio(folder / "audio.mp4"),
        "one frame": write_video(folder / "one.mp4", numbered_frames(1)),
        "no face": write_video(folder / "grey.mp4", numbered_frames(40)),
    }


REASONS = {
    "empty": "DECODE_ERROR",
    "text": "DECODE_ERROR",
    "cut": "DECODE_ERROR",
    "audio": "NO_VIDEO_STREAM",
    "one frame": "TOO_SHORT",
    "no face": "NO_FACE",
}


def score(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def read_lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_scoring_agrees_with_the_head_on_the_cache(pipeline: Pipeline, scorer: Scorer) -> None:
    cache, run = read_cache(pipeline.cache), load_run(pipeline.run)
    head = load_head(run).eval()
    for video in pipeline.videos[:6]:
        number = [record.id for record in cache.videos].index(video.id)
        (clip,) = np.flatnonzero(cache.clips.video == number)
        rows = slice(cache.clips.start[clip], cache.clips.start[clip] + cache.clips.length[clip])
        features = torch.from_numpy(cache.features[rows].astype(np.float32))[None]
        with torch.inference_mode():
            logit = float(head(features, torch.tensor([features.shape[1]]))[1])
        expected = float(run.document.calibration.apply(np.array(logit)))
        assert scorer.score(video.path).p_fake == pytest.approx(expected, abs=2e-3)  # the cache is float16


def test_scoring_agrees_with_the_predictions_of_training(pipeline: Pipeline, scorer: Scorer) -> None:
    with (pipeline.run / "predictions.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    for video in pipeline.videos:
        assert scorer.score(video.path).p_fake == pytest.approx(float(rows[video.id]["p_fake"]), abs=2e-3)


def test_a_verdict_carries_its_evidence(pipeline: Pipeline, scorer: Scorer) -> None:
    verdict = scorer.score(pipeline.videos[0].path)
    assert verdict.sha256 == hash_file(pipeline.videos[0].path)
    assert verdict.provider == "CPUExecutionProvider"
    (track,) = verdict.tracks
    (clip,) = track.clips
    assert len(clip.frames) == 12
    assert [frame.time_s for frame in clip.frames] == pytest.approx(np.arange(12) / 25)
    assert all(0 < frame.p_fake < 1 and frame.box == FACE for frame in clip.frames)
    assert verdict.p_fake == track.p_fake == pytest.approx(clip.p_fake)  # float32 in the graph
    low, high = verdict.uncertain
    assert low <= verdict.threshold <= high
    expected = Outcome.REAL if verdict.p_fake < low else Outcome.UNCERTAIN if verdict.p_fake < high else Outcome.FAKE
    assert verdict.outcome is expected


def test_a_long_video_is_the_mean_of_its_clips(scorer: Scorer, tmp_path: Path) -> None:
    frames = [np.roll(f, 3 * i, axis=1) for i, f in enumerate(numbered_frames(51, 160, 120)[1:])]
    verdict = scorer.score(write_video(tmp_path / "v.mp4", frames, rate=2))
    (track,) = verdict.tracks
    assert len(track.clips) == 3
    assert verdict.logit == pytest.approx(np.mean([clip.logit for clip in track.clips]))


def test_a_real_face_is_scored_from_the_command_line(pipeline: Pipeline) -> None:
    (verdict,) = read_lines(score(pipeline.model, carphone(), "--json", "--device", "cpu"))
    wanted = {"path", "sha256", "outcome", "reason", "p_fake", "threshold", "preset", "tracks", "model", "provider"}
    assert wanted | {"purpose", "untrained_backbone"} <= set(verdict)
    assert verdict["outcome"] in ("REAL", "UNCERTAIN", "FAKE")
    assert verdict["preset"] == "security"
    assert len(verdict["tracks"][0]["clips"][0]["frames"]) == 32


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_file_is_not_scorable_with_its_reason(pipeline: Pipeline, bad_files: dict[str, Path], kind: str) -> None:
    (verdict,) = read_lines(score(pipeline.model, bad_files[kind], "--json"))
    assert (verdict["outcome"], verdict["reason"]) == ("NOT_SCORABLE", REASONS[kind])
    assert verdict["p_fake"] is None
    assert verdict["logit"] is None
    assert verdict["tracks"] == []
    assert verdict["detail"]


def test_the_rest_of_a_batch_goes_on_after_a_bad_file(pipeline: Pipeline, bad_files: dict[str, Path]) -> None:
    lines = read_lines(score(pipeline.model, bad_files["text"], carphone(), bad_files["empty"], "--json"))
    assert sorted(str(line["reason"]) for line in lines) == ["DECODE_ERROR", "DECODE_ERROR", "None"]


def test_a_folder_is_the_videos_below_it(pipeline: Pipeline, bad_files: dict[str, Path]) -> None:
    lines = read_lines(score(pipeline.model, bad_files["text"].parent, "--json"))
    assert sorted(line["path"] for line in lines) == sorted(map(str, bad_files.values()))


def test_csv_has_a_line_a_file_and_empty_cells_for_no_score(pipeline: Pipeline, bad_files: dict[str, Path]) -> None:
    rows = list(csv.DictReader(score(pipeline.model, bad_files["text"], carphone(), "--csv").stdout.splitlines()))
    bad, good = sorted(rows, key=lambda row: row["p_fake"])
    assert (bad["outcome"], bad["p_fake"]) == ("NOT_SCORABLE", "")
    assert 0 < float(good["p_fake"]) < 1


def test_people_read_outcome_probability_and_reason(pipeline: Pipeline, bad_files: dict[str, Path]) -> None:
    head, *lines = score(pipeline.model, bad_files["audio"], carphone(), "--jobs", "1").stdout.splitlines()
    assert head.split() == ["outcome", "P(fake)", "threshold", "file"]
    assert lines[0].startswith("NOT_SCORABLE")
    assert "NO_VIDEO_STREAM" in lines[0]
    assert lines[1].split()[0] in ("REAL", "UNCERTAIN", "FAKE")


def test_misuse_ends_with_2_and_a_sentence(pipeline: Pipeline, tmp_path: Path) -> None:
    for arguments in (
        [pipeline.model, tmp_path / "missing.mp4"],
        [pipeline.model, tmp_path],
        [tmp_path / "no-model", carphone()],
        [pipeline.model, carphone(), "--json", "--csv"],
        [pipeline.model],
    ):
        result = score(*arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output


def test_a_folder_that_is_no_model_ends_with_1_and_a_sentence(tmp_path: Path) -> None:
    result = score(tmp_path, carphone())
    assert result.exit_code == 1
    assert result.stderr.startswith(f"unmask: {tmp_path} has no scorer.onnx")
    assert len(result.stderr.splitlines()) == 1


def test_cuda_that_is_not_there_ends_with_1(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "explain_missing_cuda", lambda: "no NVIDIA driver was found")
    result = score(pipeline.model, carphone(), "--device", "cuda")
    assert result.exit_code == 1
    assert "--device cuda cannot run here: no NVIDIA driver was found" in result.stderr


def test_a_demo_model_and_an_untrained_backbone_say_so_everywhere(scorer: Scorer, pipeline: Pipeline) -> None:
    honest = scorer.score(pipeline.videos[0].path)
    assert honest.notices == ()
    marked = replace(honest, purpose="demo", untrained_backbone=True)
    assert "[DEMONSTRATION]" in format_line(marked)
    assert "[UNTRAINED BACKBONE]" in format_line(marked)
    assert len(marked.to_document()["notices"]) == 2


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=4096), start=st.sampled_from([b"", b"\0\0\0\x18ftypmp42", b"\x1aE\xdf\xa3", b"RIFF"]))
def test_no_file_whatever_it_holds_is_an_error(
    scorer: Scorer, tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.mp4"
    path.write_bytes(start + content)
    verdict: Verdict = scorer.score(path)
    assert verdict.outcome is Outcome.NOT_SCORABLE


def test_a_scoring_process_never_loads_torch_or_onnx(pipeline: Pipeline) -> None:
    code = f"""
import sys
from unmask import main
main(["score", {str(pipeline.model)!r}, {str(carphone())!r}], standalone_mode=False)
print(sorted({{"torch", "onnx", "h5py", "sklearn", "scipy", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
