"""A whole training run: what it learns, what it writes, and what it refuses."""

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
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from extract.cache import FeatureCache
from extract.errors import DiskError, FormatError, UnmaskError, UsageError
from extract.files import hash_file
from tests.train_data import CacheRecipe, build_cache, make_cache, make_record, write_features
from train import cli, run
from train.aggregate import aggregate_video
from train.batches import BatchReader
from train.checkpoint import PREDICTIONS, WEIGHTS, Run, load_head, load_run
from train.config import FitConfig
from train.dataset import select_usable
from train.predict import predict_clips
from train.run import train_on_cache, train_run
from train.schemes import Progress, TrainConfig

CPU = torch.device("cpu")
QUICK = FitConfig(epochs=12, batch_size=32)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the models are tiny; a second thread only waits


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run that all tests which only read may share."""
    torch.set_num_threads(1)
    return train_on_cache(make_cache(), tmp_path_factory.mktemp("runs") / "first", TrainConfig(QUICK))


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One cross-validated run with a test split in its manifest."""
    torch.set_num_threads(1)
    cache = make_cache(CacheRecipe(splits=("", "", "", "", "test")))
    return train_on_cache(cache, tmp_path_factory.mktemp("runs") / "folds", TrainConfig(QUICK, folds=4))


def read_predictions(done: Run) -> list[dict[str, str]]:
    with (done.path / PREDICTIONS).open(newline="") as file:
        return list(csv.DictReader(file))


def copy_run(done: Run, target: Path) -> Path:
    target.mkdir()
    for file in done.path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit_document(path: Path, **changes: Any) -> None:
    document = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**document, **changes}))


def test_labels_that_can_be_learned_are_learned(finished: Run) -> None:
    assert finished.document.test is not None
    assert finished.document.test.auc.value is not None
    assert finished.document.test.auc.value > 0.9


def test_shuffled_labels_are_chance_out_of_fold(tmp_path: Path) -> None:
    cache = make_cache(CacheRecipe(groups=30, clips=1, shuffle_labels=True))
    done = train_on_cache(cache, tmp_path / "run", TrainConfig(QUICK, folds=3))
    assert done.document.out_of_fold is not None
    assert done.document.out_of_fold.auc.value == pytest.approx(0.5, abs=0.15)  # 120 videos: three deviations


def test_a_run_reads_back_as_it_was_written(finished: Run) -> None:
    again = load_run(finished.path)
    assert again.document == finished.document
    head, data = load_head(again), select_usable(make_cache())
    logits = predict_clips(head, BatchReader(data, CPU), np.arange(len(data.clip_video)))
    first = read_predictions(again)[0]
    clips = data.clip_video == 0
    assert aggregate_video(logits[clips], data.clip_track[clips]) == pytest.approx(float(first["logit"]), abs=1e-6)


def test_the_predictions_say_who_trained_and_what_was_decided(finished: Run) -> None:
    rows = read_predictions(finished)
    threshold, document = finished.document.threshold.value, finished.document
    assert len(rows) == 80
    assert {row["id"]: row["split"] for row in rows} == document.split.assignment
    assert all((row["in_training"] == "True") == (row["split"] == "train") for row in rows)
    assert all((float(row["p_fake"]) >= threshold) == (row["flagged"] == "True") for row in rows)
    outcomes = {row["outcome"]: float(row["p_fake"]) - threshold for row in rows}
    assert outcomes["FAKE"] >= 0 > outcomes["REAL"]


def test_a_run_holds_no_pickle_and_every_plot(finished: Run) -> None:
    names = {file.name for file in finished.path.iterdir()}
    assert names == {"head.safetensors", "run.json", "predictions.csv", "roc.png", "confusion.png", "loss.png"}


def test_the_same_seed_writes_the_same_weights(finished: Run, tmp_path: Path) -> None:
    again = train_on_cache(make_cache(), tmp_path / "again", TrainConfig(QUICK))
    assert hash_file(again.path / WEIGHTS) == hash_file(finished.path / WEIGHTS)
    other = train_on_cache(make_cache(), tmp_path / "other", TrainConfig(QUICK.model_copy(update={"seed": 1})))
    assert hash_file(other.path / WEIGHTS) != hash_file(finished.path / WEIGHTS)


