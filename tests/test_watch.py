"""Live scoring: clips that end with the numbers of scoring, faces apart, and a command that always ends well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from rich.console import Console

from export.bundle import FEATURES, HEAD, SCORER, STREAM, open_model_folder
from export.certificate import CERTIFICATE
from export.contract import Contract
from export.fused import FusedModel
from export.live import LiveHead
from extract.errors import Reason, UnmaskError, UsageError, VideoError
from extract.live_video import LiveFrame, LiveInstants, LiveOrder, LiveSource, LiveVideo
from extract.specs import EvenSampling, RateSampling, SamplingSpec
from extract.video import Frame
from serve.scorer import Scorer
from serve.verdict import Outcome, Verdict
from serve.watch import ClipEnd, LiveModel, Summary, Update, Watcher, choose_sampling, describe_watch, follow
from serve.watch_screen import PanelShow, draw_bar
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector
from tests.media import carphone, carphone_frames, numbered_frames, write_audio, write_video
from unmask import main

ROOT = Path(__file__).parent.parent
OTHER = (100.0, 20.0, 160.0, 90.0)
RATE = RateSampling.suit(5)
# A step at a time, the LSTM's float32 sums come in another order; the backbone gives the same features to the bit.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model(pipeline: Pipeline) -> LiveModel:
    """The small pipeline's model, whose detector knows where the face is, at five frames a second."""
    opened = LiveModel.open(pipeline.model, "cpu")
    return replace(opened, detector=FixedDetector(FACE), contract=sample(opened.contract, RATE))


def sample(contract: Contract, sampling: SamplingSpec, keep: str = "main") -> Contract:
    prints = contract.fingerprint
    tracks = prints.tracks.model_copy(update={"keep": keep})
    return contract.model_copy(
        update={"fingerprint": prints.model_copy(update={"sampling": sampling, "tracks": tracks})}
    )


def score(pipeline: Pipeline, model: LiveModel, path: Path) -> Verdict:
    """The verdict of scoring, with the same detector and specs."""
    fused = FusedModel(pipeline.model / SCORER, "cpu")
    fused.contract = model.contract
    with Scorer(open_model_folder(pipeline.model), fused, model.detector) as scorer:
        return scorer.score(path)


class Feed(list[LiveFrame]):
    """Frames that are there already."""

    def __init__(self, frames: Iterable[LiveFrame], dropped: int = 0) -> None:
        super().__init__(frames)
        self.dropped = dropped
        self.note = ""


class Seen:
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.summary: Summary | None = None

    def begin(self, header: dict[str, Any]) -> None:
        """Not looked at."""

    def show(self, update: Update) -> None:
        """One more."""
        self.updates.append(update)

    def end(self, summary: Summary) -> None:
        """The last."""
        self.summary = summary

    @property
    def clips(self) -> list[ClipEnd]:
        """All clips that ended."""
        assert self.summary is not None
        return [*(clip for update in self.updates for clip in update.clips), *self.summary.clips]


def watch(watcher: Watcher, frames: Iterable[LiveFrame], most_s: float | None = None) -> Seen:
    seen = Seen()
    follow(Feed(frames), watcher, seen, most_s)
    return seen


def read(path: Path, watcher: Watcher) -> Iterator[LiveFrame]:
    return LiveVideo(LiveOrder(LiveSource.parse(str(path)), LiveInstants.of(watcher.sampling))).read()


