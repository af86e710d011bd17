"""The library: every face judged, many files at once, progress, cancelling, and an end without leftovers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from threading import enumerate as list_threads

import numpy as np
import pytest

from export.bundle import SCORER, open_model_folder
from export.certificate import CERTIFICATE, read_certificate
from export.fused import ClipScores, FusedModel
from extract.errors import CancelledError, MismatchError, UnmaskError, UsageError
from extract.files import hash_file
from extract.limits import MediaLimits
from serve import scorer as scorer_module
from serve.clip_model import ClipModel, Crops
from serve.ruling import OWN
from serve.scorer import Keep, Scorer
from serve.source import SourceFile
from serve.verdict import Outcome, Verdict
from tests.conftest import FACE, Pipeline, blur_face
from tests.fakes import FixedDetector
from tests.media import Frames, carphone, carphone_frames, numbered_frames, write_video

SAME = 1e-6  # of probabilities: clips stacked otherwise are rounded otherwise
RIGHT = (FACE[0] + 176, FACE[1], FACE[2] + 176, FACE[3])


def open_scorer(pipeline: Pipeline, *boxes: tuple[float, float, float, float], tracks: Keep | None = None) -> Scorer:
    model = FusedModel(pipeline.model / SCORER, "cpu")
    return Scorer(open_model_folder(pipeline.model), model, FixedDetector(*boxes), tracks=tracks)


@pytest.fixture(scope="module")
def scorer(pipeline: Pipeline) -> Iterator[Scorer]:
    with open_scorer(pipeline, FACE) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def two_faces(pipeline: Pipeline) -> Path:
    """The same person twice, side by side; the right one's face is smeared, as in the pipeline's fakes."""
    frames: Frames = [np.hstack([frame, blur_face(frame)]) for frame in carphone_frames(24)]
    return write_video(pipeline.folder / "two.mp4", frames)


def test_many_files_have_the_verdicts_they_have_alone(scorer: Scorer, pipeline: Pipeline) -> None:
    paths = [video.path for video in pipeline.videos[:8]]
    alone = {str(path): scorer.score(path) for path in paths}
    for jobs in (1, 3):
        together = {verdict.path: verdict for verdict in scorer.score_many(paths, jobs)}
        assert together.keys() == alone.keys()
        for path, verdict in together.items():
            assert verdict.p_fake == pytest.approx(alone[path].p_fake, abs=SAME)
            assert replace(verdict, p_fake=0, logit=0, tracks=()) == replace(alone[path], p_fake=0, logit=0, tracks=())


def test_a_fake_face_among_real_ones_is_found_and_named(pipeline: Pipeline, two_faces: Path) -> None:
    with open_scorer(pipeline, FACE, RIGHT, tracks="all") as scorer:
        verdict = scorer.score(two_faces)
    left, right = verdict.tracks
    assert (left.clips[0].frames[0].box, right.clips[0].frames[0].box) == (FACE, RIGHT)
    assert right.p_fake > left.p_fake
    assert verdict.face == right.track
    assert verdict.p_fake == pytest.approx(right.p_fake)
    assert "every face counts" in verdict.detail
    assert verdict.rates is None  # those of main faces say nothing of this


def test_a_face_that_does_not_count_is_scored_all_the_same(pipeline: Pipeline, two_faces: Path) -> None:
    larger = (FACE[0] - 8, FACE[1] - 8, FACE[2] + 8, FACE[3] + 8)  # so that the left one is the main face
    with open_scorer(pipeline, larger, RIGHT) as scorer:
        verdict = scorer.score(two_faces)
        assert scorer.tracks == "main"
    left, right = verdict.tracks
    assert (left.counted, right.counted) == (True, False)
    assert verdict.face == left.track
    assert verdict.p_fake == pytest.approx(left.p_fake)
    if right.p_fake >= verdict.threshold:
        assert verdict.outcome is not Outcome.REAL


def test_a_scene_cut_does_not_merge_two_people(pipeline: Pipeline, tmp_path: Path) -> None:
    talking = carphone_frames(24)
    other = [np.ascontiguousarray(255 - frame[:, ::-1]) for frame in talking]
    with open_scorer(pipeline, FACE, tracks="all") as scorer:
        verdict = scorer.score(write_video(tmp_path / "cut.mp4", [*talking, *other]))
    first, second = verdict.tracks
    assert [len(list(track.frames)) for track in (first, second)] == [16, 16]
    assert max(frame.time_s for frame in first.frames) < 24 / 25 <= min(frame.time_s for frame in second.frames)


def test_progress_tells_how_far_the_footage_was_read(scorer: Scorer) -> None:
    told: list[tuple[float, float]] = []
    scorer.score(carphone(), progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) == 32
    assert 0 <= told[0][0] < told[-1][0] < told[0][1] == pytest.approx(4.0, abs=1.1)


class BusyModel:
    """A model that is busy with its first run until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.told = Event(), Event()
        self.runs: list[int] = []
        score = ClipModel.score

        def score_when_told(model: ClipModel, clips: Sequence[Crops]) -> list[ClipScores]:
            self.runs.append(len(clips))
            self.begun.set()
            assert self.told.wait(30)
            return score(model, clips)

        monkeypatch.setattr(ClipModel, "score", score_when_told)


