"""Files from strangers: what lies, what refers to other files, what wants too much, and a thousand damaged ones."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle import SCORER, open_model_folder
from export.fused import FusedModel
from extract import answers, isolation
from extract.errors import Reason, UsageError, VideoError
from extract.isolation import DecoderProcess
from extract.limits import LEAST_MEMORY, MediaLimits
from extract.video import open_video
from serve.scorer import Scorer
from serve.verdict import Outcome
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector
from tests.faulty_decoder import FALSE_FACTS, NONSENSE
from tests.hostile_files import LIES, write_data_reference, write_lied_size, write_many_streams, write_no_stamps
from tests.media import carphone, carphone_frames, numbered_frames, read_number, write_video
from tests.mutate import DAMAGES, KINDS, write_mutants, write_originals

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
TWENTY = np.arange(20) / 25 + 0.01


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess(limit_s=20, threads=1)
    yield process
    process.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    monkeypatch.setattr(isolation, "COMMAND", (sys.executable, "-m", "tests.faulty_decoder"))
    process = DecoderProcess(limit_s=20, threads=1, limits=MediaLimits(cpu_base_s=1, cpu_s_per_s=0.1))
    yield process
    process.close()


def read(decoder: DecoderProcess, path: Path, instants: np.ndarray = TWENTY) -> list[int]:
    """The numbers of the frames at some instants; every one of these is served once."""
    shown: list[int] = []
    for served, frame in decoder.open(path).read_at(instants):
        assert served.start == len(shown)
        shown += [read_number(frame.rgb)] * (served.stop - served.start)
    assert len(shown) == len(instants)
    return shown


def try_to_read(decoder: DecoderProcess, path: Path) -> str:
    """How reading a file ends: OK, or its reason."""
    try:
        read(decoder, path)
    except VideoError as error:
        return str(error.reason) if str(path) in error.detail else f"a sentence that does not name it: {error.detail}"
    return "OK"


def read_status(decoder: DecoderProcess, name: str) -> int:
    """A number that the kernel knows of the decoder process."""
    assert decoder._process is not None
    status = Path(f"/proc/{decoder._process.pid}/status").read_text(encoding="utf-8")
    return int(status.split(f"\n{name}:")[1].split()[0])


# What refers to another file.


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that could be read: whoever is led to it shows its frames."""
    path = write_video(tmp_path / "secret.ts", numbered_frames(20))
    write_video(tmp_path / "secret.mp4", numbered_frames(20))
    assert len(list(open_video(path).read_at(TWENTY))) == 20
    return path


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\n{}\n#EXT-X-ENDLIST\n"
REFERRERS = {
    "relative HLS": HLS.format("secret.ts"),
    "HLS": HLS.format("file://{secret}"),
    "HLS of the web": HLS.format("http://127.0.0.1:9/secret.ts"),
    "ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
    "absolute ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "DASH": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet '
    'mimeType="video/mp2t"><Representation id="0"><BaseURL>secret.ts</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    "ASX": '<asx version="3.0"><entry><ref href="secret.ts"/></entry></asx>',
    "RTSP": "rtsptext\nrtsp://127.0.0.1:9/x\n",
}


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".ts", ".ffconcat", ".mpd", ".sdp"])
@pytest.mark.parametrize("kind", REFERRERS)
def test_a_playlist_by_any_name_leads_to_no_other_file(
    tmp_path: Path, decoder: DecoderProcess, secret: Path, kind: str, suffix: str
) -> None:
    path = tmp_path / f"list{suffix}"
    path.write_text(REFERRERS[kind].replace("{secret}", str(secret)))
    assert try_to_read(decoder, path) == "DECODE_ERROR"