def make_frames(pictures: Iterable[NDArray[np.uint8]], fps: float = 5.0, clip_s: float = 10.0) -> list[LiveFrame]:
    """Sampled frames of a stream, at even times."""
    times_s = ((number + 0.5) / fps for number in count())
    return [LiveFrame(Frame(t, rgb), int(t // clip_s), t) for t, rgb in zip(times_s, pictures, strict=False)]


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of the talking face: two full clips."""
    return write_video(tmp_path_factory.mktemp("long") / "v.mp4", carphone_frames(120), rate=6)


def test_clips_end_with_the_logits_of_scoring(pipeline: Pipeline, model: LiveModel, long_video: Path) -> None:
    watcher = Watcher(model)
    seen = watch(watcher, read(long_video, watcher))
    verdict = score(pipeline, model, long_video)
    (track,) = verdict.tracks
    assert [clip.frames for clip in seen.clips] == [len(clip.frames) for clip in track.clips] == [50, 50]
    assert [clip.logit for clip in seen.clips] == pytest.approx([clip.logit for clip in track.clips], abs=TOLERANCE)
    assert [(c.start_s, c.counted) for c in seen.clips] == [(c.start_s, c.counted) for c in track.clips]
    assert seen.summary is not None
    assert seen.summary.p_fake == pytest.approx(verdict.p_fake, abs=TOLERANCE)
    assert seen.summary.outcome == verdict.outcome


@pytest.mark.parametrize("keep", ["main", "all"])
def test_several_faces_have_clips_of_their_own_that_count_as_in_scoring(
    pipeline: Pipeline, model: LiveModel, long_video: Path, keep: str
) -> None:
    both = replace(model, detector=FixedDetector(FACE, OTHER), contract=sample(model.contract, RATE, keep))
    watcher = Watcher(both)
    seen = watch(watcher, read(long_video, watcher))
    verdict = score(pipeline, both, long_video)
    scored = {(track.track, clip.start_s): clip for track in verdict.tracks for clip in track.clips}
    assert len(seen.clips) == len(scored) == 4
    for clip in seen.clips:
        same = scored[clip.track, clip.start_s]
        assert clip.logit == pytest.approx(same.logit, abs=TOLERANCE)
        assert clip.counted == same.counted
    assert {clip.counted for clip in seen.clips} == ({True} if keep == "all" else {True, False})
    assert seen.summary is not None
    assert (seen.summary.face, seen.summary.outcome) == (verdict.face, verdict.outcome)
    assert [face.box for face in seen.updates[-1].faces] == [FACE, OTHER]


def test_frames_agree_with_scoring_too(pipeline: Pipeline, model: LiveModel, long_video: Path) -> None:
    watcher = Watcher(model)
    live = [update.faces[0].frame_p_fake for update in watch(watcher, read(long_video, watcher)).updates]
    (track,) = score(pipeline, model, long_video).tracks
    assert live == pytest.approx([frame.p_fake for frame in track.frames], abs=TOLERANCE)


def test_the_score_of_a_face_is_the_mean_of_its_clips_in_the_window(model: LiveModel) -> None:
    pictures = (carphone_frames(48) * 4)[:175]  # 35 s
    watcher = Watcher(model, window_s=12.0)
    seen = watch(watcher, make_frames(pictures))
    first, second, third, last = seen.clips
    at = {round(update.time_s, 1): update for update in seen.updates}
    assert at[9.9].p_fake == pytest.approx(sigmoid(first.logit))
    assert at[29.9].p_fake == pytest.approx(sigmoid(np.mean([second.logit, third.logit])))  # the first ended at 10 s
    assert seen.updates[-1].p_fake == pytest.approx(sigmoid(np.mean([third.logit, last.logit])))
    assert seen.updates[-1].faces[0].frames == 50 + 25


def sigmoid(logit: Any) -> float:
    return float(1 / (1 + np.exp(-logit)))


def test_a_clip_counts_before_it_ends_once_it_has_frames_enough(model: LiveModel) -> None:
    updates = watch(Watcher(model), make_frames(carphone_frames(6))).updates
    assert [update.outcome is Outcome.NOT_SCORABLE for update in updates] == [True] * 3 + [False] * 3
    assert {update.reason for update in updates[:3]} == {"TOO_SHORT"}
    assert all(0 < update.faces[0].frame_p_fake < 1 for update in updates)


def test_no_face_is_never_a_number(model: LiveModel) -> None:
    seen = watch(Watcher(model), make_frames(numbered_frames(1) * 8))
    for part in (*seen.updates, seen.summary):
        assert part is not None
        assert (part.outcome, part.reason, part.p_fake) == (Outcome.NOT_SCORABLE, "NO_FACE", None)
    assert seen.updates[0].detail == "no face"


def test_a_face_that_leaves_is_forgotten_after_the_window(model: LiveModel) -> None:
    black = [np.zeros_like(carphone_frames(1)[0])]
    updates = watch(Watcher(model, window_s=15.0), make_frames(carphone_frames(25) + black * 125)).updates
    gone = [update for update in updates if not update.faces]
    assert gone[0].p_fake is not None
    assert updates[-1].reason == "NO_FACE"  # its clip ended at 10 s
    assert next(u.time_s for u in gone if u.p_fake is None) == pytest.approx(25.1)


def test_a_scene_cut_does_not_merge_two_people(model: LiveModel) -> None:
    negative = [(255 - frame).astype(np.uint8) for frame in carphone_frames(10)]
    seen = watch(Watcher(model), make_frames(carphone_frames(10) + negative))
    assert [(clip.track, clip.frames) for clip in seen.clips] == [(0, 10), (1, 10)]
    alone = watch(Watcher(model), make_frames(negative)).clips
    assert seen.clips[1].logit == pytest.approx(alone[0].logit, abs=TOLERANCE)  # nothing of the first is remembered


def test_faces_stacked_in_a_step_do_not_touch_each_other(model: LiveModel) -> None:
    rows = np.random.default_rng(0).normal(0, 1, (3, 5, model.contract.head.dim)).astype(np.float32)
    together = [model.head.begin() for _ in range(3)]
    alone = [model.head.begin() for _ in range(3)]
    for frame in range(5):
        found, together = model.head.step_each(rows[:, frame], together)
        for face in range(3):
            one, (alone[face],) = model.head.step_each(rows[[face], frame], [alone[face]])
            assert found.logit[face] == pytest.approx(one.logit[0], abs=TOLERANCE)
    with pytest.raises(UnmaskError, match="a step needs the memory of at least one clip"):
        model.head.step_each(rows[:0, 0], [])


def test_a_stepped_head_is_the_one_that_is_verified(pipeline: Pipeline, model: LiveModel) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (2, 4, model.contract.head.dim)).astype(np.float32)
    whole, memories = LiveHead(pipeline.model / STREAM, 2, "cpu"), [model.head.begin(), model.head.begin()]
    for frame in range(4):
        found, memories = model.head.step_each(rows[:, frame], memories)
        assert np.array_equal(found.logit, whole.step(rows[:, frame]).logit)


def test_a_source_that_breaks_is_summed_up_and_told(model: LiveModel) -> None:
    def give() -> Iterator[LiveFrame]:
        yield from make_frames(carphone_frames(8))
        raise VideoError(Reason.DECODER_CRASHED, "the decoder died on it")

    class Broken(Feed):
        def __iter__(self) -> Iterator[LiveFrame]:
            return give()

    seen = Seen()
    with pytest.raises(VideoError, match="the decoder died"):
        follow(Broken([]), Watcher(model), seen)
    assert seen.summary is not None
    assert seen.summary.frames == 8
    assert "the source broke off: the decoder died" in seen.summary.ended


def test_lag_is_what_the_score_is_behind_the_source(model: LiveModel) -> None:
    frames = make_frames(carphone_frames(6))
    now = frames[0].decoded_s - 100  # a source that began long ago by its own clock
    slow = [replace(live, decoded_s=now) for live in frames]
    assert watch(Watcher(model), slow).updates[-1].lag_s > 0
    ahead = [replace(live, decoded_s=10.0**9) for live in frames]
    assert watch(Watcher(model), ahead).updates[-1].lag_s == 0


def test_it_stops_after_the_footage_that_was_asked_for(model: LiveModel) -> None:
    seen = watch(Watcher(model), make_frames(carphone_frames(20)), most_s=2.0)
    assert seen.updates[-1].time_s < 2.0
    assert seen.summary is not None
    assert seen.summary.ended == "2 s are over"


def test_frames_dropped_are_told(model: LiveModel) -> None:
    seen = Seen()
    follow(Feed(make_frames(carphone_frames(5)), dropped=7), Watcher(model), seen)
    assert seen.updates[-1].dropped == 7
    assert seen.summary is not None
    assert seen.summary.dropped == 7


def test_the_step_is_that_of_the_contract_or_a_warning() -> None:
    assert choose_sampling(RATE) == (RATE, "")
    assert choose_sampling(RATE, 5.0) == (RATE, "")
    assert choose_sampling(EvenSampling())[0].measure_step(10.0) == pytest.approx(10 / 32)
    other, remark = choose_sampling(EvenSampling(), 8)
    assert other.measure_step(10.0) == pytest.approx(1 / 8)
    assert remark == "the head was trained at 3.2 frames a second and is fed 8: its error rates there are unknown"
    assert "whatever its length" in choose_sampling(EvenSampling(clips=1))[1]
    for fps in (0.3, 61, float("nan")):
        with pytest.raises(UsageError, match=r"expected 0\.4 to 60"):
            choose_sampling(RATE, fps)


def test_a_window_without_length_is_refused(model: LiveModel) -> None:
    with pytest.raises(UsageError, match="a window of 0 s was asked for"):
        Watcher(model, window_s=0)


def copy_model(pipeline: Pipeline, out: Path, drop: str | None = None, streaming: str | None = None) -> Path:
    shutil.copytree(pipeline.model, out)
    if drop:
        (out / drop).unlink()
    if streaming:
        document = json.loads((out / CERTIFICATE).read_text())
        (out / CERTIFICATE).write_text(json.dumps({**document, "streaming": streaming}))
    return out


def test_a_model_that_cannot_stream_says_why_and_what_to_do(pipeline: Pipeline, tmp_path: Path) -> None:
    why = "a bidirectional head reads each clip from its end too"
    result = run(copy_model(pipeline, tmp_path / "m", STREAM, why), carphone())
    assert result.exit_code == 2
    assert result.stderr.startswith(f"unmask: {tmp_path / 'm'} cannot watch a stream: {why}; use `unmask score`")


def test_a_model_whose_parts_are_not_its_own_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    result = run(copy_model(pipeline, tmp_path / "gone", STREAM), carphone())
    assert (result.exit_code, "which its certificate promises" in result.stderr) == (1, True)
    changed = copy_model(pipeline, tmp_path / "changed")
    shutil.copyfile(changed / HEAD, changed / FEATURES)
    result = run(changed, carphone())
    assert (result.exit_code, "is not the file of its certificate" in result.stderr) == (1, True)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["watch", *map(str, arguments), "--device", "cpu"])


def read_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_a_header_then_frames_and_clips_then_a_summary(pipeline: Pipeline, long_video: Path) -> None:
    result = run(pipeline.model, long_video, "--json")
    assert result.exit_code == 0, result.output
    header, *lines, summary = read_lines(result.stdout)
    assert (header["kind"], header["format"], header["notices"]) == ("header", "unmask-watch/1", [])
    assert {"source", "threshold", "preset", "model", "provider", "purpose", "fps", "clip_s", "window_s"} <= set(header)
    assert [line["kind"] for line in lines] == ["frame"] * 32 + ["clip"] + ["frame"] * 32 + ["clip"]
    wanted = {"time_s", "outcome", "reason", "p_fake", "face", "faces", "dropped", "lag_s"}
    frames = [line for line in lines if line["kind"] == "frame"]
    assert all(wanted <= set(line) for line in frames)
    assert {"track", "box", "p_fake", "frame_p_fake", "frames"} <= set(frames[-1]["faces"][0])
    assert (summary["kind"], summary["frames"], summary["ended"]) == ("summary", 64, "the source ended")


def test_lines_for_a_log_are_one_a_second_and_a_summary(pipeline: Pipeline, long_video: Path) -> None:
    lines = run(pipeline.model, long_video, "--fps", "5", "--for", "6").stdout.splitlines()
    assert lines[0].startswith("the head was trained at 3.2 frames a second")
    assert 6 <= sum("P(fake)" in line and "faces: 1" in line for line in lines) <= 8
    assert lines[-1].startswith("6 s are over: ")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("no-such.mp4",), 2, "no such source: no-such.mp4"),
        (("rtsp://camera",), 2, "nothing is read from the network"),
        (("99",), 1, "cannot be opened"),
        ((str(carphone()), "--preset", "none"), 1, "the model has no preset 'none'"),
        ((str(carphone()), "--preset", "security", "--threshold", "0.5"), 2, "exclude each other"),
        ((str(carphone()), "--window", "0"), 2, "expected more than 0"),
        ((str(carphone()), "--fps", "0.1"), 2, "expected 0.4 to 60"),
    ],
)
def test_what_cannot_be_watched_ends_with_a_sentence(
    pipeline: Pipeline, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    result = run(pipeline.model, *arguments)
    assert result.exit_code == code
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_files_without_a_video_end_with_a_sentence(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 99)
    for path in (tmp_path / "text.mp4", write_audio(tmp_path / "audio.mp4")):
        result = run(pipeline.model, path)
        assert result.exit_code == 1
        assert str(path) in result.stderr
        assert len(result.stderr.splitlines()) == 1


def start(pipeline: Pipeline, *arguments: str, source: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unmask", "watch", str(pipeline.model), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_standard_input_is_watched_or_refused_in_a_sentence(pipeline: Pipeline, tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.ts", carphone_frames(48))
    with path.open("rb") as file, start(pipeline, "-", "--json", source=file.fileno()) as process:
        lines = read_lines(process.communicate(timeout=60)[0])
    assert (process.returncode, lines[0]["source"], lines[-1]["frames"]) == (0, "standard input", 6)
    with (ROOT / "unmask.py").open("rb") as file, start(pipeline, "-", source=file.fileno()) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("unmask: DECODE_ERROR: standard input is not a video that can be read from a pipe")
    assert len(said.splitlines()) == 1


def test_ctrl_c_ends_a_fifo_with_a_summary(pipeline: Pipeline, tmp_path: Path) -> None:
    fifo, path = tmp_path / "fifo", write_video(tmp_path / "v.ts", carphone_frames(48), rate=6)
    os.mkfifo(fifo)
    held: list[int] = []

    def write() -> None:
        held.append(os.open(fifo, os.O_WRONLY))  # waits for the reader, and never says that it is done
        os.write(held[0], path.read_bytes())

    Thread(target=write, daemon=True).start()
    with start(pipeline, str(fifo), "--json") as process:
        assert process.stdout is not None
        before = [json.loads(process.stdout.readline()) for _ in range(8)]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=120)
    os.close(held[0])
    assert (process.returncode, said) == (0, "")
    assert [line["kind"] for line in before] == ["header"] + ["frame"] * 7
    assert (read_lines(rest)[-1]["kind"], read_lines(rest)[-1]["ended"]) == ("summary", "interrupted")


def draw(model: LiveModel, frames: list[LiveFrame]) -> str:
    """The panel of the last frame, and the summary, as plain text."""
    console = Console(width=100, record=True, force_terminal=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show, watcher = PanelShow(console), Watcher(model)
    show.begin(describe_watch(watcher, "camera 0", ("a remark",)))
    for live in frames:
        show._drawn_s = 0.0
        show.show(watcher.take(live))
    show.end(watcher.finish("the end"))
    return console.export_text()


def test_the_panel_says_everything_in_words(model: LiveModel) -> None:
    marked = replace(model, contract=model.contract.model_copy(update={"purpose": "demo", "untrained_backbone": True}))
    text = draw(marked, make_frames(carphone_frames(6)))
    for words in ("unmask watch: camera 0", "! DEMONSTRATION", "! UNTRAINED", "P(fake)", "| threshold", "a remark"):
        assert words in text
    assert any(f"{outcome}: " in text for outcome in ("REAL", "FAKE", "UNCERTAIN"))
    assert "no score: no face" in draw(model, make_frames(numbered_frames(1) * 2))


def test_the_bar_shows_score_and_threshold() -> None:
    assert draw_bar(0.0, 0.5) == "0 [....................|...................] 1   | threshold"
    assert draw_bar(1.0, 1.0) == "0 [#######################################|] 1   | threshold"


def test_a_watching_process_never_loads_torch_or_onnx(pipeline: Pipeline) -> None:
    code = f"""
import sys
from unmask import main
main(["watch", {str(pipeline.model)!r}, {str(carphone())!r}, "--for", "1"], standalone_mode=False)
print(sorted({{"torch", "onnx", "h5py", "sklearn", "scipy", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
