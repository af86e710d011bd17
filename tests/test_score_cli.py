"""`unmask score` as people and scripts use it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve.scorer import Scorer
from tests.conftest import Pipeline
from tests.media import carphone, carphone_frames, numbered_frames, write_video
from unmask import main

ROOT = Path(__file__).parent.parent


def score(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["score", *map(str, arguments), "--device", "cpu"], input=stdin)


def read_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def grey(pipeline: Pipeline) -> Path:
    return write_video(pipeline.folder / "grey.mp4", numbered_frames(40))


def test_the_library_the_command_line_and_a_batch_say_the_same(pipeline: Pipeline, grey: Path) -> None:
    paths = [carphone(), pipeline.videos[0].path, pipeline.videos[1].path, grey]
    with Scorer.open(pipeline.model, "cpu") as scorer:
        alone = {str(path): scorer.score(path).p_fake for path in paths}
    for jobs in ("1", "3"):
        lines = read_lines(score(pipeline.model, *paths, "--json", "--jobs", jobs).stdout)
        assert {line["path"]: line["p_fake"] for line in lines} == pytest.approx(alone, abs=1e-6)


def test_a_list_on_stdin_goes_on_after_what_is_missing(pipeline: Pipeline) -> None:
    listed = f"{carphone()}\nmissing.mp4\n".encode()
    lines = read_lines(score(pipeline.model, "-", "--json", stdin=listed).stdout)
    assert {line["path"]: line["reason"] for line in lines} == {str(carphone()): None, "missing.mp4": "NOT_FOUND"}


def test_an_empty_list_is_misuse(pipeline: Pipeline) -> None:
    result = score(pipeline.model, "-", stdin=b"\n")
    assert result.exit_code == 2
    assert "the list is empty; give at least one path" in result.stderr


def test_a_batch_continues_where_it_was(pipeline: Pipeline, grey: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    first = score(pipeline.model, grey, "--out", out)
    again = score(pipeline.model, grey, carphone(), "--out", out, "--json")
    assert first.exit_code == again.exit_code == 0
    assert "1 file has a result already" in again.stderr
    assert [line["path"] for line in read_lines(again.stdout)] == [str(carphone())]
    assert [line["path"] for line in read_lines(out.read_text())] == [str(grey), str(carphone())]


def test_scripts_can_ask_for_an_exit_code(pipeline: Pipeline, grey: Path, tmp_path: Path) -> None:
    assert score(pipeline.model, grey, "--fail-on", "fake").exit_code == 0
    assert score(pipeline.model, grey, "--fail-on", "fake", "--fail-on", "not-scorable").exit_code == 3
    assert score(pipeline.model, carphone(), "--threshold", "1e-9", "--fail-on", "fake").exit_code == 3
    out = tmp_path / "results.csv"
    for _ in range(2):  # the second time from the results alone
        result = score(pipeline.model, carphone(), "--threshold", "1e-9", "--fail-on", "fake", "--out", out)
        assert result.exit_code == 3


def test_a_prevalence_is_told_with_what_alarms_are_worth(pipeline: Pipeline) -> None:
    result = score(pipeline.model, carphone(), "--prevalence", "0.01")
    assert result.stdout.splitlines()[-1].startswith("Where 1\xa0% of all videos are fake, ")


def test_one_file_gets_one_page_and_several_a_folder(pipeline: Pipeline, grey: Path, tmp_path: Path) -> None:
    page, folder = tmp_path / "out.html", tmp_path / "pages"
    assert score(pipeline.model, carphone(), "--report", page).exit_code == 0
    assert "carphone_pristine.mp4" in page.read_text()
    assert page.read_text().count("<img") >= 3
    assert score(pipeline.model, carphone(), grey, "--report", folder).exit_code == 0
    assert sorted(path.name[: -len("-01234567.html")] for path in folder.iterdir()) == ["carphone_pristine", "grey"]
    refused = score(pipeline.model, carphone(), grey, "--report", tmp_path / "both.html")
    assert refused.exit_code == 2
    assert "is one page, and there are 2 files" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--preset", "strict"), 1, "the model has no preset 'strict'; it has balanced, newsroom, security"),
        (("--preset", "security", "--threshold", "0.5"), 2, "exclude each other"),
        (("--threshold", "2"), 2, "expected a probability above 0, at most 1"),
        (("--prevalence", "1"), 2, "expected a share between 0 and 1"),
        (("--retry", "NO_FACE"), 2, "--retry goes with --out"),
        (("--retry", "NO_FACES", "--out", "r.jsonl"), 2, "--retry NO_FACES is no reason; known are"),
        (("--out", "r.txt"), 2, "name a file that ends in .jsonl or .csv"),
        (("--report", "/dev/null"), 2, "/dev/null is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    pipeline: Pipeline, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = score(pipeline.model, carphone(), *arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_ends_soon_and_says_how_to_go_on(pipeline: Pipeline, tmp_path: Path) -> None:
    film = write_video(tmp_path / "long.mkv", carphone_frames(24) * 80)
    paths = [tmp_path / f"{number}.mkv" for number in range(40)]
    for path in paths:
        os.link(film, path)
    command = [sys.executable, "-m", "unmask", "score", str(pipeline.model), *map(str, paths)]
    command += ["--out", str(tmp_path / "r.jsonl")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):  # the head, and the first verdict
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "unmask: stopped; the same command continues\n"
    assert 1 <= len(read_lines((tmp_path / "r.jsonl").read_text())) < 10  # however slow the machine, not all


def test_a_person_sees_lines_and_a_bar_that_does_not_stand_in_them(pipeline: Pipeline, grey: Path) -> None:
    paths = [str(path) for path in (grey, carphone(), pipeline.videos[0].path)]
    shown = run_in_terminal([sys.executable, "-m", "unmask", "score", str(pipeline.model), *paths])
    assert "scoring" in shown
    assert "1/3" in shown
    lines = [line.rpartition("\x1b[2K")[2] for line in shown.split("\r\n")]  # what a cleared line shows in the end
    for path in paths:
        assert any(line.startswith(("REAL", "FAKE", "UNCERTAIN", "NOT_SCORABLE")) and path in line for line in lines)


def run_in_terminal(command: list[str]) -> str:
    """What a command writes to a terminal that is both its outputs."""
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how a terminal ends
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
        assert process.wait(60) == 0
        return shown.decode()
    finally:
        os.close(ours)


def test_a_reader_that_has_seen_enough_ends_it_quietly(pipeline: Pipeline) -> None:
    command = f"{sys.executable} -m unmask score {pipeline.model} {pipeline.folder} --json | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