@pytest.mark.parametrize("options", [{}, {"enable_drefs": "1", "use_absolute_path": "1"}])
def test_media_in_another_file_is_not_reached(
    tmp_path: Path, decoder: DecoderProcess, secret: Path, options: dict[str, str]
) -> None:
    path = write_data_reference(tmp_path / "reference.mp4", secret.with_suffix(".mp4"), b"alis")
    with av.open(str(path), options=options) as container:  # that the reference is right, shows who follows it
        assert len(list(container.decode(video=0))) == (20 if options else 0)
    assert try_to_read(decoder, path) == "DECODE_ERROR"


def test_media_at_an_address_is_not_reached(tmp_path: Path, decoder: DecoderProcess, secret: Path) -> None:
    path = write_data_reference(tmp_path / "reference.mp4", secret.with_suffix(".mp4"), b"url ")
    assert try_to_read(decoder, path) == "DECODE_ERROR"


ADDRESSES = [
    "data:video/mp2t;base64,AAAA", "concat:secret.ts|secret.ts", "subfile,,start,0,end,0,,:secret.ts", "file:secret.ts",
    "cache:secret.ts", "async:secret.ts", "crypto:secret.ts", "http://127.0.0.1:9/secret.ts", "pipe:0", "fd:0",
    "secret%d.ts",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_path_is_the_name_of_a_file_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, decoder: DecoderProcess, secret: Path, address: str
) -> None:
    monkeypatch.chdir(secret.parent)
    with pytest.raises(VideoError) as caught:
        decoder.open(Path(address))
    assert caught.value.reason == Reason.NOT_FOUND


NAMES = [
    "-y.mp4", "--help", "a:b.mp4", "http:x.mp4", "pipe:0", "data:x", "new\nline.mp4", "%03d.mp4", "a|b.mp4", "*.mp4",
    "{}\"'.mp4", "subfile,,start,0,,:x.mp4", " .mp4", "é\U0001f600.mp4", "\udcff\udcfe.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: DecoderProcess, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v.mp4", numbered_frames(20)).rename(Path(name))
    assert read(decoder, Path(name)) == list(range(20))


def test_what_is_no_file_is_not_opened(tmp_path: Path, decoder: DecoderProcess) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for path in (tmp_path, tmp_path / "pipe.mp4", tmp_path / "link.mp4", Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(VideoError, match="is a folder, a device or a pipe; name a video file"):
            decoder.open(path)
    assert try_to_read(decoder, tmp_path / "loop.mp4") in {"NOT_FOUND", "DECODE_ERROR"}


# What lies about itself.


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_has_an_outcome_and_costs_little(tmp_path: Path, decoder: DecoderProcess, lie: str) -> None:
    path = LIES[lie](tmp_path)
    begun = time.monotonic()
    expected = {"size": "DECODE_ERROR", "giant table": "DECODE_ERROR", "100 streams": "TOO_LARGE"}
    assert try_to_read(decoder, path) == expected.get(lie, "OK")
    assert time.monotonic() - begun < 15


def test_frames_that_are_too_large_are_never_opened(tmp_path: Path, decoder: DecoderProcess) -> None:
    with pytest.raises(VideoError, match="their size is not known, or more than 67108864 pixels"):
        read(decoder, write_lied_size(tmp_path))


def test_frames_without_time_stamps_follow_each_other(tmp_path: Path, decoder: DecoderProcess) -> None:
    assert read(decoder, write_no_stamps(tmp_path)) == list(range(20))


def test_a_film_for_many_countries_is_read(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = write_many_streams(tmp_path, 20, attachments=90)
    assert read(decoder, path, TWENTY[:6]) == list(range(6))


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        (MediaLimits(most_pixels=10_000), r"has frames of 176x144 pixels; at most 10000 are read \(`most_pixels`"),
        (MediaLimits(most_duration_s=1), r"claims to last for 4 s with 120 frames; at most 1 s are read \(`most_dur"),
        (MediaLimits(most_fps=10), r"has 120 frames in 4 s; at most 10 frames a second are read \(`most_fps`"),
        (MediaLimits(most_frames=100), r"has more than 100 frames; at most that many are read \(`most_frames`"),
    ],
)
def test_what_is_absurd_is_refused_with_a_sentence_of_its_own(limits: MediaLimits, found: str) -> None:
    with pytest.raises(VideoError, match=f"{carphone()} {found}") as caught:
        open_video(carphone(), limits=limits)
    assert caught.value.reason == Reason.TOO_LARGE


