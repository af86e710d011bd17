"""Two heads on the videos that both held out: matched by content, compared in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.audit.report import count_noun
from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from train.checkpoint import DOCUMENT, PREDICTIONS, PredictionRow, load_run, read_prediction_rows
from train.evaluation.account import LABELS, TextTable
from train.evaluation.files import is_evaluation, load_evaluation
from train.evaluation.judged import SEEN, stack_rows
from train.evaluation.transfer import list_labels
from train.measures.clusters import Clusters, choose_clusters
from train.measures.compare import Comparison, compare
from train.measures.metrics import Predictions, format_estimate


@dataclass(frozen=True)
class Side:
    """A run or an evaluation: its held-out predictions, and what its head was made of.

    `rows` are test videos, or those of the data that was evaluated; `folds` were held out in cross-validation.
    """

    path: Path
    rows: list[PredictionRow]
    folds: list[PredictionRow]
    cache: str | None
    fingerprint: str
    trained_on: frozenset[str] | None  # sha256 of the videos; null where the folder does not say


class PairedComparison(Comparison):
    """What tells A from B (A - B) on the videos that both held out, and what was left out to say so."""

    a: str
    b: str
    only_in_a: int
    only_in_b: int
    warnings: tuple[str, ...]
    sentence: str

    def tabulate(self) -> TextTable:
        """The differences, a row each."""
        return TextTable(
            f"{self.a} less {self.b}",
            ("video level, 95 % interval", "A less B"),
            tuple((LABELS.get(name, name), format_estimate(found)) for name, found in self.differences.items()),
            f"{self.n_videos} videos that both held out, in {count_noun(self.n_groups, self.cluster)}; left out since "
            f"only one held them out: {self.only_in_a} of A, {self.only_in_b} of B",
        )


def compare_folders(a: Path, b: Path, resamples: int = 2000, seed: int = 0) -> PairedComparison:
    """Compares two runs or evaluations on the videos that both held out, by test splits where both have one."""
    sides = open_side(a), open_side(b)
    tested = all(side.rows for side in sides)
    held = [_group(side.rows if tested else side.folds or side.rows, side.path) for side in sides]
    common = sorted(held[0].keys() & held[1].keys())
    if not common:
        raise UnmaskError(
            f"{a} holds out {len(held[0])} videos and {b} {len(held[1])}, but none in common, so nothing tells the two "
            "apart; evaluate both on one cache and compare the evaluations"
        )
    first, second = ([row for sha256 in common for row in of_side[sha256]] for of_side in held)
    _require_labels(first, second, b)
    clusters = choose_clusters([of_video[0] for of_video in map(held[0].__getitem__, common)])
    found = compare(_predict(first, clusters), _predict(second, clusters), resamples, seed)
    return PairedComparison(
        **dict(found),
        a=str(a),
        b=str(b),
        only_in_a=len(held[0]) - len(common),
        only_in_b=len(held[1]) - len(common),
        warnings=tuple(_list_differences(*sides)),
        sentence=f"{a} against {b}: {found.summary}",
    )


def open_side(path: Path) -> Side:
    """Reads a run or an evaluation."""
    evaluated = is_evaluation(path)
    if not evaluated and not (path / DOCUMENT).is_file():
        raise UsageError(f"{path} is neither a run nor an evaluation; give folders of `unmask train` or `evaluate`")
    if not (path / PREDICTIONS).is_file():
        again = "evaluate" if evaluated else "train"
        raise FormatError(f"{path / PREDICTIONS} is missing, so nothing tells what was held out; {again} again")
    rows = read_prediction_rows(path / PREDICTIONS)
    if evaluated:
        document = load_evaluation(path)
        return Side(
            path,
            rows=[row for row in rows if row.split not in SEEN],
            folds=[row for row in rows if row.fold is not None],
            cache=document.source.sha256,
            fingerprint=document.run.fingerprint_sha256,
            trained_on=None,
        )
    run = load_run(path)
    return Side(
        path,
        rows=[row for row in rows if row.split == "test"],
        folds=[row for row in rows if row.fold is not None],
        cache=run.document.cache.sha256,
        fingerprint=run.document.fingerprint.sha256,
        trained_on=frozenset(row.sha256 for row in rows if row.split == "train"),
    )


def _group(rows: Sequence[PredictionRow], path: Path) -> dict[str, list[PredictionRow]]:
    """The rows of each video by its sha256; of two videos with one content the first stands for both."""
    if not rows:
        raise UnmaskError(f"{path} holds no video out; compare runs with a test split or folds, or evaluations")
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.sha256, row.id)
    found: dict[str, list[PredictionRow]] = {}
    for row in rows:
        if first[row.sha256] == row.id:
            found.setdefault(row.sha256, []).append(row)
    return found


def _require_labels(first: Sequence[PredictionRow], second: Sequence[PredictionRow], path: Path) -> None:
    labels = {row.sha256: row.label for row in first}
    for row in second:
        if row.label != labels[row.sha256]:
            raise MismatchError(
                f"{path} calls {row.id} {row.label}, the other side calls the same file {labels[row.sha256]}; correct "
                "the manifest that is wrong, then extract and train again"
            )


def _predict(rows: Sequence[PredictionRow], clusters: Clusters) -> Predictions:
    return Predictions(
        labels=list_labels(rows),
        logits=stack_rows(rows, "calibrated"),
        flagged=stack_rows(rows, "flagged") > 0,
        groups=clusters.names,
        cluster=clusters.kind,
    )


def _list_differences(a: Side, b: Side) -> Iterator[str]:
    """What else than the head differs."""
    if a.fingerprint != b.fingerprint:
        yield (
            f"the features differ (fingerprint {a.fingerprint[:12]} and {b.fingerprint[:12]}), so a difference is not "
            "the head's alone"
        )
    if a.cache != b.cache:
        yield "the predictions come from different caches; videos were matched by sha256"
    if None not in (a.trained_on, b.trained_on) and a.trained_on != b.trained_on:
        yield "the heads were trained on different videos"
