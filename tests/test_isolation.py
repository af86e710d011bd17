"""Decoding in a process of its own: the same frames, and what a file does that crashes or hangs the decoder."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract import isolation
from extract.errors import CancelledError, Reason, UnmaskError, VideoError
from extract.isolation import DecoderProcess, IsolatedVideo
from extract.video import Video, open_video
from tests.media import carphone, carphone_frames, numbered_frames, read_number, write_audio, write_video

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess()
    yield process
    process.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-m", "tests.faulty_decoder"))
    process = DecoderProcess(limit_s=1.5)
    yield process
    process.close()


def read_all(video: Video | IsolatedVideo, instants: list[float]) -> list[tuple[slice, float, bytes]]:
    return [(served, f.time_s, f.rgb.tobytes()) for served, f in video.read_at(np.array(instants))]


@settings(max_examples=10, deadline=None)
@given(instants=st.lists(st.floats(0, 5), min_size=1, max_size=50).map(sorted))
def test_frames_are_those_of_this_process(decoder: DecoderProcess, instants: list[float]) -> None:
    assert read_all(decoder.open(carphone()), instants) == read_all(open_video(carphone()), instants)


def test_facts_and_notes_pass(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = write_video(tmp_path / "v.mp4", carphone_frames(60), rate=10, container_options={"movflags": "faststart"})
    os.truncate(path, path.stat().st_size * 2 // 3)
    here, there = open_video(path), decoder.open(path)
    assert there.facts == here.facts
    read_all(there, [0.0, 1.0])
    assert there.note == here.note != ""


def test_larger_frames_follow_smaller_ones(tmp_path: Path, decoder: DecoderProcess) -> None:
    for side in (64, 640, 128, 1280):
        video = decoder.open(write_video(tmp_path / f"{side}.mp4", numbered_frames(40, side, side)))
        found = [(f.rgb.shape, read_number(f.rgb)) for _, f in video.read_at(np.arange(40) / 25 + 0.01)]
        assert found == [((side, side, 3), number) for number in range(40)]


def test_a_refusal_has_the_reason_it_has_here(tmp_path: Path, decoder: DecoderProcess) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "text.mp4", tmp_path / "missing.mp4", write_audio(tmp_path / "audio.mp4")):
        with pytest.raises(VideoError) as here:
            open_video(path)
        with pytest.raises(VideoError) as there:
            decoder.open(path)
        assert (there.value.reason, there.value.detail) == (here.value.reason, here.value.detail)


def test_a_reader_that_stops_early_does_not_spoil_the_next_video(tmp_path: Path, decoder: DecoderProcess) -> None:
    next(decoder.open(carphone()).read_at(np.arange(100) / 25))
    video = decoder.open(write_video(tmp_path / "v.mp4", numbered_frames(9)))
    assert [read_number(f.rgb) for _, f in video.read_at(np.array([0.1, 0.3]))] == [2, 7]


def test_a_reader_that_is_forgotten_late_does_not_spoil_the_next_video(tmp_path: Path, decoder: DecoderProcess) -> None:
    stale = decoder.open(carphone()).read_at(np.arange(100) / 25)
    next(stale)
    frames = decoder.open(write_video(tmp_path / "v.mp4", numbered_frames(9))).read_at(np.array([0.1, 0.3]))
    first = read_number(next(frames)[1].rgb)
    stale.close()  # type: ignore[attr-defined]
    assert [first, *(read_number(f.rgb) for _, f in frames)] == [2, 7]


def test_a_file_that_crashes_the_decoder_has_that_status_and_the_next_is_read(
    tmp_path: Path, faulty: DecoderProcess
) -> None:
    path = write_video(tmp_path / "crash.mp4", numbered_frames(20))
    with pytest.raises(VideoError, match=r"died on .*crash.mp4 \(signal 11, Segmentation fault\)") as caught:
        read_all(faulty.open(path), [0.1, 0.3, 0.5, 0.7])
    assert caught.value.reason == Reason.DECODER_CRASHED
    assert len(read_all(faulty.open(write_video(tmp_path / "v.mp4", numbered_frames(20))), [0.1, 0.3, 0.5, 0.7])) == 4


def test_a_file_that_hangs_the_decoder_has_that_status_and_the_next_is_read(
    tmp_path: Path, faulty: DecoderProcess
) -> None:
    path = write_video(tmp_path / "hang.mp4", numbered_frames(20))
    begun = time.monotonic()
    with pytest.raises(VideoError, match=r"the decoder was ended: .*hang.mp4 took more time") as caught:
        read_all(faulty.open(path), [0.1, 0.3, 0.5, 0.7])
    assert time.monotonic() - begun < 10
    assert caught.value.reason == Reason.TIMED_OUT
    assert len(read_all(faulty.open(write_video(tmp_path / "v.mp4", numbered_frames(20))), [0.1, 0.3, 0.5, 0.7])) == 4


def test_a_process_that_cannot_start_is_no_fault_of_the_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", "import no_such_package"))
    with pytest.raises(UnmaskError, match=r"does not start: ModuleNotFoundError: .*no_such_package") as caught:
        DecoderProcess().open(carphone())
    assert not isinstance(caught.value, VideoError)


def test_a_process_that_was_launched_is_the_one_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = DecoderProcess()
    decoder.launch()
    decoder.launch()
    process = decoder._process
    write_video(tmp_path / "v.mp4", numbered_frames(9))
    monkeypatch.chdir(tmp_path)  # a relative path is meant as it is here, not as it was there
    assert decoder.open(Path("v.mp4")).facts.frames == 9
    assert process is decoder._process is not None
    decoder.close()


def test_launching_does_not_wait_and_a_process_that_died_at_once_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "import time; time.sleep(0.7); raise SystemExit('no such thing')"
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-c", slow))
    decoder = DecoderProcess()
    decoder.launch()
    assert decoder._process is not None
    assert decoder._process.poll() is None  # it sleeps
    decoder._process.wait()
    with pytest.raises(UnmaskError, match="does not start: no such thing"):
        decoder.open(carphone())


def test_files_of_the_working_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    decoder = DecoderProcess()
    assert decoder.open(carphone()).facts.frames == 120
    decoder.close()


def test_a_frame_that_claims_to_stay_for_days_buys_no_patience(tmp_path: Path, decoder: DecoderProcess) -> None:
    times = [*range(0, 440, 40), 500_000_000]
    video = decoder.open(write_video(tmp_path / "v.mkv", numbered_frames(12), times_ms=times))
    assert video.facts.duration_s > 5e5
    assert video.facts.footage_s == 12
    assert len(read_all(video, [0.1, 0.3, 5.0])) == 3


def test_a_decoder_that_was_aborted_does_not_start_again() -> None:
    decoder = DecoderProcess()
    decoder.abort()
    with pytest.raises(UnmaskError, match="decoding was ended"):
        decoder.open(carphone())


ORPHAN = """
import sys
from pathlib import Path
import numpy as np
from extract.isolation import DecoderProcess
decoder = DecoderProcess()
frames = decoder.open(Path(sys.argv[1])).read_at(np.arange(100) / 25)
next(frames)
print(decoder._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_decoder_ends_with_its_killed_parent() -> None:
    command = [sys.executable, "-c", ORPHAN, str(carphone())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(pid: int) -> bool:
    """False for a process that is gone, or dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_while_a_file_is_opened_leaves_no_answer_for_the_next(
    tmp_path: Path, decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "v.mp4", numbered_frames(20))
    with monkeypatch.context() as patch:
        patch.setattr(DecoderProcess, "_hear", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoder.open(tmp_path / "missing.mp4")
    assert decoder.open(path).facts == open_video(path).facts


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["x" * 300, "nul\0.mp4"])
def test_a_name_that_no_file_can_have_is_refused_and_the_next_file_read(decoder: DecoderProcess, name: str) -> None:
    with pytest.raises(VideoError) as refused:
        decoder.open(Path(name))
    assert refused.value.reason in (Reason.NOT_FOUND, Reason.DECODE_ERROR)
    assert decoder.open(carphone()).facts == open_video(carphone()).facts


def test_a_file_that_hangs_is_given_up_as_soon_as_nobody_waits_for_it(tmp_path: Path, faulty: DecoderProcess) -> None:
    path = write_video(tmp_path / "hang.mp4", numbered_frames(20))
    cancel = Event()
    faulty._limit_s = 60
    frames = faulty.open(path, cancel).read_at(np.array([0.1, 0.3, 0.5, 0.7]))
    next(frames)
    Timer(0.3, cancel.set).start()
    begun = time.monotonic()
    with pytest.raises(CancelledError, match=r"reading .*hang.mp4 was cancelled"):
        list(frames)
    assert time.monotonic() - begun < 30  # sooner than the limit


def test_a_reader_whose_decoder_is_ended_hears_that_and_nothing_of_a_crash(
    tmp_path: Path, faulty: DecoderProcess
) -> None:
    frames = faulty.open(write_video(tmp_path / "hang.mp4", numbered_frames(20))).read_at(np.array([0.1, 0.3, 0.5]))
    next(frames)
    Timer(0.3, faulty.abort).start()
    with pytest.raises(CancelledError, match="decoding was ended"):
        list(frames)


def test_a_decoder_that_is_closed_between_two_frames_has_no_more(decoder: DecoderProcess) -> None:
    frames = decoder.open(carphone()).read_at(np.arange(100) / 25)
    next(frames)
    decoder.close()
    with pytest.raises(CancelledError, match="decoding was ended"):
        next(frames)


def test_a_decoder_that_is_ended_while_it_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = DecoderProcess()
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        decoder.abort()
        started.append(popen(*args, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(CancelledError, match="decoding was ended"):
        decoder.launch()
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_decoder_that_listens_no_more_is_given_up_or_cancelled(cancelled: bool) -> None:
    decoder, cancel = DecoderProcess(limit_s=60 if cancelled else 1), Event()
    video = decoder.open(carphone(), cancel)
    assert decoder._process is not None
    os.kill(decoder._process.pid, signal.SIGSTOP)
    if cancelled:
        Timer(0.3, cancel.set).start()
    begun = time.monotonic()
    with pytest.raises(CancelledError if cancelled else VideoError, match=r"was cancelled|TIMED_OUT"):
        list(video.read_at(np.linspace(0, 4, 20_000)))  # more than a pipe holds
    assert time.monotonic() - begun < 30
    assert decoder._process is None


def test_a_process_for_which_no_descriptor_is_left_is_a_sentence() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    for spare in range(9):  # whatever it is that cannot be opened
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        try:
            with pytest.raises(UnmaskError, match=rf"{os.strerror(errno.EMFILE)}.*fewer --jobs or --decoders"):
                DecoderProcess().launch()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_decoder_is_not_told_the_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_PASSWORD", "x")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setattr(
        isolation, "COMMAND", (sys.executable, "-c", "import os; raise SystemExit(' '.join(os.environ))")
    )
    with pytest.raises(UnmaskError, match="does not start: ") as caught:
        DecoderProcess().open(carphone())
    told = set(str(caught.value).partition("start: ")[2].partition(";")[0].split())
    assert {"PATH", "LC_TIME", "PYTHONPATH", "MALLOC_ARENA_MAX"} <= told
    assert "UNMASK_PASSWORD" not in told