def test_a_time_stamp_ages_away_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", numbered_frames(12), times_ms=[*range(0, 440, 40), 10**12])
    with pytest.raises(VideoError, match="claims to last for 1000000000 s with 12 frames"):
        open_video(path)


# What wants too much.


@LINUX_ONLY
def test_the_process_has_given_up_what_it_does_not_need(decoder: DecoderProcess) -> None:
    decoder.open(carphone())
    assert decoder._process is not None
    table = Path(f"/proc/{decoder._process.pid}/limits").read_text(encoding="utf-8").splitlines()
    soft = {line[:26].strip(): line[26:].split()[:2] for line in table}
    assert soft["Max address space"] == [str(MediaLimits().memory_bytes)] * 2
    assert soft["Max core file size"] == soft["Max file size"] == ["0", "0"]
    assert soft["Max open files"] == ["64", "64"]
    assert int(soft["Max cpu time"][0]) < 1000
    assert read_status(decoder, "NoNewPrivs") == 1


@LINUX_ONLY
def test_a_file_that_wants_too_much_memory_says_so_and_the_next_is_read(tmp_path: Path) -> None:
    large = numbered_frames(1, 6000, 6000)
    path = write_video(tmp_path / "large.mov", large, codec="mjpeg", pixel_format="yuvj420p")
    assert open_video(path).facts.width == 6000
    decoder = DecoderProcess(threads=1, limits=MediaLimits(memory_bytes=LEAST_MEMORY))
    with pytest.raises(
        VideoError, match=r"large.mov takes more memory than FFmpeg gives, or a decoder may have \(`memory_bytes`"
    ) as e:
        read(decoder, path)
    assert e.value.reason == Reason.OUT_OF_MEMORY
    assert read(decoder, write_video(tmp_path / "v.mp4", numbered_frames(20))) == list(range(20))
    decoder.close()


@pytest.mark.parametrize(
    ("name", "reason"), [("spin", Reason.TIMED_OUT), ("eat", Reason.OUT_OF_MEMORY), ("crash", Reason.DECODER_CRASHED)]
)
def test_a_file_that_takes_all_costs_its_own_status_only(
    tmp_path: Path, faulty: DecoderProcess, name: str, reason: Reason
) -> None:
    good, bad = (write_video(tmp_path / f"{n}.mp4", numbered_frames(20)) for n in ("good", name))
    assert try_to_read(faulty, bad) == reason
    assert read(faulty, good) == list(range(20))


def test_processor_time_is_granted_for_every_video_anew(tmp_path: Path) -> None:
    decoder = DecoderProcess(threads=1, limits=MediaLimits(cpu_base_s=1, cpu_s_per_s=0.1))
    path = write_video(tmp_path / "v.mp4", carphone_frames(60))
    decoder.open(path)
    process, begun = decoder._process, time.monotonic()
    busy_s = 0.0
    while busy_s < 2.5:
        video = decoder.open(path)
        list(video.read_at(np.arange(60) / 25))
        busy_s += video.busy_s
        assert time.monotonic() - begun < 60
    assert decoder._process is process
    decoder.close()


@pytest.mark.parametrize("name", [*NONSENSE, *FALSE_FACTS])
def test_a_decoder_that_was_taken_over_cannot_harm_this_process(
    tmp_path: Path, faulty: DecoderProcess, name: str
) -> None:
    with pytest.raises(VideoError, match=rf"on .*{name}.mp4 it answered what makes no sense") as caught:
        read(faulty, write_video(tmp_path / f"{name}.mp4", numbered_frames(20)))
    assert caught.value.reason == Reason.DECODER_CRASHED


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES_OF_VALUES = ["offset", "shape", "time_s", "width", "height", "codec", "container", "frames", "duration_s", "note"]


