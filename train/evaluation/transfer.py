"""What thresholds promised on the data they were chosen on, and what they give on other data.

A threshold is never chosen on the scores of the videos it judges. Videos that were held out in folds are judged by
thresholds of their folds: each fold by the one that its own validation fold, or for a target named later the other
folds, chose. The heads of those other folds have learned from the fold that is judged, so a target that matters is
named in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extract.errors import UsageError
from extract.specs import Spec
from train.calibrate import apply_sigmoid
from train.checkpoint import PredictionRow, Run
from train.evaluation.judged import Judged, stack_rows
from train.measures.metrics import Estimate
from train.operating_points import name_groups
from train.thresholds import Decision, Target, Threshold, choose_threshold, decide_each

Promise = Literal["kept", "within chance", "broken"]
FoldThresholds = dict[tuple[int, int], Threshold]  # by seed and fold

UNCERTAIN: Decision = "UNCERTAIN"
ROUNDING = 1e-9  # of a rate


class Transfer(Spec):
    """A threshold with what it promised, and what it gave here; `promise` says whether its target was met.

    `within chance`: the target was missed, but the interval does not exclude it.
    """

    threshold: Threshold
    recall: Estimate
    fpr: Estimate
    uncertain: float  # share of the videos
    promise: Promise | None


@dataclass(frozen=True)
class AppliedThreshold:
    """The threshold and band that each head applies to each video, each (S, V) or (1, 1)."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def flag(self, probs: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which videos (S, V) are taken for fake, the band left aside."""
        return probs >= self.value

    def name_outcomes(self, probs: NDArray[np.float64]) -> NDArray[np.str_]:
        """FAKE, UNCERTAIN or REAL for each (S, V), as `decide` says it of one."""
        return decide_each(probs, self.value, self.low, self.high)


def collect_thresholds(run: Run, rows: Sequence[PredictionRow], targets: Sequence[Target]) -> dict[str, Threshold]:
    """The run's thresholds, and one for each target that it has none for, chosen on its own held-out predictions."""
    document = run.document
    held = [row for row in rows if row.fold is not None] or [row for row in rows if row.split == "val"]
    found = dict(document.thresholds)
    for target in targets:
        if target.name in found:
            continue  # it may be a preset, or have been asked for in training
        probs = document.calibration.apply(stack_rows(held, "logit"))
        labels, groups = list_labels(held), list_groups(held)
        found[target.name] = choose_threshold(probs, labels, groups, document.calibrated_on, target, document.fit.seed)
    return found


def list_labels(rows: Sequence[PredictionRow]) -> NDArray[np.int64]:
    """(V,) 1 = fake."""
    return np.array([label == "fake" for label in {row.id: row.label for row in rows}.values()], dtype=np.int64)


def list_groups(rows: Sequence[PredictionRow]) -> NDArray[np.str_]:
    """The group (V,) of each video."""
    return name_groups({row.id: row for row in rows}.values())


def apply_thresholds(run: Run, judged: Judged, thresholds: Mapping[str, Threshold]) -> dict[str, AppliedThreshold]:
    """What decides each judged video under each threshold."""
    if judged.fold is None:
        return {name: _apply_everywhere(threshold) for name, threshold in thresholds.items()}
    return {
        name: _apply_in_folds(
            judged, judged.fold, _list_fold_thresholds(run, name), threshold.target, run.document.fit.seed
        )
        for name, threshold in thresholds.items()
    }


def require_preset(name: str | None, thresholds: Mapping[str, Threshold], default: str) -> str:
    """The threshold to decide by; one that is neither a preset nor a target asked for is refused."""
    if name is None:
        return default
    if name not in thresholds:
        raise UsageError(f"no preset {name!r}; this run has {', '.join(thresholds)}, and --target adds more")
    return name


def judge_promise(target: Target, recall: Estimate, fpr: Estimate) -> Promise | None:
    """Whether a target for recall or FPR was met; the others promise no rate."""
    if target.kind == "recall":
        return _judge(recall.value, recall.high, target.value or 0.0)
    if target.kind == "fpr" and fpr.value is not None:
        return _judge(1 - fpr.value, None if fpr.low is None else 1 - fpr.low, 1 - (target.value or 0.0))
    return None


def _judge(value: float | None, best: float | None, least: float) -> Promise | None:
    if value is None:
        return None
    if value >= least - ROUNDING:
        return "kept"
    return "within chance" if best is None or best >= least - ROUNDING else "broken"


def _list_fold_thresholds(run: Run, name: str) -> FoldThresholds:
    return {
        (record.seed, record.fold): record.thresholds[name]
        for record in run.document.folds
        if name in record.thresholds
    }


def _apply_everywhere(threshold: Threshold) -> AppliedThreshold:
    return AppliedThreshold(*(np.full((1, 1), end) for end in (threshold.value, threshold.low, threshold.high)))


def _apply_in_folds(
    judged: Judged, fold: NDArray[np.int64], given: FoldThresholds, target: Target, chosen_by: int
) -> AppliedThreshold:
    """Each head and fold by its own threshold; where training chose none for the target, the other folds do."""
    ends = np.full((3, *fold.shape), np.nan)
    probs, labels = apply_sigmoid(judged.calibrated), judged.labels
    groups = name_groups(judged.videos)
    for place, seed in enumerate(judged.seeds):
        for number in np.unique(fold[place]).tolist():
            held = fold[place] == number
            threshold = given.get((seed, number)) or choose_threshold(
                probs[place, ~held], labels[~held], groups[~held], "out-of-fold", target, chosen_by
            )
            ends[:, place, held] = np.array([[threshold.value], [threshold.low], [threshold.high]])
    return AppliedThreshold(*ends)
