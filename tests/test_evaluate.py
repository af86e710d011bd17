"""An evaluation: which videos it judges, by whom, what it says of them, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from extract.cache import FeatureCache, VideoRecord
from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from tests.train_data import CacheRecipe, make_cache, make_record, write_features
from train import evaluate_cli
from train.checkpoint import PREDICTIONS, PredictionRow, Run, read_prediction_rows, read_predictions
from train.config import FitConfig
from train.evaluate_cli import evaluate_command
from train.evaluation import files as evaluation_files
from train.evaluation.evaluate import Evaluated, EvaluationRequest, evaluate_run
from train.evaluation.files import load_evaluation, name_folder, save_evaluation
from train.evaluation.judged import count_known_persons
from train.evaluation.transfer import AppliedThreshold, collect_thresholds, judge_promise, list_groups, list_labels
from train.measures.metrics import Estimate, Metrics, Predictions
from train.plots import Figure, plot_roc
from train.run import train_run
from train.schemes import TrainConfig
from train.thresholds import PRESETS, Target, Threshold, choose_threshold, decide

QUICK = FitConfig(epochs=3, batch_size=16)
FAST = EvaluationRequest(device="cpu", resamples=30)
SPLITS = CacheRecipe(groups=16, signal=0.5, splits=("train", "train", "val", "test"))
METRICS = ("auc", "ap", "eer", "recall", "fpr", "accuracy", "precision", "f1", "balanced_accuracy", "brier", "ece")


def relabel(cache: FeatureCache, change: Callable[[int, VideoRecord], dict[str, Any]]) -> FeatureCache:
    """The same features under other records."""
    return replace(cache, videos=[replace(v, **change(i, v)) for i, v in enumerate(cache.videos)])


def make_lost() -> list[VideoRecord]:
    """Two fakes and a real of the test split without features, and one of no split."""
    cases = [(True, "test", "NO_FACE"), (True, "test", "TOO_SHORT"), (False, "test", "NO_FACE"), (True, "", "NO_FACE")]
    return [make_record(900 + i, fake, "lost", split, status) for i, (fake, split, status) in enumerate(cases)]


@pytest.fixture(autouse=True)
def _draw_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture instead of six: they have tests of their own."""

    def plan(predictions: Predictions, metrics: Metrics, *_: object) -> dict[str, Callable[[], Figure]]:
        return {"roc": lambda: plot_roc(predictions, metrics, "toy", "threshold")}

    monkeypatch.setattr(evaluation_files, "plan_figures", plan)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # the models are tiny; a second thread only waits
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def tested(home: Path) -> Run:
    """A run with a test split, some of whose videos have no features."""
    cache = make_cache(SPLITS)
    path = write_features(home / "own.h5", replace(cache, videos=[*cache.videos, *make_lost()]))
    return train_run(path, home / "tested", TrainConfig(QUICK, device="cpu"))


@pytest.fixture(scope="module")
def crossed(home: Path) -> Run:
    """A cross-validated run of two seeds, without a test split."""
    path = write_features(home / "folds.h5", make_cache(CacheRecipe(groups=12, signal=0.5)))
    config = TrainConfig(FitConfig(epochs=1, batch_size=16), folds=3, seeds=2, device="cpu", purpose="demo")
    return train_run(path, home / "crossed", config)


@pytest.fixture(scope="module")
def foreign(home: Path) -> Path:
    """Another dataset: 40 videos, the first eight of which are files that the run has trained on or tested."""
    cache = make_cache(CacheRecipe(groups=10, signal=0.5, seed=3))
    known = [video.sha256 for video in make_cache(SPLITS).videos]
    places = [0, 1, 8, 9, 12, 13, 14, 15]  # two of train, two of val, four of test

    def change(index: int, video: VideoRecord) -> dict[str, Any]:
        sha256 = known[places[index]] if index < 8 else f"f{index:063d}"
        method = ("deepfakes", "face2face")[index % 4 == 1] if video.label == "fake" else ""
        return {"sha256": sha256, "dataset": "abroad" if index < 36 else "elsewhere", "method": method}

    return write_features(home / "abroad.h5", relabel(cache, change))


@pytest.fixture(scope="module")
def judged(tested: Run) -> Evaluated:
    return evaluate_run(tested, None, FAST)


