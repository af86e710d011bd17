"""An evaluation told in words and tables: the same in print as on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from extract.audit.report import count_noun
from train.evaluation.evaluate import Evaluation
from train.evaluation.judged import SEEN
from train.evaluation.transfer import Transfer
from train.measures.metrics import FRAME_RESAMPLES, Estimate, Metrics, format_estimate

UNTRAINED = "UNTRAINED BACKBONE: its weights are random, so these figures say nothing about finding deepfakes"
DEMONSTRATION = "DEMONSTRATION: this model was made to show the pipeline and detects nothing reliably"
RATES = {
    "auc": "video AUC",
    "ap": "average precision",
    "eer": "equal error rate",
    "tpr_at_fpr_1": "recall at FPR 1 %",
    "tpr_at_fpr_5": "recall at FPR 5 %",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "recall": "recall (fakes found)",
    "fpr": "FPR (reals flagged)",
    "precision": "precision",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
}
LABELS = {**RATES, "log_loss": "log loss (nats)"}
PARTS = ("auc", "ap", "eer", "balanced_accuracy", "recall", "fpr", "tpr_at_fpr_5")
USES = {"train": "which the run used for training", "val": "which the run used for validation"}
SOURCES = {"validation": "validation", "out-of-fold": "that of the folds"}
FLATTERED = "videos of training or validation are among them and flatter these figures"
THRESHOLD_COLUMNS = (
    "threshold", "decides at", "UNCERTAIN", "share", "recall promised", "recall here", "FPR promised", "FPR here",
    "target",
)  # fmt: skip
KINDS = {
    "test": "the held-out test split of the run",
    "out-of-fold": "cross-validation, each video held out by its fold",
    "whole": "judged wholly, by the saved head with the calibration and thresholds of its training (transfer)",
}


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first column names the rows. `note` says what a reader cannot see from it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def list_rows_apart(self) -> list[TextTable]:
        """A table a row, of two columns, for where the whole is too wide; the last one bears the note."""
        last = len(self.rows) - 1
        return [
            TextTable(
                f"{self.columns[0]}: {name}",
                ("", "value"),
                tuple(zip(self.columns[1:], cells, strict=True)),
                self.note if place == last else "",
            )
            for place, (name, *cells) in enumerate(self.rows)
        ]


@dataclass(frozen=True)
class Account:
    """Everything that is said of an evaluation, in the order in which it is said."""

    title: str
    notices: tuple[str, ...]  # at the top of everything
    warnings: tuple[str, ...]
    verdict: str
    data: tuple[str, ...]
    usual: TextTable  # what a table of a detector usually shows
    missing: TextTable  # and what that leaves out
    figures: TextTable
    intervals: tuple[tuple[str, Estimate], ...]  # those figures that lie between 0 and 1
    thresholds: TextTable
    parts: tuple[TextTable, ...]  # by role, method, dataset
    limits: tuple[str, ...]
    origin: TextTable


def give_account(found: Evaluation) -> Account:
    """Tells an evaluation."""
    return Account(
        title=f"Evaluation of {found.run.name} on {found.source.name}",
        notices=list_notices(found),
        warnings=found.warnings,
        verdict=tell_verdict(found),
        data=tuple(_tell_data(found)),
        usual=_tabulate_usual(found),
        missing=_tabulate_missing(found),
        figures=TextTable(
            "Figures",
            ("video level, 95 % interval", "value"),
            tuple(_list_figures(found)),
            f'decided by "{found.preset}"; intervals by {found.resamples} bootstrap samples of whole {found.cluster}s'
            + (f"; means over {found.seeds} seeds" if found.seeds > 1 else ""),
        ),
        intervals=tuple((label, getattr(found, name)) for name, label in RATES.items()),
        thresholds=_tabulate_thresholds(found),
        parts=tuple(_tabulate_parts(found)),
        limits=tuple(_list_limits(found)),
        origin=_tabulate_origin(found),
    )


def list_notices(found: Evaluation) -> tuple[str, ...]:
    """What stands above everything that is shown."""
    return tuple(
        text
        for text, holds in ((UNTRAINED, found.untrained_backbone), (DEMONSTRATION, found.purpose == "demo"))
        if holds
    )


def tell_verdict(found: Evaluation) -> str:
    """The outcome in a few sentences for a reader who knows no metric."""
    sentences = [
        f"Of {found.n_fake} fake videos the detector finds {_percent(found.recall)}, and of {found.n_real} real ones "
        f'it flags {_percent(found.fpr)}, by the threshold "{found.preset}"{_tell_band(found)}.'
    ]
    if found.auc.value is not None:
        sentences.append(
            f"Given one fake and one real video, it scores the fake one higher in {_percent(found.auc)} of cases "
            f"(video AUC {format_estimate(found.auc)}); {_compare_with_chance(found.auc)}."
        )
    right = found.ppv["0.01"]
    if right.value is not None:
        sentences.append(f"Where one video in 100 is fake, {_tell_right(right)} of its alarms would be right.")
    return " ".join(sentences)


def _tell_band(found: Evaluation) -> str:
    """How many videos the rates decide that the detector would not."""
    unsure = found.thresholds[found.preset].uncertain
    if not unsure:
        return ""
    return f", its UNCERTAIN band left aside ({_hundredths(unsure)} % of the videos lie in it)"


def _tell_right(share: Estimate) -> str:
    if share.low is None or share.high is None:
        return f"an uncertain share (by these videos {_percent(share)})"
    value = _percent(share.model_copy(update={"low": None}))
    return f"at least {_hundredths(share.low)} % (by these videos {value}, at most {_hundredths(share.high)} %)"


def describe_unscorable(found: Evaluation) -> str:
    """How many videos have no score, why, and what they could do to the recall."""
    lost = found.unscorable
    if not lost.total:
        return "every video has a score"
    named = (("fake", lost.fake), ("real", lost.real), ("of unknown label or split", lost.unknown))
    labels = ", ".join(f"{n} {name}" for name, n in named if n)
    reasons = ", ".join(f"{reason} {count}" for reason, count in lost.reasons.items()) or "reasons not known any more"
    text = (
        f"{count_noun(lost.total, 'video')} without a score, in no rate ({'; '.join(filter(None, [labels, reasons]))})"
    )
    if found.worst_case_recall is None or not lost.fake + lost.unknown:
        return text
    of = "every fake among them" if not lost.unknown else "every one of them a fake that was"
    return f"{text}: were {of} missed, recall would be {found.worst_case_recall:.3f}"


def _compare_with_chance(auc: Estimate) -> str:
    if auc.low is None or auc.high is None:
        return "too few videos to tell whether that is better than guessing"
    if auc.low > 0.5:
        return "that is better than guessing, which gives 50 %"
    return "that is worse than guessing" if auc.high < 0.5 else "that cannot be told from guessing, which gives 50 %"


def _percent(estimate: Estimate) -> str:
    if estimate.value is None:
        return "an unknown share"
    value = f"{_hundredths(estimate.value)} %"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({_hundredths(estimate.low)} to {_hundredths(estimate.high)} %)"


def _hundredths(share: float) -> str:
    """A share in hundredths; near 0 and 1 with a digit more, so that what is not all is never called 100."""
    if share in (0, 1) or 0.01 <= share <= 0.99:
        return f"{100 * share:.0f}"
    return f"{min(max(100 * share, 0.1), 99.9):.1f}"


def _tell_data(found: Evaluation) -> Iterator[str]:
    yield f"{found.source.name}: {KINDS[found.kind]}"
    videos = f"{found.n_videos} videos with a score: {found.n_fake} fake and {found.n_real} real"
    yield f"{videos}, in {count_noun(found.n_groups, found.cluster)}"
    yield describe_unscorable(found)
    for role, count in found.left_out.items():
        yield f"{count_noun(count, 'video')} left out, {USES.get(role, f'which {role} holds too')}"
    if found.kind == "whole" or found.known_persons:
        yield f"{found.known_persons} of {found.n_videos} judged videos show a person of whom training saw another one"
    if found.nameless:
        yield f"whether training saw a person is not known for {count_noun(found.nameless, 'video')} without a group"
    yield from filter(None, (found.cluster_note, *found.notes))


def _tabulate_usual(found: Evaluation) -> TextTable:
    names = {"accuracy": "accuracy", "recall": "recall", "precision": "precision", "f1": "F1"}
    confusion = found.confusion
    counts = {"TP": confusion.tp, "FN": confusion.fn, "FP": confusion.fp, "TN": confusion.tn}
    return TextTable(
        "The usual table",
        ("", "value"),
        (
            *((label, _value(getattr(found, name))) for name, label in names.items()),
            *((label, str(count)) for label, count in counts.items()),
        ),
        "counts are those of the first seed" if found.seeds > 1 else "",
    )


def _tabulate_missing(found: Evaluation) -> TextTable:
    return TextTable(
        "What it leaves out",
        ("", "value"),
        (
            ("real videos flagged (FPR)", format_estimate(found.fpr)),
            ("accuracy, 95 % interval", _interval(found.accuracy)),
            ("recall, 95 % interval", _interval(found.recall)),
            ("alarms that are right at 1 % fakes (PPV)", format_estimate(found.ppv["0.01"])),
            ("video AUC", format_estimate(found.auc)),
            ("videos without a score", str(found.unscorable.total)),
            ("recall if their fakes were missed", _number(found.worst_case_recall)),
        ),
    )


def _list_figures(found: Evaluation) -> Iterator[tuple[str, str]]:
    for name, label in RATES.items():
        yield label, format_estimate(getattr(found, name))
    yield LABELS["log_loss"], format_estimate(found.log_loss)
    for share in found.ppv:
        yield f"PPV at {100 * float(share):g} % fakes", format_estimate(found.ppv[share])
        yield f"NPV at {100 * float(share):g} % fakes", format_estimate(found.npv[share])
    if found.frame_auc is not None:
        which = ", first seed only" if found.seeds > 1 else ""
        label = f"frame AUC (another number than video AUC; {FRAME_RESAMPLES} resamples{which})"
        yield label, format_estimate(found.frame_auc)


def _tabulate_thresholds(found: Evaluation) -> TextTable:
    first = next(iter(found.thresholds.values())).threshold
    seen = _is_flattered(found)
    notes = [
        f"promised on {first.n_fake} fake and {first.n_real} real videos ({first.source}); in brackets the bound that "
        "holds on new videos of the same kind with 95 % confidence, and a target that it meets is guaranteed there. "
        'UNCERTAIN is the band of P(fake) in which nothing is decided; its share is that of the videos here. "decides '
        'at" and the rates leave the band aside: with it, FAKE begins at its upper end'
    ]
    if found.kind == "out-of-fold":
        notes.append(
            "thresholds, bands and promises are those of the saved head; what is given here comes from the folds' own, "
            "which differ. No video is judged by a threshold that was chosen on its score, but where a target is first "
            "named here, other folds chose it, whose heads had learned from the video"
        )
    if seen:
        notes.append(FLATTERED)
    return TextTable(
        "Thresholds: what they promised, what they give here",
        THRESHOLD_COLUMNS,
        tuple(_tell_threshold(name, transfer, seen) for name, transfer in found.thresholds.items()),
        "; ".join(notes),
    )


def _tell_threshold(name: str, transfer: Transfer, seen: bool) -> tuple[str, ...]:
    threshold = transfer.threshold
    return (
        name,
        f"{threshold.value:.3f}",
        f"{threshold.low:.2f}–{threshold.high:.2f}",
        f"{100 * transfer.uncertain:.0f} %",
        f"{threshold.recall:.2f} (≥ {threshold.recall_bound:.2f})",
        format_estimate(transfer.recall, 2),
        f"{threshold.fpr:.2f} (≤ {threshold.fpr_bound:.2f})",
        format_estimate(transfer.fpr, 2),
        _tell_promise(transfer, seen),
    )


def _tell_promise(transfer: Transfer, seen: bool) -> str:
    threshold, target = transfer.threshold, transfer.threshold.target
    asked = target.name.replace("=", " ").replace("fpr", "FPR")
    if target.kind not in ("recall", "fpr"):
        return f"{asked}: promises no rate"
    if seen:
        return f"{asked}: not judged on videos of training"
    outcomes = {
        "kept": "kept",
        "within chance": "missed within chance",
        "broken": "MISSED here",
        None: "not measurable",
    }
    outcome = outcomes[transfer.promise]
    if not threshold.guaranteed:
        return f"{asked}: {outcome}, not guaranteed"
    if transfer.promise == "kept":
        return f"{asked}: kept, guaranteed"
    return f"{asked}: {outcome}; it was guaranteed on data like {SOURCES[threshold.source]}"


def _tabulate_parts(found: Evaluation) -> Iterator[TextTable]:
    lost, seen = found.unscorable, _is_flattered(found)
    if len(found.by_role) > 1 or seen:
        note = "train and val were used to make this head: their figures flatter it" if seen else ""
        yield _tabulate_metrics("By role", "role", found.by_role, {}, note)
    if found.by_method:
        yield _tabulate_methods(found)
    if len(found.by_dataset.keys() | lost.by_dataset.keys()) > 1:
        note = FLATTERED if seen else ""
        yield _tabulate_metrics("By dataset", "dataset", found.by_dataset, lost.by_dataset, note)


def _tabulate_methods(found: Evaluation) -> TextTable:
    lost, figures = found.unscorable.by_method, found.by_method
    rows = [
        (name, str(f.n_fake), format_estimate(f.recall), str(f.n_real), format_estimate(f.auc), str(lost.get(name, 0)))
        for name, f in figures.items()
    ]
    rows += [(name, "0", "undefined", "", "undefined", str(n)) for name, n in lost.items() if name not in figures]
    note = "the fakes of each method against the real videos of the same dataset, or all where it has none"
    return TextTable(
        "By method",
        ("method", "fakes", "recall", "reals compared", "AUC", "without a score"),
        tuple(rows),
        f"{note}; {FLATTERED}" if _is_flattered(found) else note,
    )


def _is_flattered(found: Evaluation) -> bool:
    return not found.by_role.keys().isdisjoint(SEEN)


def _tabulate_metrics(title: str, kind: str, parts: dict[str, Metrics], lost: dict[str, int], note: str) -> TextTable:
    """A row a part; `lost` counts the videos of each without a score, where that is known."""
    rows = [
        (name, f"{m.n_fake} / {m.n_real}", *(format_estimate(getattr(m, metric), 2) for metric in PARTS))
        for name, m in parts.items()
    ]
    rows += [(name, "0 / 0", *("undefined" for _ in PARTS)) for name in lost if name not in parts]
    columns = (kind, "fake / real", *(RATES[name].partition(" (")[0] for name in PARTS))
    if not lost:
        return TextTable(title, columns, tuple(rows), note)
    counted = tuple((*row, str(lost.get(row[0], 0))) for row in rows)
    return TextTable(title, (*columns, "without a score"), counted, note)


def _list_limits(found: Evaluation) -> Iterator[str]:
    yield (
        "A detector knows the manipulations it was trained on and little of others; these figures hold for videos like "
        "the ones judged here, and for nothing else."
    )
    yield (
        "Probabilities are stated at even odds. Precision and accuracy depend on the share of fakes in this data "
        f"({100 * found.n_fake / max(1, found.n_videos):.0f} %); recall, FPR and AUC do not."
    )
    yield (
        f"Intervals resample whole {found.cluster}s, because videos of one person err together. They cover the chance "
        "of this sample, not a change of dataset, compression or method."
    )
    if found.kind == "whole":
        yield "A threshold promises its rates on data like that it was chosen on; here it was carried to other data."


def _tabulate_origin(found: Evaluation) -> TextTable:
    return TextTable(
        "Made with",
        ("", "value"),
        (
            ("run", found.run.path),
            ("purpose", found.purpose),
            ("head sha256", found.run.weights_sha256),
            ("cache", found.source.path),
            ("cache sha256", found.source.sha256 or "none"),
            ("fingerprint sha256", found.run.fingerprint_sha256),
            ("seeds of the heads", ", ".join(map(str, found.run.head_seeds))),
            *((package, version) for package, version in found.versions.items()),
        ),
    )


def _value(estimate: Estimate) -> str:
    return _number(estimate.value)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "undefined"
    return f"{estimate.low:.3f} to {estimate.high:.3f}"