def test_each_fold_is_judged_by_its_own_validation_fold(crossed: Run) -> None:
    document = crossed.document
    rows = [row for row in read_predictions(crossed) if row["split"] == "train"]
    assert len(rows) == 64
    assert {row["in_training"] for row in rows} == {"False"}
    for row in rows:
        fold = document.folds[int(row["fold"])]
        p_fake = fold.calibration.apply(np.array([float(row["logit"])]))[0]
        assert p_fake == pytest.approx(float(row["p_fake"]))
        assert (p_fake >= fold.thresholds["security"].value) == (row["flagged"] == "True")


def test_folds_calibrate_out_of_fold_and_still_report_a_given_test_split(crossed: Run) -> None:
    document = crossed.document
    assert document.calibrated_on == document.threshold.source == "out-of-fold"
    assert document.out_of_fold is not None
    assert document.test is not None
    assert (document.out_of_fold.n_videos, document.test.n_videos) == (64, 16)
    assert document.out_of_fold.auc.value is not None
    assert document.out_of_fold.auc.value > 0.9
    assert document.mean_fold_auc == pytest.approx(np.mean([fold.auc for fold in document.folds]))
    assert document.best_epoch == round(float(np.median([fold.best_epoch for fold in document.folds])))
    assert (crossed.path / "oof_roc.png").is_file()


def make_official(given: list[str], protocol: str = "toy-official") -> FeatureCache:
    cache = make_cache()
    videos = [replace(v, split=split, protocol=protocol) for v, split in zip(cache.videos, given, strict=True)]
    return replace(cache, videos=videos)


def test_a_leak_in_an_official_split_is_on_record_and_warned_about(tmp_path: Path) -> None:
    cache = make_official(["train", "train", "val", "val"] * 10 + ["train", "train", "test", "test"] * 10)
    split = train_on_cache(cache, tmp_path / "run", TrainConfig(QUICK)).document.split
    assert (split.protocol, split.named) == ("manifest", ("toy-official",))
    assert {name: count.real + count.fake for name, count in split.counts.items()} == {
        "train": 40,
        "val": 20,
        "test": 20,
    }
    assert len(split.overlap.groups) == 20
    assert split.overlap.test_videos == 20


def test_the_warning_names_the_split_what_it_divides_and_the_test_videos_concerned(tmp_path: Path) -> None:
    cache = make_official(["train", "train", "test", "test"] * 5 + ["train"] * 40 + ["val"] * 20)
    videos = [replace(v, pair="clip" if i in (0, 2) else "") for i, v in enumerate(cache.videos)]
    done = train_on_cache(replace(cache, videos=videos), tmp_path / "run", TrainConfig(QUICK))
    assert done.document.warnings[0] == (
        "the split toy-official divides 5 groups, 1 source clip: 10 of 10 test videos show a person or come from a "
        "clip that training or validation has seen"
    )


def test_an_official_split_keeps_its_test_videos_and_its_training_videos_give_validation(tmp_path: Path) -> None:
    given = (["test", "test", "train", "train"] + ["train"] * 4) * 10
    split = train_on_cache(make_official(given), tmp_path / "run", TrainConfig(QUICK)).document.split
    assert list(split.assignment.values()).count("val") > 0
    kept = [name if name == "test" else "train" for name in split.assignment.values()]
    assert kept == given
    assert (split.protocol, split.named, split.counts["test"].real) == ("mixed", ("toy-official",), 10)


def test_folds_name_the_protocol_of_the_test_split_alone(crossed: Run, tmp_path: Path) -> None:
    cache = make_cache(CacheRecipe(groups=10, splits=("", "", "", "", "test")))
    videos = [replace(v, protocol="kept" if v.split else "not kept") for v in cache.videos]
    config = TrainConfig(FitConfig(epochs=1), folds=3)
    done = train_on_cache(replace(cache, videos=videos), tmp_path / "run", config)
    assert done.document.split.named == ("kept",)
    assert crossed.document.split.named == ()


def test_a_swap_that_shows_a_person_of_another_fold_is_warned_about(tmp_path: Path) -> None:
    cache = make_cache(CacheRecipe(groups=12))
    videos = [
        replace(v, group=f"id{i // 4}", id=f"id{i // 4}_id{(i // 4 + 1) % 12}_{i:04d}.mp4" if i % 2 else v.id)
        for i, v in enumerate(cache.videos)
    ]
    config = TrainConfig(FitConfig(epochs=1), folds=3)
    done = train_on_cache(replace(cache, videos=videos), tmp_path / "run", config)
    overlap = done.document.split.overlap
    assert not overlap.groups
    assert overlap.fold_videos > 0
    expected = f"divides {len(overlap.persons)} persons: {overlap.fold_videos} of 48 videos in folds show a person"
    assert expected in done.document.warnings[0]