def test_the_test_split_is_judged_by_the_saved_head_as_training_judged_it(tested: Run, judged: Evaluated) -> None:
    test = tested.document.test
    assert test is not None
    assert judged.document.kind == "test"
    for name in METRICS:
        assert getattr(judged.document, name).value == pytest.approx(getattr(test, name).value, abs=1e-6), name
    expected = {row.id: row.logit for row in read_predictions(tested) if row.split == "test"}
    found = {v.id: logit for v, logit in zip(judged.judged.videos, judged.judged.logits[0], strict=True)}
    assert found == pytest.approx(expected, abs=1e-5)  # float32, batched differently
    assert judged.document.frame_auc is not None
    assert judged.document.frame_auc.value == pytest.approx(tested.document.frame_auc["test"].value, abs=1e-6)


def test_the_runs_own_cache_means_its_test_split_wherever_it_lies(tested: Run, judged: Evaluated, home: Path) -> None:
    copy = home / "copy.h5"
    copy.write_bytes((home / "own.h5").read_bytes())
    again = evaluate_run(tested, copy, FAST).document
    assert again.kind == "test"
    assert again.auc == judged.document.auc
    assert again.n_videos == judged.document.n_videos == 16


def test_without_its_cache_a_run_is_judged_by_what_it_wrote_down(
    tested: Run, judged: Evaluated, home: Path, tmp_path: Path
) -> None:
    (home / "own.h5").rename(tmp_path / "away.h5")
    try:
        found = evaluate_run(tested, None, FAST).document
        with pytest.raises(UsageError, match="is gone"):
            evaluate_run(tested, None, replace(FAST, include_train=True))
    finally:
        (tmp_path / "away.h5").rename(home / "own.h5")
    assert found.auc.value == pytest.approx(judged.document.auc.value, abs=1e-6)
    assert found.frame_auc == tested.document.frame_auc["test"]
    assert "is gone: video-level figures come from the run's predictions.csv" in found.notes[0]
    assert (found.unscorable.total, found.unscorable.unknown) == (4, 4)


def test_unscorable_videos_are_counted_by_reason_and_enter_no_rate(judged: Evaluated) -> None:
    found = judged.document
    assert (found.unscorable.fake, found.unscorable.real, found.unscorable.unknown) == (2, 1, 1)
    assert found.unscorable.reasons == {"NO_FACE": 3, "TOO_SHORT": 1}
    assert found.unscorable.by_method == {"swap": 2}
    assert found.n_fake == 8
    assert found.recall.value is not None
    assert found.worst_case_recall == pytest.approx(found.recall.value * 8 / 11)


def test_an_unscorable_video_of_no_split_goes_with_its_group(home: Path) -> None:
    cache = make_cache(CacheRecipe(groups=16, signal=0.5))
    groups = [*(f"person{i}" for i in range(16)), "stranger"]
    lost = [make_record(900 + i, True, group, "", "NO_FACE") for i, group in enumerate(groups)]
    path = write_features(home / "made.h5", replace(cache, videos=[*cache.videos, *lost]))
    run = train_run(path, home / "made", TrainConfig(FitConfig(epochs=1, batch_size=16), device="cpu"))
    found = evaluate_run(run, None, FAST).document.unscorable
    assert (found.fake, found.unknown) == (run.document.split.counts["test"].groups, 1)
    gone = run.document.model_copy(update={"cache": run.document.cache.model_copy(update={"path": "/gone.h5"})})
    unknown = evaluate_run(Run(run.path, gone), None, FAST).document.unscorable
    assert (unknown.unknown, unknown.reasons) == (17, {"NO_FACE": 17})


def test_folds_without_their_cache_know_why_videos_have_no_score(crossed: Run) -> None:
    source = crossed.document.cache.model_copy(update={"path": "/gone.h5"})
    document = crossed.document.model_copy(update={"cache": source, "excluded": {"NO_FACE": 2}})
    found = evaluate_run(Run(crossed.path, document), None, FAST).document
    assert (found.unscorable.unknown, found.unscorable.reasons) == (2, {"NO_FACE": 2})


