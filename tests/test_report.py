"""What is told of an evaluation, in words and on the page, and that no name can spoil the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from train.checkpoint import CacheSource
from train.evaluation.account import DEMONSTRATION, UNTRAINED, give_account
from train.evaluation.evaluate import Evaluation, MethodFigures, RunSource
from train.evaluation.judged import Unscorable
from train.evaluation.report import CAPTIONS, TITLES, adapt_colours, render_report
from train.evaluation.transfer import Promise, Transfer
from train.measures.metrics import Estimate, Predictions, measure
from train.thresholds import choose_thresholds

EVIL = "<script>alert('x')</script>&\"{{ 1 }}`code`"
PICTURES = {name: f'<svg id="{name}"><path style="fill: #2166ac; stroke: #1f2933"/></svg>' for name in CAPTIONS}
EXACT = Estimate(value=0.9, low=0.8, high=0.95)


def make_evaluation(**changes: Any) -> Evaluation:
    """Eighty videos, 60 of them told apart, 30 fakes found of 40; everything else as it is asked for."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    logits = 2 * labels - 1 + rng.normal(size=80)
    groups = np.array([f"p{i // 4}" for i in range(80)])
    probs = 1 / (1 + np.exp(-logits))
    metrics = measure(Predictions(labels, logits, probs >= 0.5, groups), resamples=30, prevalences=(0.01, 0.1, 0.025))
    thresholds = choose_thresholds(probs, labels, groups, "validation")
    promises: dict[str, Promise | None] = {"security": "broken", "balanced": None, "newsroom": "kept"}
    fields: dict[str, Any] = {
        "run": RunSource(
            name="night", path="runs/night", weights_sha256="a" * 64, fingerprint_sha256="b" * 64, head_seeds=(0,)
        ),
        "purpose": "research",
        "untrained_backbone": False,
        "kind": "test",
        "source": CacheSource(name="f.h5", path="/data/f.h5", sha256="c" * 64),
        "preset": "security",
        "roles": {"test": 80},
        "left_out": {},
        "known_persons": 0,
        "unscorable": Unscorable(),
        "worst_case_recall": None,
        "frame_auc": Estimate(value=0.777, low=0.7, high=0.8),
        "cluster_note": "intervals by 20 groups",
        "by_role": {"test": metrics},
        "by_dataset": {"toy": metrics},
        "by_method": {"swap": MethodFigures(n_fake=40, n_real=40, recall=EXACT, auc=EXACT)},
        "thresholds": {
            name: Transfer(threshold=t, recall=EXACT, fpr=EXACT, uncertain=0.125, promise=promises[name])
            for name, t in thresholds.items()
        },
        "notes": (),
        "warnings": (),
        "versions": {"torch": "9.9"},
    }
    return Evaluation(**{**dict(metrics), **fields, **changes})


def render(**changes: Any) -> str:
    return render_report(give_account(make_evaluation(**changes)), PICTURES)