def test_test_videos_without_features_are_counted_by_split_and_warned_about(tmp_path: Path) -> None:
    cache = make_cache(CacheRecipe(splits=("train", "train", "val", "test")))
    lost = [make_record(900 + i, True, "x", split, "NO_FACE") for i, split in enumerate(("test", "test", "train"))]
    done = train_on_cache(replace(cache, videos=cache.videos + lost), tmp_path / "run", TrainConfig(QUICK))
    counts = done.document.split.counts
    assert {name: count.excluded for name, count in counts.items()} == {"train": 1, "val": 0, "test": 2}
    assert "2 of 22 videos of the test split have no features" in done.document.warnings[0]


def test_videos_without_a_group_and_runs_without_a_test_are_warned_about(tmp_path: Path) -> None:
    cache = make_cache(CacheRecipe(groups=10, splits=("train", "val")))
    videos = [replace(video, group="") for video in cache.videos]
    done = train_on_cache(replace(cache, videos=videos), tmp_path / "run", TrainConfig(QUICK))
    assert done.document.test is None
    assert done.document.split.ungrouped == 40
    assert ["no group" in w or "no test" in w for w in done.document.warnings] == [True, True]


def test_videos_without_features_are_left_out_and_counted(tmp_path: Path) -> None:
    cache = make_cache()
    lost = [make_record(900, True, "x", status="NO_FACE"), make_record(901, False, "x", status="TOO_SHORT")]
    done = train_on_cache(replace(cache, videos=cache.videos + lost), tmp_path / "run", TrainConfig(QUICK))
    assert done.document.excluded == {"NO_FACE": 1, "TOO_SHORT": 1}
    assert len(done.document.split.assignment) == 80


def test_an_untrained_backbone_is_called_untrained(tmp_path: Path) -> None:
    features = write_features(tmp_path / "f.h5", make_cache(CacheRecipe(trained=False)))
    arguments = [str(features), "--out", str(tmp_path / "run"), "--epochs", "2"]
    result = CliRunner().invoke(cli.train_command, arguments)
    assert result.exit_code == 0, result.output
    assert "UNTRAINED" in result.stdout
    assert load_run(tmp_path / "run").document.untrained_backbone


def test_the_command_prints_its_summary_as_json(tmp_path: Path) -> None:
    features = write_features(tmp_path / "f.h5", make_cache())
    arguments = [str(features), "--out", str(tmp_path / "run"), "--epochs", "2", "--purpose", "demo", "--json"]
    result = CliRunner().invoke(cli.train_command, arguments)
    summary = json.loads(result.stdout)
    assert set(summary["test"]["auc"]) == {"value", "low", "high"}
    assert summary["purpose"] == "demo"
    assert "assignment" not in summary["split"]


def test_a_cache_file_trains_like_the_same_cache_in_memory(finished: Run, tmp_path: Path) -> None:
    features = write_features(tmp_path / "f.h5", make_cache())
    done = train_run(features, tmp_path / "run", TrainConfig(QUICK))
    assert done.document.weights_sha256 == finished.document.weights_sha256
    assert done.document.cache.sha256 == hash_file(features)