def test_folds_are_judged_as_they_were_held_out(crossed: Run) -> None:
    found = evaluate_run(crossed, None, FAST)
    expected = crossed.document.out_of_fold
    assert expected is not None
    assert (found.document.kind, found.document.seeds, found.document.n_videos) == ("out-of-fold", 2, 48)
    for name in METRICS:
        assert getattr(found.document, name).value == pytest.approx(getattr(expected, name).value), name
    assert found.document.frame_auc == crossed.document.frame_auc["out-of-fold"]
    assert "a fold that never saw it" in found.document.notes[0]
    assert found.document.known_persons == 0  # groups are never divided by folds


def test_rows_of_folds_repeat_the_decisions_of_training(crossed: Run) -> None:
    rows = evaluation_files.list_rows(evaluate_run(crossed, None, FAST))
    expected = {(row.seed, row.id): row for row in read_predictions(crossed)}
    assert len(rows) == 96
    for row in rows:
        before = expected[row.seed, row.id]
        assert (row.flagged, row.outcome, row.fold) == (before.flagged, before.outcome, before.fold)
        assert row.p_fake == pytest.approx(before.p_fake)
        assert row.role == "out-of-fold"


def test_a_target_for_folds_is_chosen_for_each_fold_on_the_others(crossed: Run) -> None:
    target = Target.parse("recall=0.6")
    found = evaluate_run(crossed, None, replace(FAST, targets=(target,), preset="recall=0.6"))
    rows = [row for row in evaluation_files.list_rows(found) if row.seed == 1]
    for fold in range(3):
        others = [row for row in rows if row.fold != fold]
        groups = np.array([row.group for row in others])
        labels = np.array([row.label == "fake" for row in others]).astype(np.int64)
        probs = np.array([row.p_fake for row in others])
        value = choose_threshold(probs, labels, groups, "out-of-fold", target).value
        assert all(row.flagged == (row.p_fake >= value) for row in rows if row.fold == fold)


def test_another_cache_is_judged_wholly_but_for_what_the_head_was_made_with(tested: Run, foreign: Path) -> None:
    found = evaluate_run(tested, foreign, FAST).document
    assert (found.kind, found.n_videos) == ("whole", 36)
    assert found.left_out == {"train": 2, "val": 2}
    assert found.roles == {"new": 32, "test": 4}
    assert not any("flatter" in warning for warning in found.warnings)


def test_videos_of_training_are_judged_on_request_labelled_and_warned_about(tested: Run, foreign: Path) -> None:
    evaluated = evaluate_run(tested, foreign, replace(FAST, include_train=True))
    found = evaluated.document
    assert found.roles == {"new": 32, "test": 4, "train": 2, "val": 2}
    assert {role: metrics.n_videos for role, metrics in found.by_role.items()} == found.roles
    assert "4 of 40 judged videos were in the training or validation data" in found.warnings[0]
    rows = evaluation_files.list_rows(evaluated)
    assert [row.role for row in rows].count("train") == 2
    assert all(row.in_training == (row.role == "train") for row in rows)


def rewrite(run: Run, folder: Path, change: Callable[[PredictionRow], PredictionRow]) -> Run:
    """The run with other predictions."""
    folder.mkdir(parents=True)
    rows = [astuple(change(row)) for row in read_predictions(run)]
    with (folder / PREDICTIONS).open("w", newline="") as file:
        csv.writer(file).writerows([[field.name for field in fields(PredictionRow)], *rows])
    (folder / "head.safetensors").write_bytes((run.path / "head.safetensors").read_bytes())
    return Run(folder, run.document)


def test_a_test_video_that_training_holds_under_another_name_is_left_out(tested: Run, tmp_path: Path) -> None:
    first = {split: next(row for row in read_predictions(tested) if row.split == split) for split in ("train", "test")}
    known = first["train"].sha256
    run = rewrite(tested, tmp_path / "run", lambda r: replace(r, sha256=known) if r.id == first["test"].id else r)
    found = evaluate_run(run, None, FAST)
    assert first["test"].id not in {video.id for video in found.judged.videos}
    assert (found.document.n_videos, found.document.left_out) == (15, {"train": 1})
    assert "of the held-out videos 1 left out" in found.document.warnings[0]


def test_a_video_that_another_fold_holds_under_another_name_is_left_out(crossed: Run, tmp_path: Path) -> None:
    rows = read_predictions(crossed)
    other = next(row for row in rows if row.fold != rows[0].fold)
    run = rewrite(crossed, tmp_path / "run", lambda r: replace(r, sha256=other.sha256) if r.id == rows[0].id else r)
    found = evaluate_run(run, None, FAST).document
    assert (found.n_videos, found.left_out, found.frame_auc) == (46, {"another fold": 2}, None)