class Outline(HTMLParser):
    """Every tag with its attributes, and the texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "path", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


# the page


def test_names_of_files_methods_and_people_are_text_and_nothing_else() -> None:
    figures = MethodFigures(n_fake=1, n_real=1, recall=EXACT, auc=EXACT)
    page = render(
        source=CacheSource(name=EVIL, path=EVIL, sha256=None),
        run=RunSource(name=EVIL, path=EVIL, weights_sha256="", fingerprint_sha256="", head_seeds=(0,)),
        by_method={EVIL: figures},
        by_dataset={EVIL: make_evaluation(), "toy": make_evaluation()},
        cluster_note=EVIL,
        notes=(EVIL,),
        warnings=(EVIL,),
    )
    outline = Outline(page)
    assert "script" not in {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert outline.texts.count("<script>alert('x')</script>&\"{{ 1 }}`code`") >= 4  # table cells stay as they are
    assert "<code>code</code>" in page  # a sentence sets its commands


def test_the_page_is_one_sound_file_that_loads_nothing() -> None:
    page = render()
    outline = Outline(page)
    assert outline.open == []
    loading = {"link", "script", "img", "iframe", "object", "embed", "video", "source", "base"}
    assert loading.isdisjoint(tag for tag, _ in outline.tags)
    assert not any({"src", "href", "srcset"} & attributes.keys() for _, attributes in outline.tags)
    assert not re.search(r"https?:|@import|url\(", page)


def test_the_page_knows_paper_phones_and_the_dark() -> None:
    page = render()
    for query in ("@media print", "@media (max-width", "prefers-color-scheme: dark", 'name="viewport"'):
        assert query in page


@pytest.mark.parametrize(
    ("changes", "notice"), [({"untrained_backbone": True}, UNTRAINED), ({"purpose": "demo"}, DEMONSTRATION)]
)
def test_what_the_model_is_stands_above_everything(changes: dict[str, Any], notice: str) -> None:
    texts = Outline(render(**changes)).texts
    body = texts[texts.index("Evaluation of night on f.h5") + 1 :]  # after the title of the tab
    assert notice in body
    assert body.index(notice) < body.index("Evaluation of night on f.h5")
    assert notice not in Outline(render()).texts


def test_every_picture_is_in_the_page_with_its_caption() -> None:
    page = render()
    assert CAPTIONS.keys() == TITLES.keys()
    for name, caption in CAPTIONS.items():
        assert f'<svg id="{name}">' in page
        assert caption in page


def test_every_table_is_in_the_page_cell_by_cell() -> None:
    account = give_account(make_evaluation())
    texts = set(Outline(render()).texts)
    tables = (account.usual, account.missing, account.figures, account.thresholds, *account.parts, account.origin)
    for table in tables:
        assert {cell for row in table.rows for cell in row} <= texts, table.title


def test_a_picture_takes_the_colours_of_the_page_and_keeps_its_texts() -> None:
    svg = '<path style="fill: #2166AC; stroke: #1f2933"/><g fill="#000000"/><text>run #2166ac</text>'
    assert adapt_colours(svg) == (
        '<path style="fill: var(--real); stroke: var(--ink)"/><g fill="var(--ink)"/><text>run #2166ac</text>'
    )


# what is told


def test_the_verdict_is_plain_and_carries_its_intervals() -> None:
    perfect = Estimate(value=0.96, low=0.91, high=0.99)
    verdict = give_account(
        make_evaluation(
            recall=perfect, fpr=EXACT, auc=perfect, ppv={"0.01": Estimate(value=0.0107, low=0.004, high=0.03)}
        )
    ).verdict
    assert verdict == (
        "Of 40 fake videos the detector finds 96 % (91 to 99 %), and of 40 real ones it flags 90 % (80 to 95 %), by "
        'the threshold "security", its UNCERTAIN band left aside (12 % of the videos lie in it). Given one fake and '
        "one real video, it scores the fake one higher in 96 % (91 to 99 %) of cases (video AUC 0.960 [0.910, 0.990]); "
        "that is better than guessing, which gives 50 %. Where one video in 100 is fake, at least 0.4 % (by these "
        "videos 1 %, at most 3 %) of its alarms would be right."
    )


@pytest.mark.parametrize(
    ("share", "shown"), [(0.996, "99.6 %"), (0.004, "0.4 %"), (0.9999, "99.9 %"), (1.0, "100 %"), (0.0, "0 %")]
)
def test_what_is_not_all_is_never_called_all(share: float, shown: str) -> None:
    verdict = give_account(make_evaluation(recall=Estimate(value=share))).verdict
    assert f"finds {shown}, " in verdict


def test_alarms_that_are_right_are_no_promise_without_an_interval() -> None:
    verdict = give_account(make_evaluation(ppv={"0.01": Estimate(value=1.0)})).verdict
    assert "an uncertain share (by these videos 100 %) of its alarms would be right" in verdict


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.51, 0.7, "that is better than guessing"),
        (0.45, 0.7, "that cannot be told from guessing"),
        (0.2, 0.4, "that is worse than guessing"),
        (None, None, "too few videos to tell whether that is better than guessing"),
    ],
)
def test_the_verdict_says_whether_it_is_better_than_guessing(low: float, high: float, words: str) -> None:
    assert words in give_account(make_evaluation(auc=Estimate(value=0.6, low=low, high=high))).verdict


def test_unscorable_videos_stand_beside_every_headline() -> None:
    lost = Unscorable(fake=3, real=1, reasons={"NO_FACE": 4})
    account = give_account(make_evaluation(unscorable=lost, worst_case_recall=0.8765))
    assert (
        "4 videos without a score, in no rate (3 fake, 1 real; NO_FACE 4): were every fake among them missed, recall "
        "would be 0.876"
    ) in account.data  # half to even
    assert ("videos without a score", "4") in account.missing.rows
    unknown = give_account(make_evaluation(unscorable=Unscorable(unknown=2), worst_case_recall=0.5))
    assert any("every one of them a fake that was missed" in line for line in unknown.data)
    assert any("2 of unknown label or split" in line for line in unknown.data)


def test_unscorable_videos_are_counted_beside_their_method_and_dataset() -> None:
    lost = Unscorable(fake=3, by_method={"swap": 1, "mask": 2}, by_dataset={"toy": 3})
    found = make_evaluation(unscorable=lost, by_dataset={"toy": make_evaluation(), "field": make_evaluation()})
    methods, datasets = give_account(found).parts
    assert [(row[0], row[-1]) for row in methods.rows] == [("swap", "1"), ("mask", "2")]
    assert [(row[0], row[-1]) for row in datasets.rows] == [("toy", "3"), ("field", "0")]
    assert all(len(row) == len(part.columns) for part in (methods, datasets) for row in part.rows)


def test_the_usual_table_is_printed_as_such_and_beside_it_what_it_leaves_out() -> None:
    found = make_evaluation()
    account = give_account(found)
    labels = [row[0] for row in account.usual.rows]
    assert labels == ["accuracy", "recall", "precision", "F1", "TP", "FN", "FP", "TN"]
    assert ("TP", str(found.confusion.tp)) in account.usual.rows
    missing = " ".join(row[0] for row in account.missing.rows)
    for word in ("FPR", "95 % interval", "PPV", "AUC", "without a score"):
        assert word in missing


def test_frame_auc_is_told_apart_and_only_where_there_is_one() -> None:
    rows = give_account(make_evaluation()).figures.rows
    assert ("frame AUC (another number than video AUC; 200 resamples)", "0.777 [0.700, 0.800]") in rows
    of_seeds = give_account(make_evaluation(seeds=3)).figures.rows
    assert any(label.endswith("200 resamples, first seed only)") for label, _ in of_seeds)
    assert "PPV at 2.5 % fakes" in {label for label, _ in rows}
    assert not any(
        label.startswith("frame AUC") for label, _ in give_account(make_evaluation(frame_auc=None)).figures.rows
    )


def test_a_threshold_shows_its_promise_beside_what_it_gave() -> None:
    table = give_account(make_evaluation()).thresholds
    assert [row[0] for row in table.rows] == ["security", "balanced", "newsroom"]
    assert table.rows[0][-1] == "recall 0.95: MISSED here, not guaranteed"
    assert table.rows[1][-1] == "balanced: promises no rate"
    assert table.rows[2][-1] == "FPR 0.01: kept, not guaranteed"
    assert table.rows[0][3] == "12 %"
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_guarantee_that_is_missed_says_where_it_held() -> None:
    transfer = make_evaluation().thresholds["security"]
    sure = transfer.model_copy(update={"threshold": transfer.threshold.model_copy(update={"guaranteed": True})})
    table = give_account(make_evaluation(thresholds={"security": sure})).thresholds
    assert table.rows[0][-1] == "recall 0.95: MISSED here; it was guaranteed on data like validation"


def test_no_promise_is_told_of_videos_of_training() -> None:
    found = make_evaluation()
    account = give_account(make_evaluation(by_role={"new": found, "val": found}, by_dataset={"a": found, "b": found}))
    assert account.thresholds.rows[2][-1] == "FPR 0.01: not judged on videos of training"
    assert all("flatter" in table.note for table in (account.thresholds, *account.parts))


def test_thresholds_of_the_saved_head_are_told_from_those_of_the_folds() -> None:
    note = give_account(make_evaluation(kind="out-of-fold")).thresholds.note
    assert "those of the saved head; what is given here comes from the folds' own" in note
    assert "saved head" not in give_account(make_evaluation()).thresholds.note


def test_a_table_that_is_too_wide_is_told_a_row_at_a_time() -> None:
    table = give_account(make_evaluation()).thresholds
    parts = table.list_rows_apart()
    assert [part.title.rpartition(": ")[2] for part in parts] == ["security", "balanced", "newsroom"]
    assert parts[1].rows == tuple(zip(table.columns[1:], table.rows[1][1:], strict=True))
    assert [part.note for part in parts] == ["", "", table.note]


def test_figures_by_role_are_shown_where_training_videos_were_judged() -> None:
    found = make_evaluation()
    account = give_account(make_evaluation(by_role={"new": found, "train": found}))
    assert account.parts[0].title == "By role"
    assert "flatter" in account.parts[0].note
    assert all(part.title != "By role" for part in give_account(found).parts)


def test_what_was_left_out_is_said_with_the_reason() -> None:
    account = give_account(make_evaluation(kind="whole", left_out={"train": 1, "val": 7}, known_persons=5))
    assert "1 video left out, which the run used for training" in account.data
    assert "7 videos left out, which the run used for validation" in account.data
    assert "5 of 80 judged videos show a person of whom training saw another one" in account.data
    assert any("carried to other data" in line for line in account.limits)
    folds = give_account(make_evaluation(kind="out-of-fold", left_out={"another fold": 2}, nameless=3))
    assert "2 videos left out, which another fold holds too" in folds.data
    assert "whether training saw a person is not known for 3 videos without a group" in folds.data


def test_means_over_seeds_say_so() -> None:
    account = give_account(make_evaluation(seeds=5))
    assert "means over 5 seeds" in account.figures.note
    assert account.usual.note == "counts are those of the first seed"
    assert "seeds" not in give_account(make_evaluation()).figures.note
