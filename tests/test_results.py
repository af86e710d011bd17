"""Results of a long batch: one whole line a file, whatever killed it, and never two kinds of verdict in one file."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from serve.results import ResultsFile, Terms
from serve.verdict import Outcome, Verdict
from tests.verdicts import make_verdict

TERMS = Terms(make_verdict().model.id, "security", 0.5, "main", None)
NAMES = ("a.mp4", 'b "quoted", and\nbroken.mp4', "c\udcff.mp4", "d\r.mp4")


@pytest.fixture(params=[".jsonl", ".csv"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"results{request.param}"


def make_files(folder: Path) -> list[Path]:
    files = [folder / name for name in NAMES]
    for file in files:
        file.write_bytes(os.fsencode(file.name))
    return files


def judge(file: Path, **changes: Any) -> Verdict:
    return make_verdict(path=str(file), **changes)


def write_all(out: Path, files: list[Path], terms: Terms = TERMS, retry: frozenset[str] = frozenset()) -> list[str]:
    """One run of a batch; the names of the files that were scored in it."""
    with ResultsFile(out, terms, files, retry) as results:
        todo = [file for file in files if str(file) not in results.kept]
        for file in todo:
            results.add(judge(file))
    return [file.name for file in todo]


def read_paths(out: Path) -> list[str]:
    with out.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        if out.suffix == ".csv":
            return [row["path"] for row in csv.DictReader(file)]
        return [json.loads(line)["path"] for line in file]


def test_a_batch_is_scored_once(out: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    assert write_all(out, files[:2]) == [file.name for file in files[:2]]
    assert write_all(out, files) == [file.name for file in files[2:]]
    assert write_all(out, files) == []
    assert read_paths(out) == [str(file) for file in files]


@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=3), suffix=st.sampled_from([".jsonl", ".csv"]))
def test_cut_off_at_any_bytes_it_continues_with_one_line_a_file(
    tmp_path_factory: pytest.TempPathFactory, shares: list[float], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    files, out = make_files(folder), folder / f"results{suffix}"
    write_all(out, files)
    whole = out.read_bytes()
    for share in shares:
        os.truncate(out, round(share * len(whole)))
        scored = write_all(out, files)
        assert out.read_bytes() == whole
        assert scored == [file.name for file in files[len(files) - len(scored) :]]


def test_a_file_that_has_changed_is_scored_again(out: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    write_all(out, files)
    files[1].write_bytes(b"another film")
    assert write_all(out, files) == [files[1].name]
    assert sorted(read_paths(out)) == sorted(str(file) for file in files)


def test_a_file_that_changes_while_it_is_scored_is_scored_again(out: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    with ResultsFile(out, TERMS, files) as results:
        files[0].write_bytes(b"another film")
        for file in files:
            results.add(judge(file))
    assert write_all(out, files) == [files[0].name]


def test_results_of_files_that_are_not_asked_for_stay(out: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    write_all(out, files)
    files[0].unlink()
    assert write_all(out, files[2:]) == []
    assert len(read_paths(out)) == 4


def test_one_reason_is_tried_again_on_request(out: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    reasons = ("TIMED_OUT", "NO_FACE")
    with ResultsFile(out, TERMS, files) as results:
        for file, reason in zip(files[:2], reasons, strict=True):
            results.add(judge(file, outcome=Outcome.NOT_SCORABLE, reason=reason, p_fake=None, logit=None))
    with ResultsFile(out, TERMS, files[:2], frozenset({"TIMED_OUT"})) as results:
        assert results.kept == {str(files[1]): "NOT_SCORABLE"}


def test_a_file_that_was_missing_is_scored_when_it_is_there(out: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.mp4"
    assert write_all(out, [late]) == ["late.mp4"]
    assert write_all(out, [late]) == []
    late.touch()
    assert write_all(out, [late]) == ["late.mp4"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "f" * 64}, "model: it has"),
        ({"preset": "newsroom"}, "preset: it has 'security', asked for is 'newsroom'"),
        ({"threshold": 0.6}, "threshold: it has 0.5, asked for is 0.6"),
        ({"counted_faces": "all"}, "counted_faces: it has 'main', asked for is 'all'"),
        ({"prevalence": 0.01}, "prevalence: it has None, asked for is 0.01"),
    ],
)
def test_verdicts_under_other_terms_are_refused(out: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    files = make_files(tmp_path)
    write_all(out, files)
    before = out.read_bytes()
    with pytest.raises(MismatchError, match=said):
        ResultsFile(out, replace(TERMS, **change), files)
    assert out.read_bytes() == before


def test_a_file_of_another_kind_is_refused_and_left_alone(out: Path) -> None:
    out.write_text("shopping list\nmilk\n")
    with pytest.raises(FormatError, match="choose another --out"):
        ResultsFile(out, TERMS, [])
    assert out.read_text() == "shopping list\nmilk\n"
    out.write_text("a note without a line's end")
    with pytest.raises(FormatError, match="choose another --out"):
        ResultsFile(out, TERMS, [])
    assert out.read_text() == "a note without a line's end"
    with pytest.raises(UsageError, match=r"name a file that ends in .jsonl or .csv"):
        ResultsFile(out.with_suffix(".txt"), TERMS, [])


def test_two_batches_never_write_one_file(out: Path) -> None:
    with ResultsFile(out, TERMS, []), pytest.raises(UnmaskError, match=r"another run \(process \d+\) writes"):
        ResultsFile(out, TERMS, [])
    ResultsFile(out, TERMS, []).close()
    assert list(out.parent.iterdir()) == [out]  # and no lock stays