def test_a_run_all_of_whose_test_videos_were_learned_from_is_refused(tested: Run, tmp_path: Path) -> None:
    run = rewrite(tested, tmp_path / "run", lambda row: replace(row, sha256="a" * 64))
    with pytest.raises(UnmaskError, match="one that its head has learned from"):
        evaluate_run(run, None, FAST)


def test_a_file_in_two_splits_counts_as_one_that_the_head_has_seen(tested: Run, foreign: Path, tmp_path: Path) -> None:
    rows = read_predictions(tested)
    seen = next(row.sha256 for row in rows if row.split == "test")
    first = next(row.id for row in rows if row.split == "train")
    run = rewrite(tested, tmp_path / "run", lambda row: replace(row, sha256=seen) if row.id == first else row)
    found = evaluate_run(run, foreign, FAST).document
    assert found.roles["test"] == 3


def test_a_file_under_two_names_is_judged_once(tested: Run, tmp_path: Path) -> None:
    cache = relabel(make_cache(CacheRecipe(groups=5)), lambda i, _: {"sha256": f"b{i // 4:062d}{i % 2}"})
    found = evaluate_run(tested, write_features(tmp_path / "f.h5", cache), FAST).document
    assert (found.n_videos, found.n_fake) == (10, 5)
    assert any(note.startswith("10 videos not judged, for the same file") for note in found.notes)


def test_a_file_under_two_labels_is_refused(tested: Run, tmp_path: Path) -> None:
    cache = relabel(make_cache(CacheRecipe(groups=5)), lambda i, _: {"sha256": f"b{i // 2:063d}"})
    with pytest.raises(MismatchError, match=r"v0000.mp4 real and v0001.mp4, which is the same file, fake"):
        evaluate_run(tested, write_features(tmp_path / "f.h5", cache), FAST)


def replace_cache(run: Run, path: Path) -> Run:
    """The run, as if its cache had lain where something else lies now."""
    source = run.document.cache.model_copy(update={"path": str(path)})
    return Run(run.path, run.document.model_copy(update={"cache": source}))


def test_a_cache_that_was_replaced_is_judged_only_where_it_fits_and_that_is_said(tested: Run, tmp_path: Path) -> None:
    asked = replace(FAST, include_train=True)
    fits = write_features(tmp_path / "fits.h5", make_cache(SPLITS))
    notes = evaluate_run(replace_cache(tested, fits), None, asked).document.notes
    assert any(note.endswith("fits.h5 has changed since training") for note in notes)
    other = write_features(tmp_path / "other.h5", make_cache(replace(SPLITS, trained=False)))
    with pytest.raises(MismatchError, match=r"backbone.trained"):
        evaluate_run(replace_cache(tested, other), None, asked)


def test_a_run_can_be_judged_on_its_own_training_data_on_request(tested: Run) -> None:
    found = evaluate_run(tested, None, replace(FAST, include_train=True)).document
    assert (found.kind, found.roles) == ("whole", {"test": 16, "train": 32, "val": 16})


def test_a_cache_of_nothing_but_training_videos_is_refused(tested: Run, tmp_path: Path) -> None:
    cache = make_cache(SPLITS)
    path = write_features(tmp_path / "f.h5", relabel(cache, lambda _, v: {"sha256": cache.videos[0].sha256}))
    with pytest.raises(UnmaskError, match=r"every video of .* was in the training or validation data") as refused:
        evaluate_run(tested, path, FAST)
    assert refused.value.exit_code == 1


def test_persons_of_training_are_counted_within_their_dataset(tested: Run, tmp_path: Path) -> None:
    for dataset, expected in (("toy", 48), ("other", 0)):
        videos = [replace(v, sha256=f"e{i:063d}", dataset=dataset) for i, v in enumerate(make_cache(SPLITS).videos)]
        path = write_features(tmp_path / f"{dataset}.h5", replace(make_cache(SPLITS), videos=videos))
        assert evaluate_run(tested, path, FAST).document.known_persons == expected