def test_every_epoch_is_told_to_whoever_watches(tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = TrainConfig(FitConfig(epochs=2), folds=3)
    train_on_cache(make_cache(), tmp_path / "run", config, watch=seen.append)
    assert [p.stage for p in seen[:6]] == ["fold 1/3"] * 2 + ["fold 2/3"] * 2 + ["fold 3/3"] * 2
    assert seen[-1].stage == "refit"


def test_a_run_is_replaced_only_when_asked(finished: Run, tmp_path: Path) -> None:
    path = copy_run(finished, tmp_path / "run")
    with pytest.raises(UsageError, match="--overwrite"):
        train_run(tmp_path / "unread.h5", path)
    cache = make_cache(CacheRecipe(seed=1))
    train_on_cache(cache, path, TrainConfig(FitConfig(epochs=1)), overwrite=True)
    assert load_run(path).document != finished.document


def test_what_is_not_a_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not a run"):
        train_on_cache(make_cache(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_run_that_fails_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "draw_loss", fail)
    with pytest.raises(DiskError, match="no space left"):
        train_on_cache(make_cache(), tmp_path / "run", TrainConfig(FitConfig(epochs=1)))
    assert not (tmp_path / "run").exists()


def test_a_path_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run"):
        load_run(tmp_path / "nothing")
    with pytest.raises(FormatError, match=r"no run\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "damaged"),
        ("[]", "has the format None"),
        ('{"format": "unmask-run/1"}', "expected 'unmask-run/2'"),
        ('{"format": "unmask-run/2"}', "damaged at"),
    ],
)
def test_a_document_that_is_not_understood_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(FormatError, match=complaint):
        load_run(tmp_path)


def test_weights_that_were_changed_are_refused(finished: Run, tmp_path: Path) -> None:
    path = copy_run(finished, tmp_path / "run")
    weights = load_file(path / WEIGHTS)
    weights["classify.bias"] += 1
    save_file(weights, path / WEIGHTS)
    with pytest.raises(FormatError, match="changed after training"):
        load_head(load_run(path))


def test_weights_that_are_missing_are_refused(finished: Run, tmp_path: Path) -> None:
    path = copy_run(finished, tmp_path / "run")
    (path / WEIGHTS).unlink()
    with pytest.raises(FormatError, match=r"no head\.safetensors"):
        load_head(load_run(path))


def test_weights_of_another_shape_are_refused(finished: Run, tmp_path: Path) -> None:
    path = copy_run(finished, tmp_path / "run")
    edit_document(path, head={**finished.document.head.model_dump(), "hidden": 64})
    with pytest.raises(FormatError, match=r"classify\.weight has the shape \(1, 128\).*\(1, 64\)"):
        load_head(load_run(path))


def test_weights_that_are_no_safetensors_are_refused(finished: Run, tmp_path: Path) -> None:
    path = copy_run(finished, tmp_path / "run")
    (path / WEIGHTS).write_bytes(b"not weights")
    edit_document(path, weights_sha256=hash_file(path / WEIGHTS))
    with pytest.raises(FormatError, match="damaged"):
        load_head(load_run(path))


def test_a_cache_without_any_features_is_refused(tmp_path: Path) -> None:
    cache = make_cache()
    videos = [replace(video, status="NO_FACE") for video in cache.videos]
    with pytest.raises(UnmaskError, match="80 NO_FACE"):
        train_on_cache(replace(cache, videos=videos), tmp_path / "run")


def test_an_unsound_cache_is_refused(tmp_path: Path) -> None:
    records = [make_record(0, True), make_record(1, False)]
    short = build_cache(records, [(0, 0, 0, 0, 3, 0.0, 10.0), (1, 0, 0, 3, 4, 0.0, 10.0)], np.zeros((7, 16)))
    with pytest.raises(FormatError, match=r"v0000\.mp4 has 3 frames, expected at least 4"):
        select_usable(short)
    empty = build_cache(records, [(0, 0, 0, 0, 4, 0.0, 10.0)], np.zeros((4, 16)))
    with pytest.raises(FormatError, match=r"v0001\.mp4 is marked OK but has no clip"):
        select_usable(empty)
    infinite = make_cache()
    infinite.features[5, 3] = np.inf
    with pytest.raises(FormatError, match="not finite"):
        select_usable(infinite)


def test_a_batch_is_padded_to_its_longest_clip_with_rows_of_the_clip_itself() -> None:
    data = select_usable(make_cache())
    (batch,) = BatchReader(data, CPU).read_in_order(np.array([0, 3, 5]), 8)
    assert batch.features.shape == (3, int(batch.lengths.max()), 16)
    assert batch.features.dtype == torch.float16
    for row, clip in enumerate(batch.clips.tolist()):
        start, length = int(data.clip_start[clip]), int(data.clip_length[clip])
        assert torch.equal(batch.features[row, :length], data.rows.load(start, start + length))
        assert batch.labels[row] == data.labels[data.clip_video[clip]]


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys\nfrom train.cli import train_command\ntrain_command(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'sklearn', 'matplotlib', 'h5py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(("told", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(told: str | None, found: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    code = """
import os, sys
from unmask import main
main(["train", "--help"], standalone_mode=False)
print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"])
"""
    command = [sys.executable, "-c", code]
    env |= {} if told is None else {"OMP_WAIT_POLICY": told}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == f"False {found}"
