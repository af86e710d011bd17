"""Two runs or evaluations, compared on the videos that both held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from tests.train_data import CacheRecipe, make_cache, write_features
from train.checkpoint import PREDICTIONS, PredictionRow, Run, read_prediction_rows
from train.config import FitConfig
from train.evaluate_cli import compare_command
from train.evaluation import files as evaluation_files
from train.evaluation.evaluate import EvaluationRequest, evaluate_run
from train.evaluation.files import save_evaluation
from train.evaluation.pairing import compare_folders
from train.run import train_run
from train.schemes import TrainConfig

SPLITS = CacheRecipe(groups=16, signal=1.0, splits=("train", "train", "val", "test"))
FAST = EvaluationRequest(device="cpu", resamples=30)


@pytest.fixture(autouse=True)
def _draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_files, "plan_figures", lambda *_: {})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # the models are tiny; a second thread only waits
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def tested(home: Path) -> Run:
    path = write_features(home / "own.h5", make_cache(SPLITS))
    return train_run(path, home / "tested", TrainConfig(FitConfig(epochs=5, batch_size=16), device="cpu"))


@pytest.fixture(scope="module")
def crossed(home: Path) -> Run:
    """Two seeds of folds over the same files, none of them called test."""
    path = write_features(home / "folds.h5", make_cache(replace(SPLITS, splits=("",))))
    config = TrainConfig(FitConfig(epochs=1, batch_size=16), folds=3, seeds=2, device="cpu")
    return train_run(path, home / "crossed", config)


def copy_run(run: Run, target: Path, change: Callable[[PredictionRow], PredictionRow | None]) -> Path:
    """The run with other predictions."""
    target.mkdir()
    for file in run.path.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    rows = [row for row in map(change, read_prediction_rows(run.path / PREDICTIONS)) if row is not None]
    lines = [",".join(field.name for field in fields(PredictionRow))]
    lines += [",".join("" if value is None else str(value) for value in astuple(row)) for row in rows]
    (target / PREDICTIONS).write_text("\n".join(lines) + "\n")
    return target


def guess(row: PredictionRow) -> PredictionRow:
    """A head that says nothing of the label."""
    logit = (int(row.sha256) * 7919 % 101) / 50 - 1
    return replace(row, logit=logit, calibrated=logit, p_fake=0.5, flagged=logit > 0)


def test_a_run_is_not_distinguishable_from_itself(tested: Run) -> None:
    found = compare_folders(tested.path, tested.path, resamples=50)
    assert (found.n_videos, found.only_in_a, found.only_in_b) == (16, 0, 0)
    assert found.differences["auc"].value == 0
    assert not found.distinguishable
    assert f"{tested.path} against {tested.path}: AUC " in found.sentence
    assert "not distinguishable on 16 videos" in found.sentence
    assert found.warnings == ()


def test_a_head_that_guesses_is_told_from_one_that_knows(crossed: Run, tmp_path: Path) -> None:
    other = copy_run(crossed, tmp_path / "guess", guess)
    knows = copy_run(crossed, tmp_path / "knows", lambda r: replace(r, calibrated=5.0 if r.label == "fake" else -5.0))
    for a, b, sign in ((knows, other, 1), (other, knows, -1)):
        found = compare_folders(a, b, resamples=200)
        assert found.distinguishable
        assert found.differences["auc"].value is not None
        assert found.differences["auc"].value * sign > 0
        assert "not distinguishable" not in found.sentence


def test_videos_that_one_side_alone_held_out_are_left_out_and_counted(tested: Run, tmp_path: Path) -> None:
    first = sorted(row.id for row in read_prediction_rows(tested.path / PREDICTIONS) if row.split == "test")[0]
    other = copy_run(tested, tmp_path / "less", lambda row: None if row.id == first else row)
    found = compare_folders(tested.path, other, resamples=50)
    assert (found.n_videos, found.only_in_a, found.only_in_b) == (15, 1, 0)


def test_videos_are_matched_by_content_and_not_by_name(tested: Run, tmp_path: Path) -> None:
    other = copy_run(tested, tmp_path / "renamed", lambda row: replace(row, id=f"elsewhere/{row.id}"))
    found = compare_folders(tested.path, other, resamples=50)
    assert (found.n_videos, found.differences["auc"].value) == (16, 0)


def test_a_test_split_meets_folds_on_the_videos_of_both(tested: Run, crossed: Run) -> None:
    found = compare_folders(tested.path, crossed.path, resamples=50)
    assert (found.n_videos, found.only_in_a, found.only_in_b) == (16, 0, 48)
    assert found.warnings == (
        "the predictions come from different caches; videos were matched by sha256",
        "the heads were trained on different videos",
    )


def test_evaluations_on_one_cache_are_compared_without_what_training_saw(
    tested: Run, crossed: Run, home: Path, tmp_path: Path
) -> None:
    cache = make_cache(replace(SPLITS, seed=9))
    videos = [replace(v, sha256=v.sha256 if i < 4 else f"a{i:063d}") for i, v in enumerate(cache.videos)]
    abroad = write_features(tmp_path / "abroad.h5", replace(cache, videos=videos))
    request = replace(FAST, include_train=True)
    for run in (tested, crossed):
        save_evaluation(tmp_path / run.path.name, evaluate_run(run, abroad, request))
    found = compare_folders(tmp_path / "tested", tmp_path / "crossed", resamples=50)
    assert (found.n_videos, found.only_in_a, found.only_in_b, found.warnings) == (60, 0, 0, ())


def test_labels_that_contradict_each_other_are_refused(tested: Run, tmp_path: Path) -> None:
    other = copy_run(tested, tmp_path / "turned", lambda row: replace(row, label="real"))
    with pytest.raises(MismatchError, match=r"turned calls v\d+.mp4 real, the other side calls the same file fake"):
        compare_folders(tested.path, other)


def test_runs_without_a_common_video_are_refused(tested: Run, tmp_path: Path) -> None:
    other = copy_run(tested, tmp_path / "other", lambda row: replace(row, sha256=f"f{row.sha256[1:]}"))
    with pytest.raises(UnmaskError, match=r"holds out 16 videos and .* 16, but none in common"):
        compare_folders(tested.path, other)


def test_a_run_that_held_nothing_out_is_refused(tested: Run, tmp_path: Path) -> None:
    other = copy_run(tested, tmp_path / "none", lambda row: None if row.split == "test" else row)
    with pytest.raises(UnmaskError, match="none holds no video out"):
        compare_folders(tested.path, other)


def test_a_run_without_its_predictions_is_refused_as_damaged(tested: Run, tmp_path: Path) -> None:
    other = copy_run(tested, tmp_path / "other", lambda row: row)
    (other / PREDICTIONS).unlink()
    with pytest.raises(FormatError, match=r"predictions.csv is missing, .* train again"):
        compare_folders(tested.path, other)


def test_a_folder_of_another_kind_is_refused(tested: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is neither a run nor an evaluation"):
        compare_folders(tested.path, tmp_path)


def test_other_features_are_warned_about(tested: Run, tmp_path: Path) -> None:
    other = copy_run(tested, tmp_path / "other", lambda row: row)
    document = json.loads((other / "run.json").read_text())
    document["fingerprint"]["backbone"]["name"] = "another"
    (other / "run.json").write_text(json.dumps(document))
    assert "the features differ" in compare_folders(tested.path, other, resamples=50).warnings[0]


def test_the_command_prints_the_sentence_and_writes_the_document(tested: Run, tmp_path: Path) -> None:
    arguments = [str(tested.path), str(tested.path)]
    shown = CliRunner().invoke(compare_command, [*arguments, "--out", str(tmp_path / "c.json")])
    assert shown.exit_code == 0, shown.output
    assert "not distinguishable" in shown.stdout.splitlines()[-1]
    printed = CliRunner().invoke(compare_command, [*arguments, "--json"])
    assert json.loads(printed.stdout) == json.loads((tmp_path / "c.json").read_text())