def test_a_person_is_known_by_the_name_of_a_swap_too(tested: Run, judged: Evaluated) -> None:
    swap = replace(judged.judged.videos[0], id="id3_id7_0001.mp4", label="fake", group="id3")
    row = next(row for row in read_predictions(tested) if row.split == "train")
    for group, expected in (("id7", 1), ("id3", 1), ("id5", 0), ("", 0)):
        found = count_known_persons(replace(judged.judged, videos=(swap,)), [replace(row, group=group)])
        assert found == expected, group


def test_videos_without_a_group_are_not_called_unknown_to_the_head(tested: Run, tmp_path: Path) -> None:
    cache = relabel(make_cache(CacheRecipe(groups=5)), lambda i, _: {"sha256": f"b{i:063d}", "group": "" if i else "p"})
    found = evaluate_run(tested, write_features(tmp_path / "f.h5", cache), FAST).document
    assert (found.known_persons, found.nameless) == (0, 19)


def test_a_cache_that_was_made_differently_is_refused_with_what_differs(tested: Run, tmp_path: Path) -> None:
    cache = make_cache(replace(SPLITS, trained=False))
    with pytest.raises(MismatchError, match=r"backbone.trained: found False, expected True"):
        evaluate_run(tested, write_features(tmp_path / "f.h5", cache), FAST)


def test_a_run_that_held_nothing_out_is_refused(tested: Run, tmp_path: Path) -> None:
    lines = (tested.path / PREDICTIONS).read_text().splitlines()
    (tmp_path / PREDICTIONS).write_text("\n".join(line for line in lines if ",test," not in line) + "\n")
    with pytest.raises(UnmaskError, match="neither a test split nor folds"):
        evaluate_run(Run(tmp_path, tested.document), None, FAST)


def test_predictions_that_lack_a_video_for_a_seed_are_refused(crossed: Run, tmp_path: Path) -> None:
    lines = (crossed.path / PREDICTIONS).read_text().splitlines()
    (tmp_path / PREDICTIONS).write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(FormatError, match=r"hold no logit of v0047.mp4 for seed 1"):
        evaluate_run(Run(tmp_path, crossed.document), None, FAST)


# thresholds


def test_a_target_is_chosen_on_the_runs_validation_and_never_on_what_is_judged(tested: Run, foreign: Path) -> None:
    target = Target.parse("fpr=0.25")
    asked = replace(FAST, targets=(target,), preset="fpr=0.25")
    rows = [row for row in read_predictions(tested) if row.split == "val"]
    probs = tested.document.calibration.apply(np.array([row.logit for row in rows]))
    labels = np.array([row.label == "fake" for row in rows]).astype(np.int64)
    expected = choose_threshold(probs, labels, np.array([row.group for row in rows]), "validation", target)
    for features in (None, foreign):
        found = evaluate_run(tested, features, asked)
        assert found.document.thresholds["fpr=0.25"].threshold == expected
        probs_here = 1 / (1 + np.exp(-found.judged.calibrated))
        assert (found.predictions.flagged == (probs_here >= expected.value)).all()


def test_a_threshold_that_the_run_has_is_never_chosen_again(tested: Run) -> None:
    own = {"balanced": tested.document.thresholds["newsroom"]}
    fit = tested.document.fit.model_copy(update={"seed": 7})
    run = Run(tested.path, tested.document.model_copy(update={"thresholds": own, "fit": fit}))
    rows = read_predictions(run)
    target = Target.parse("fpr=0.25")
    found = collect_thresholds(run, rows, [Target.parse("balanced"), target])
    assert found["balanced"] == own["balanced"]
    val = [row for row in rows if row.split == "val"]
    probs, labels = run.document.calibration.apply(np.array([row.logit for row in val])), list_labels(val)
    assert found["fpr=0.25"] == choose_threshold(probs, labels, list_groups(val), "validation", target, seed=7)


def test_every_preset_says_what_it_promised_and_what_it_gives_here(tested: Run, judged: Evaluated) -> None:
    found = judged.document.thresholds
    assert list(found) == list(tested.document.thresholds)
    assert set(PRESETS) <= set(found)
    fake, probs = judged.judged.labels == 1, 1 / (1 + np.exp(-judged.judged.calibrated[0]))
    for transfer in found.values():
        value, low, high = transfer.threshold.value, transfer.threshold.low, transfer.threshold.high
        assert transfer.recall.value == pytest.approx((probs[fake] >= value).mean())
        assert transfer.fpr.value == pytest.approx((probs[~fake] >= value).mean())
        assert transfer.uncertain == pytest.approx(((probs >= low) & (probs < high)).mean())