@given(document=ANYTHING | st.fixed_dictionaries(dict.fromkeys([*NAMES_OF_VALUES, "busy_s"], ANYTHING)))
def test_an_answer_is_understood_or_makes_no_sense_and_nothing_else(document: object) -> None:
    for understand in (
        lambda: answers.read_message(json.dumps(document).encode()),
        lambda: answers.read_refusal(document, Path("v.mp4")),
        lambda: answers.read_facts(document, MediaLimits()),
        lambda: answers.read_place(document, MediaLimits()),
        lambda: answers.read_end(document, Path("v.mp4")),
    ):
        with suppress(ValueError):
            understand()


def test_the_sentences_of_a_decoder_are_cut() -> None:
    assert len(answers.read_refusal(["NO_FACE", "x" * 10_000], Path("v.mp4")).detail) < 600
    assert len(answers.read_end({"note": "x" * 10_000, "busy_s": 0.0}, Path("v.mp4"))["note"]) < 600


@given(name=st.sampled_from(sorted(vars(MediaLimits()))), value=st.sampled_from([0, -1, float("nan")]))
def test_limits_under_which_nothing_is_read_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"the limit {name} is {value}; expected more than 0"):
        MediaLimits(**{name: value})  # type: ignore[arg-type]


def test_less_memory_than_python_needs_is_refused() -> None:
    with pytest.raises(UsageError, match=r"memory_bytes is 100 MiB; .* needs 512 MiB"):
        MediaLimits(memory_bytes=100 << 20)


# What is damaged.


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_originals(tmp_path_factory.mktemp("originals"), carphone_frames(12))


def test_damaged_files_of_every_kind_have_an_outcome(
    tmp_path: Path, decoder: DecoderProcess, originals: Sequence[Path]
) -> None:
    assert [try_to_read(decoder, path) for path in originals] == ["OK"] * len(KINDS)
    outcomes = Counter(try_to_read(decoder, path) for path in write_mutants(tmp_path, originals, len(KINDS) * 11))
    assert {"OK", "DECODE_ERROR"} <= set(outcomes) <= {"OK", *Reason}
    if sys.platform == "linux":
        assert read_status(decoder, "VmPeak") << 10 <= MediaLimits().memory_bytes


def test_the_same_seed_damages_alike_and_each_kind_does_something(tmp_path: Path, originals: Sequence[Path]) -> None:
    count = len(KINDS) * len(DAMAGES)
    first, second = (write_mutants(tmp_path / name, originals, count) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    whole = {path.read_bytes() for path in originals}
    changed = {path.name.split("-", 1)[1].split(".")[0] for path in first if path.read_bytes() not in whole}
    assert changed == {name.replace(" ", "-") for name in DAMAGES} - {"other-name"}


@pytest.mark.slow
def test_a_thousand_damaged_files_are_scored(tmp_path: Path, pipeline: Pipeline) -> None:
    originals = write_originals(tmp_path / "originals", carphone_frames(24))
    paths = write_mutants(tmp_path / "mutants", originals, 990) + [LIES[lie](tmp_path) for lie in LIES]
    folder = open_model_folder(pipeline.model)
    before = count_children()
    with Scorer(folder, FusedModel(folder.path / SCORER, "cpu"), FixedDetector(FACE)) as scorer:
        verdicts = [scorer.score(path) for path in paths]
    assert len(verdicts) == 1000
    assert {Outcome.NOT_SCORABLE} < {verdict.outcome for verdict in verdicts}
    assert all(verdict.reason in {*Reason} for verdict in verdicts if verdict.outcome == Outcome.NOT_SCORABLE)
    assert count_children() == before
    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit <= MediaLimits().memory_bytes


def count_children() -> int:
    """Processes that this one has begun and not ended."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return len(found.stdout.split())