def test_clips_that_wait_are_not_scored_for_a_file_that_was_cancelled(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, cancel = BusyModel(monkeypatch), Event()
    film = write_video(tmp_path / "long.mp4", carphone_frames(24) * 40)  # 39 s: four clips

    def stop(done: float, total: float) -> None:
        if done > 0.9 * total and busy.begun.wait(30):
            cancel.set()

    with open_scorer(pipeline, FACE) as scorer:
        with pytest.raises(CancelledError):
            scorer.score(film, progress=stop, cancel=cancel)
        busy.told.set()
    assert busy.runs == [1]


def test_a_file_that_waits_for_its_scores_alone_can_be_cancelled(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = BusyModel(monkeypatch)
    with open_scorer(pipeline, FACE) as scorer:
        with pytest.raises(CancelledError, match="scoring was cancelled"):
            scorer.score(carphone(), cancel=busy.begun)  # set when its only clip is being scored
        busy.told.set()


def test_a_cancelled_file_ends_and_the_next_is_scored(scorer: Scorer) -> None:
    cancel = Event()

    def stop(done: float, total: float) -> None:
        if done > total / 4:
            cancel.set()

    with pytest.raises(CancelledError, match=r"reading .*carphone.* was cancelled"):
        scorer.score(carphone(), progress=stop, cancel=cancel)
    assert scorer.score(carphone()).p_fake is not None


def test_verdicts_that_nobody_takes_are_not_made(scorer: Scorer, pipeline: Pipeline) -> None:
    verdicts = scorer.score_many([video.path for video in pipeline.videos], jobs=2)
    next(verdicts)
    verdicts.close()
    assert scorer.score(carphone()).outcome is not Outcome.NOT_SCORABLE


def test_threads_may_share_a_scorer(scorer: Scorer, pipeline: Pipeline) -> None:
    found: dict[int, Verdict] = {}
    threads = [Thread(target=lambda i=i: found.update({i: scorer.score(carphone())})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({round(found[i].p_fake or 0, 5) for i in range(4)}) == 1


def test_a_closed_scorer_leaves_nothing_and_says_so(pipeline: Pipeline) -> None:
    threads, processes = {thread.ident for thread in list_threads()}, list_children()
    scorer = open_scorer(pipeline, FACE)
    assert scorer.score(carphone()).p_fake is not None
    assert len(list_children() - processes) == 1
    scorer.close()
    assert {thread.ident for thread in list_threads()} <= threads
    assert list_children() <= processes
    with pytest.raises(UnmaskError, match="the scorer is closed"):
        scorer.score(carphone())


def test_memory_of_a_long_video_is_bounded_by_what_waits(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each clip is received before the next but one is handed in, where nothing may wait."""
    monkeypatch.setattr(scorer_module, "WAITING_BYTES", 1)
    frames = [np.roll(f, 3 * i, axis=1) for i, f in enumerate(numbered_frames(51, 160, 120)[1:])]
    verdict = scorer.score(write_video(tmp_path / "v.mp4", frames, rate=1))
    assert len(verdict.tracks[0].clips) == 5


def test_what_the_command_line_asks_for_is_in_the_verdict(pipeline: Pipeline) -> None:
    with Scorer.open(pipeline.model, "cpu", threshold=0.25, prevalence=0.01) as scorer:
        verdict = scorer.score(carphone())
    assert (verdict.preset, verdict.threshold, verdict.rates) == (OWN, 0.25, None)
    assert verdict.odds is not None
    assert verdict.file is not None
    assert (verdict.file.width, verdict.file.height, verdict.file.frames) == (176, 144, 120)
    assert verdict.file.size_bytes == carphone().stat().st_size
    document = verdict.to_document()
    assert document["format"] == "unmask-verdict/1"
    assert document["model"]["head"] == "lstm, mean pooling"


def test_limits_reach_the_decoder(pipeline: Pipeline) -> None:
    with Scorer.open(pipeline.model, "cpu", limits=MediaLimits(most_duration_s=1.0)) as scorer:
        assert scorer.score(carphone()).outcome is Outcome.NOT_SCORABLE


def test_a_model_that_gives_other_numbers_than_its_certificate_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(pipeline.model, model)
    certificate = read_certificate(model)
    moved = [one.model_copy(update={"logits": tuple(x + 0.01 for x in one.logits)}) for one in certificate.recorded]
    text = certificate.model_copy(update={"recorded": tuple(moved)}).model_dump_json()
    (model / CERTIFICATE).write_text(text, encoding="utf-8")
    with pytest.raises(MismatchError, match=r"other probabilities by CPUExecutionProvider .* differ by 2.5e-03"):
        Scorer.open(model, "cpu")


def test_misuse_leaves_no_process(pipeline: Pipeline) -> None:
    before = list_children()
    with pytest.raises(UsageError, match="exclude each other"):
        Scorer.open(pipeline.model, "cpu", preset="security", threshold=0.5)
    assert list_children() <= before


def list_children() -> set[int]:
    """Processes of this one, of all its threads."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for one in lists for pid in one.read_text(encoding="ascii").split()}


def test_a_pipe_or_device_in_place_of_a_file_is_not_read(scorer: Scorer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero"), tmp_path):
        verdict = scorer.score(path)
        assert (verdict.outcome, verdict.sha256) == (Outcome.NOT_SCORABLE, None)


def test_a_file_that_changes_while_it_is_read_has_no_score(scorer: Scorer, tmp_path: Path) -> None:
    film = shutil.copyfile(carphone(), tmp_path / "arriving.mp4")

    def grow(done: float, total: float) -> None:
        os.truncate(film, film.stat().st_size + 1)

    verdict = scorer.score(film, progress=grow)
    assert (verdict.outcome, verdict.reason) == (Outcome.NOT_SCORABLE, "DECODE_ERROR")
    assert "was changed while it was read; score it again" in verdict.detail


def test_a_file_that_is_gone_while_it_is_read_ends_in_a_verdict(scorer: Scorer, tmp_path: Path) -> None:
    film = shutil.copyfile(carphone(), tmp_path / "fleeting.mp4")
    verdict = scorer.score(film, progress=lambda *_: film.unlink(missing_ok=True))
    assert verdict.outcome is Outcome.NOT_SCORABLE


def test_hashing_can_be_cancelled(scorer: Scorer) -> None:
    cancel = Event()
    source = SourceFile(carphone())
    assert source.hash(cancel) == hash_file(carphone())
    cancel.set()
    with pytest.raises(CancelledError):
        source.hash(cancel)