def test_another_preset_decides_when_it_is_asked_for(tested: Run, judged: Evaluated) -> None:
    found = evaluate_run(tested, None, replace(FAST, preset="newsroom")).document
    assert found.preset == "newsroom"
    assert found.fpr == judged.document.thresholds["newsroom"].fpr
    assert found.auc == judged.document.auc


def test_a_preset_that_is_not_there_is_refused_with_those_that_are(tested: Run) -> None:
    with pytest.raises(UsageError, match=r"no preset 'paranoid'; this run has security, balanced, newsroom"):
        evaluate_run(tested, None, replace(FAST, preset="paranoid"))


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_an_outcome_is_what_serving_would_decide(prob: float, ends: list[float]) -> None:
    low, value, high = sorted(ends)
    threshold = Threshold.model_construct(value=value, low=low, high=high)
    applied = AppliedThreshold(*(np.full((1, 1), end) for end in (value, low, high)))
    assert applied.name_outcomes(np.array([[prob]])).item() == decide(prob, threshold)


@pytest.mark.parametrize(
    ("target", "recall", "fpr", "expected"),
    [
        ("recall=0.9", (0.9, 0.8, 1.0), (0.5, 0.4, 0.6), "kept"),
        ("recall=0.9", (0.85, 0.8, 0.95), (0.5, 0.4, 0.6), "within chance"),
        ("recall=0.9", (0.7, 0.6, 0.8), (0.0, 0.0, 0.0), "broken"),
        ("recall=0.9", (None, None, None), (0.0, 0.0, 0.0), None),
        ("fpr=0.1", (0.5, 0.4, 0.6), (0.1, 0.0, 0.2), "kept"),
        ("fpr=0.1", (0.5, 0.4, 0.6), (0.2, 0.1, 0.3), "within chance"),
        ("fpr=0.1", (0.5, 0.4, 0.6), (0.3, 0.2, 0.4), "broken"),
        ("fpr=0.1", (0.5, 0.4, 0.6), (None, None, None), None),
        ("balanced", (0.5, 0.4, 0.6), (0.3, 0.2, 0.4), None),
    ],
)
def test_a_promise_is_broken_only_where_its_interval_excludes_it(
    target: str, recall: tuple[float | None, ...], fpr: tuple[float | None, ...], expected: str | None
) -> None:
    rates = [Estimate(value=value, low=low, high=high) for value, low, high in (recall, fpr)]
    assert judge_promise(Target.parse(target), *rates) == expected


# parts


def test_a_method_is_compared_with_the_real_videos_of_its_dataset(tested: Run, foreign: Path) -> None:
    found = evaluate_run(tested, foreign, replace(FAST, include_train=True)).document
    assert {name: (m.n_fake, m.n_real) for name, m in found.by_method.items()} == {
        "deepfakes": (10, 20),
        "face2face": (10, 20),
    }
    assert {name: m.n_videos for name, m in found.by_dataset.items()} == {"abroad": 36, "elsewhere": 4}


def test_a_method_without_real_videos_of_its_dataset_is_compared_with_all(tested: Run, tmp_path: Path) -> None:
    def change(index: int, video: VideoRecord) -> dict[str, Any]:
        fake = video.label == "fake"
        return {"sha256": f"d{index:063d}", "dataset": "swaps" if fake and index < 20 else "mixed", "method": ""}

    path = write_features(tmp_path / "f.h5", relabel(make_cache(CacheRecipe(groups=10)), change))
    found = evaluate_run(tested, path, FAST).document
    assert found.by_method["(not named)"].n_real == 20
    assert found.by_dataset["swaps"].auc.value is None


def test_a_cache_of_one_class_is_judged_and_warned_about(tested: Run, tmp_path: Path) -> None:
    cache = relabel(make_cache(CacheRecipe(groups=5)), lambda i, _: {"sha256": f"c{i:063d}", "label": "fake"})
    found = evaluate_run(tested, write_features(tmp_path / "f.h5", cache), FAST).document
    assert (found.n_real, found.auc.value, found.fpr.value) == (0, None, None)
    assert "all 20 judged videos are fake" in found.warnings[0]


# the folder


def test_the_folder_is_whole_and_reads_back(judged: Evaluated, tmp_path: Path) -> None:
    save_evaluation(tmp_path / "out", judged)
    assert load_evaluation(tmp_path / "out") == judged.document
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "metrics.json", "predictions.csv", "roc.png"}
    rows = read_prediction_rows(tmp_path / "out" / "predictions.csv")
    assert {row.id for row in rows} == {video.id for video in judged.judged.videos}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert {row["role"] for row in csv.DictReader(file)} == {"test"}


def test_a_failed_report_leaves_the_old_folder_as_it_was(
    judged: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text('{"format": "unmask-evaluation/1"}')

    def fail(*_: object) -> str:
        raise UnmaskError("no ink")

    monkeypatch.setattr(evaluation_files, "render_report", fail)
    with pytest.raises(UnmaskError, match="no ink"):
        save_evaluation(tmp_path / "out", judged, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "metrics.json").read_text() == '{"format": "unmask-evaluation/1"}'


def test_only_an_evaluation_is_replaced_and_that_only_on_request(judged: Evaluated, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.tex").touch()
    with pytest.raises(UsageError, match="exists and is no evaluation of unmask"):
        save_evaluation(tmp_path / "thesis", judged, overwrite=True)
    (tmp_path / "thesis" / "metrics.json").write_text('{"format": "unmask-evaluation/0"}')
    with pytest.raises(UsageError, match="already holds an evaluation; give --overwrite"):
        save_evaluation(tmp_path / "thesis", judged)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ('{"format": "unmask-evaluation/9"}', "has the format 'unmask-evaluation/9', expected 'unmask-evaluation/1'"),
        ("[]", "has the format None"),
        ('{"format": "unmask-evaluation/1"}', r"is damaged at n_videos"),
    ],
)
def test_metrics_that_are_damaged_or_of_another_version_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        load_evaluation(tmp_path)


def test_an_evaluation_lies_in_its_run_and_is_named_by_a_cache_that_is_not_the_runs(tested: Run, home: Path) -> None:
    assert name_folder(tested, None) == home / "tested" / "evaluation"
    assert name_folder(tested, home / "own.h5") == home / "tested" / "evaluation"
    assert name_folder(tested, home / "abroad.h5") == home / "tested" / "evaluation-abroad"


# the command


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate_command, [str(argument) for argument in arguments])


def test_json_is_one_document_with_the_figures_on_top(tested: Run, foreign: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke(tested.path, foreign, "--out", out, "--prevalence", 0.02, "--target", "cost=10@0.01", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["auc"]) == {"value", "low", "high"}
    assert set(found["ppv"]) == {"0.01", "0.1", "0.02"}
    assert Target.parse("cost=10@0.01").name in found["thresholds"]
    assert found == json.loads((out / "metrics.json").read_text())


def test_the_table_begins_with_what_the_model_is_and_ends_with_the_folder(crossed: Run, tmp_path: Path) -> None:
    done = invoke(crossed.path, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("DEMONSTRATION: ")
    assert lines[-1] == f"report, figures and predictions: {tmp_path / 'out'}"
    assert "What it leaves out" in done.stdout


def test_the_folder_may_be_the_one_that_one_is_in(tested: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(tested.path, "--out", ".")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "metrics.json").is_file()


def test_a_narrow_terminal_is_shown_a_block_a_threshold(
    tested: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, shown in ((80, True), (144, False)):
        monkeypatch.setattr(evaluate_cli, "WIDTH", width)
        done = invoke(tested.path, "--out", tmp_path / str(width))
        assert ("threshold: security" in done.stdout) == shown, done.stdout


def test_a_folder_that_is_taken_is_refused_before_the_work(tested: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    done = invoke(tested.path, "--out", tmp_path)
    assert isinstance(done.exception, UsageError)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_a_target_that_is_not_understood_is_misuse_before_anything_is_read(tested: Run, tmp_path: Path) -> None:
    done = invoke(tested.path, "--out", tmp_path / "out", "--target", "recall=7")
    assert isinstance(done.exception, UsageError)
    assert "expected a share" in str(done.exception)
