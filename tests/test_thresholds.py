"""Thresholds against a slow reference, and their promises against populations in which the truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import beta

from extract.errors import UsageError
from train.calibrate import Floats, apply_sigmoid
from train.operating_points import UNNAMED, bound_share, require_hits
from train.thresholds import PRESETS, Target, Threshold, choose_threshold, choose_thresholds, decide

Labels = NDArray[np.int64]
Groups = NDArray[np.str_]
NORMAL = NormalDist()
# A score, a label and a person for each video; few distinct scores, so that many tie.
SCORED = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.8, 1.0]), st.integers(0, 1), st.sampled_from("abcdefgh")),
    min_size=2,
    max_size=30,
)
TARGETS = [Target.parse(text) for text in ("recall=0.95", "recall=0.5", "fpr=0.2", "balanced", "cost=10", "cost=3@0.1")]


def arrange(scored: list[tuple[float, int, str]]) -> tuple[Floats, Labels, Groups]:
    """The arrays of an example; one without both classes is passed over."""
    labels = np.array([label for _, label, _ in scored])
    assume(0 < labels.sum() < len(labels))
    return np.array([score for score, _, _ in scored]), labels, np.array([person for _, _, person in scored])


def list_points(probs: Floats) -> list[float]:
    """Every threshold that flags other videos than the next: each distinct score, and 1."""
    return sorted({*probs.ravel().tolist(), 1.0})


def flag_share(probs: Floats, labels: Labels, label: int, threshold: float) -> float:
    return float((probs[labels == label] >= threshold).mean())


def flag_people(probs: Floats, labels: Labels, groups: Groups, label: int, threshold: float) -> list[float]:
    """For each person of a class, the share of his or her videos that is flagged."""
    people = np.unique(groups[labels == label])
    return [float((probs[(labels == label) & (groups == person)] >= threshold).mean()) for person in people]


def bound_recall(probs: Floats, labels: Labels, groups: Groups, threshold: float, doubt: float = 0.05) -> float:
    """The lower bound by its definition: persons are the trials, and the worse of the two recalls is the share hit."""
    people = flag_people(probs, labels, groups, 1, threshold)
    hits = len(people) * min(sum(people) / len(people), flag_share(probs, labels, 1, threshold))
    return float(beta.ppf(doubt, hits, len(people) - hits + 1)) if hits > 1e-9 else 0.0


def bound_fpr(probs: Floats, labels: Labels, groups: Groups, threshold: float, doubt: float = 0.05) -> float:
    """The upper bound likewise: what is hit are reals that are not flagged."""
    people = flag_people(probs, labels, groups, 0, threshold)
    hits = len(people) * (1 - max(sum(people) / len(people), flag_share(probs, labels, 0, threshold)))
    return 1 - float(beta.ppf(doubt, hits, len(people) - hits + 1)) if hits > 1e-9 else 1.0


def find_threshold(
    probs: Floats, labels: Labels, groups: Groups, target: Target, points: list[float] | None = None
) -> float:
    """The point that the target asks for, by trying all; where costs tie, the middle of the lowest run."""
    points = points or list_points(probs)
    if target.kind == "recall":
        goal = target.value or 0.0
        sure = [t for t in points if bound_recall(probs, labels, groups, t) >= goal - 1e-9]
        return max(sure or [t for t in points if flag_share(probs, labels, 1, t) >= goal - 1e-9])
    miss = 1.0 if target.value is None else target.value * target.prevalence / (1 - target.prevalence)
    costs = [miss * (1 - flag_share(probs, labels, 1, t)) + flag_share(probs, labels, 0, t) for t in points]
    best = [cost <= min(costs) + 1e-9 for cost in costs]
    run = next(list(found) for tied, found in groupby(range(len(points)), key=best.__getitem__) if tied)
    return points[run[(len(run) - 1) // 2]]


def find_low_fpr(probs: Floats, labels: Labels, groups: Groups, target: Target) -> float:
    """The lowest point whose FPR, or bound of it where one reaches the target, is low enough; 1 where none is."""
    goal, points = target.value or 0.0, list_points(probs)
    sure = [t for t in points if bound_fpr(probs, labels, groups, t) <= goal + 1e-9]
    return min(sure or [t for t in points if flag_share(probs, labels, 0, t) <= goal + 1e-9] or [1.0])


def make_people(
    people: int, fakes: int = 1, reals: int = 1, scores: tuple[float, float] = (0.2, 0.9)
) -> tuple[Floats, Labels, Groups]:
    """Persons with so many fakes and reals each, told apart without a mistake."""
    labels = np.tile(np.repeat([1, 0], [fakes, reals]), people)
    groups = np.char.mod("p%d", np.repeat(np.arange(people), fakes + reals))
    return np.where(labels == 1, scores[1], scores[0]), labels, groups


@dataclass(frozen=True)
class Crowd:
    """Persons of whom each has 1 to `most` videos of each class; `alike` is a person's part of the scores' variance."""

    people: int
    alike: float
    most: int = 12
    distance: float = 2.0  # of fakes from reals, in standard deviations

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Labels, Groups]:
        person = [np.repeat(np.arange(self.people), rng.integers(1, self.most + 1, self.people)) for _ in range(2)]
        labels = np.repeat([0, 1], [len(side) for side in person])
        own, owner = rng.normal(size=len(labels)), np.concatenate(person)
        shift = rng.normal(size=self.people)[owner]
        logits = self.distance * labels + self.alike**0.5 * shift + (1 - self.alike) ** 0.5 * own
        return apply_sigmoid(logits), labels, np.char.mod("p%d", owner)

    def find_truth(self, threshold: Threshold) -> tuple[float, float]:
        """The recall and FPR among all persons."""
        if threshold.value in (0.0, 1.0):
            return (1 - threshold.value,) * 2
        logit = float(np.log(threshold.value / (1 - threshold.value)))
        return 1 - NORMAL.cdf(logit - self.distance), 1 - NORMAL.cdf(logit)


@dataclass(frozen=True)
class Kept:
    """The shares of samples in which each promise was kept; `target` is None where none was made."""

    recall: float
    fpr: float
    target: float | None

    def hold(self, least: float) -> bool:
        return min(self.recall, self.fpr, 1.0 if self.target is None else self.target) >= least


def count_kept(crowd: Crowd, target: Target, samples: int, by_video: bool = False) -> Kept:
    """Draws a crowd again and again, chooses a threshold on each, and looks up what is true of it."""
    rng = np.random.default_rng(7)
    rows: list[tuple[bool, bool]] = []
    met: list[bool] = []
    for _ in range(samples):
        probs, labels, groups = crowd.draw(rng)
        names = np.arange(len(labels)).astype(np.str_) if by_video else groups
        threshold = choose_threshold(probs, labels, names, "validation", target)
        recall, fpr = crowd.find_truth(threshold)
        rows.append((recall >= threshold.recall_bound, fpr <= threshold.fpr_bound))
        if threshold.guaranteed:
            met.append(recall >= (target.value or 0) if target.kind == "recall" else fpr <= (target.value or 0))
    kept = np.mean(rows, axis=0)
    return Kept(float(kept[0]), float(kept[1]), float(np.mean(met)) if met else None)


@pytest.fixture
def without_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """The band costs most of the time and changes neither threshold nor bounds."""
    monkeypatch.setattr("train.operating_points.RESAMPLES", 1)


@settings(deadline=None, max_examples=60)
@given(SCORED, st.sampled_from(TARGETS))
def test_a_threshold_is_the_one_that_trying_all_of_them_finds(
    scored: list[tuple[float, int, str]], target: Target
) -> None:
    probs, labels, groups = arrange(scored)
    found = choose_threshold(probs, labels, groups, "validation", target)
    find = find_low_fpr if target.kind == "fpr" else find_threshold
    expected = find(probs, labels, groups, target)
    assert ((probs >= found.value) == (probs >= expected)).all()
    assert found.recall == pytest.approx(flag_share(probs, labels, 1, expected))
    assert found.fpr == pytest.approx(flag_share(probs, labels, 0, expected))
    doubt = 0.05 if target.kind in ("recall", "fpr") else 0.01
    assert found.recall_bound == pytest.approx(bound_recall(probs, labels, groups, expected, doubt))
    assert found.fpr_bound == pytest.approx(bound_fpr(probs, labels, groups, expected, doubt))


@settings(deadline=None, max_examples=40)
@given(SCORED, st.sampled_from(TARGETS))
def test_a_band_holds_the_threshold_and_counts_what_lies_in_it(
    scored: list[tuple[float, int, str]], target: Target
) -> None:
    probs, labels, groups = arrange(scored)
    found = choose_threshold(probs, labels, groups, "validation", target)
    assert 0 <= found.low <= found.value <= found.high <= 1
    unsure = np.array([decide(prob, found) == "UNCERTAIN" for prob in probs.tolist()])
    assert found.uncertain_fake == pytest.approx(float(unsure[labels == 1].mean()))
    assert found.uncertain_real == pytest.approx(float(unsure[labels == 0].mean()))
    assert found.recall_bound <= found.recall
    assert found.fpr_bound >= found.fpr
    assert Threshold.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(("people", "guaranteed"), [(58, False), (59, True)])
def test_a_recall_of_95_percent_takes_59_persons_without_a_miss(people: int, guaranteed: bool) -> None:
    found = choose_threshold(*make_people(people, fakes=3), "validation", PRESETS["security"])
    assert found.recall_bound == pytest.approx(0.05 ** (1 / people))  # all hits: the closed form
    assert found.guaranteed is guaranteed
    assert (found.n_fake, found.n_real, found.fake_groups, found.real_groups) == (3 * people, people, people, people)


@pytest.mark.parametrize(("people", "guaranteed"), [(298, False), (299, True)])
def test_an_fpr_of_1_percent_takes_299_persons_without_a_false_alarm(people: int, guaranteed: bool) -> None:
    found = choose_threshold(*make_people(people, reals=2), "validation", PRESETS["newsroom"])
    assert found.fpr_bound == pytest.approx(1 - 0.05 ** (1 / people))
    assert found.guaranteed is guaranteed


def test_a_thousand_videos_of_ten_persons_guarantee_nothing() -> None:
    found = choose_threshold(*make_people(10, fakes=50, reals=50), "validation", PRESETS["security"])
    assert found.recall == 1.0
    assert found.recall_bound == pytest.approx(0.05**0.1)
    assert not found.guaranteed


def test_where_persons_are_enough_the_bound_and_not_the_data_reaches_the_target(without_band: None) -> None:
    probs, labels, groups = Crowd(100, alike=0.5).draw(np.random.default_rng(0))
    found = choose_threshold(probs, labels, groups, "validation", Target.parse("recall=0.9"))
    higher = float(probs[probs > found.value].min())
    assert found.guaranteed
    assert 0.9 <= found.recall_bound < found.recall
    next_higher = float(np.nextafter(higher, 1))
    assert bound_recall(probs, labels, groups, next_higher) < 0.9 <= bound_recall(probs, labels, groups, found.value)


def test_one_person_with_many_misses_cannot_be_outvoted_by_many_with_one_video() -> None:
    groups = np.char.mod("p%d", [*range(100), *[100] * 50, *range(100)])
    labels = np.repeat([1, 0], [150, 100])
    probs = np.repeat([0.9, 0.1, 0.5], [100, 50, 100])
    found = choose_threshold(probs, labels, groups, "validation", Target.parse("fpr=0.05"))
    assert found.recall == pytest.approx(100 / 150)
    assert found.recall_bound < found.recall  # 100 of 101 persons alone would promise 0.95


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_rounding_of_another_runtime_changes_no_verdict_on_the_data(target: Target) -> None:
    rng = np.random.default_rng(1)
    labels = np.tile([0, 1], 100)
    probs = (rng.permutation(200) + 0.5) / 200 * 0.5 + labels * 0.3  # neighbours 2.5e-3 apart, or as one
    found = choose_threshold(probs, labels, np.char.mod("p%d", np.arange(200) // 8), "validation", target)
    noise = rng.uniform(-1e-4, 1e-4, 200)
    assert ((probs + noise >= found.value) == (probs >= found.value)).all()


def test_neighbouring_floats_are_told_apart_though_nothing_lies_between_them() -> None:
    data = make_people(20, scores=(0.5, float(np.nextafter(0.5, 1))))
    found = choose_threshold(*data, "validation", PRESETS["security"])
    assert (found.recall, found.fpr) == (1.0, 0.0)


def test_draws_that_lack_a_class_do_not_widen_the_band() -> None:
    found = choose_threshold(*make_people(1), "validation", PRESETS["balanced"])
    assert found.resampled == "videos"
    assert found.low == found.value == found.high == pytest.approx(0.55)


def test_where_reals_score_1_an_fpr_is_missed_by_no_more_than_they_are() -> None:
    probs, labels, groups = make_people(20)
    probs[np.flatnonzero(labels == 0)[:3]] = 1.0
    found = choose_threshold(probs, labels, groups, "validation", PRESETS["newsroom"])
    assert 0.9 < found.value <= 1.0
    assert (found.fpr, found.guaranteed) == (3 / 20, False)


def test_a_few_reals_that_score_1_are_allowed_where_the_share_is_small_enough() -> None:
    probs, labels, groups = make_people(400)
    probs[np.flatnonzero(labels == 0)[:3]] = 1.0
    found = choose_threshold(probs, labels, groups, "validation", PRESETS["newsroom"])
    assert found.fpr == pytest.approx(3 / 400)
    assert found.recall == 1.0
    assert not found.guaranteed  # the bound would take a threshold beyond 1


def test_scores_that_say_nothing_are_all_flagged_for_a_recall_and_none_for_an_fpr() -> None:
    probs, labels, groups = make_people(20, scores=(0.5, 0.5))
    chosen = choose_thresholds(probs, labels, groups, "validation")
    assert (chosen["security"].recall, chosen["security"].fpr) == (1.0, 1.0)
    assert (chosen["newsroom"].recall, chosen["newsroom"].fpr) == (0.0, 0.0)
    assert chosen["newsroom"].value > 0.5


def test_the_dearer_a_missed_fake_the_lower_the_threshold() -> None:
    probs, labels, groups = Crowd(40, alike=0.3).draw(np.random.default_rng(2))
    values = [
        choose_threshold(probs, labels, groups, "validation", Target.parse(text)).value
        for text in ("cost=100", "cost=10", "balanced", "cost=0.1", "cost=0.01")
    ]
    assert values == sorted(values)
    assert values[0] < values[2] < values[-1]


def test_a_cost_at_a_prevalence_is_the_cost_at_even_odds_that_it_comes_to() -> None:
    probs, labels, groups = Crowd(40, alike=0.3).draw(np.random.default_rng(3))
    rare, even = (
        choose_threshold(probs, labels, groups, "validation", Target.parse(text)) for text in ("cost=99@0.01", "cost=1")
    )
    assert (rare.value, rare.recall, rare.fpr) == (even.value, even.recall, even.fpr)


def test_several_heads_count_alike_and_videos_and_persons_are_counted_once() -> None:
    probs, labels, groups = Crowd(30, alike=0.3).draw(np.random.default_rng(4))
    one = choose_thresholds(probs, labels, groups, "validation")
    same = choose_thresholds(np.stack([probs, probs]), labels, groups, "validation")
    for name, threshold in one.items():
        assert (same[name].value, same[name].low, same[name].high) == (threshold.value, threshold.low, threshold.high)
        assert same[name].recall_bound == pytest.approx(threshold.recall_bound)
        assert (same[name].n_fake, same[name].fake_groups) == (threshold.n_fake, threshold.fake_groups)
    both = choose_threshold(np.stack([probs, probs**2]), labels, groups, "validation", PRESETS["security"])
    recalls = [flag_share(head, labels, 1, both.value) for head in (probs, probs**2)]
    assert both.recall == pytest.approx(sum(recalls) / 2)


def test_presets_and_further_targets_are_chosen_together_and_repeat() -> None:
    data = make_people(20)
    chosen = choose_thresholds(*data, "validation", [Target.parse("recall=0.99"), Target.parse("cost=10@0.01")], seed=3)
    assert list(chosen) == ["security", "balanced", "newsroom", "recall=0.99", "cost=10@0.01"]
    assert chosen["recall=0.99"] == choose_threshold(*data, "validation", Target.parse("recall=0.99"), seed=3)


@pytest.mark.parametrize("people", [3, 12])
def test_the_band_is_that_of_thresholds_chosen_on_resampled_data(people: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.operating_points.RESAMPLES", 40)
    probs, labels, groups = Crowd(people, alike=0.3, most=4).draw(np.random.default_rng(5))
    found = choose_threshold(probs, labels, groups, "validation", PRESETS["balanced"], seed=8)
    units = np.unique(groups, return_inverse=True)[1] if people > 4 else np.arange(len(labels))
    counts = np.random.default_rng(8).multinomial(units.max() + 1, np.full(units.max() + 1, 1 / (units.max() + 1)), 40)
    values = []
    for row in counts[:, units]:
        again = np.repeat(np.arange(len(labels)), row)
        value = find_threshold(probs[again], labels[again], groups[again], PRESETS["balanced"], list_points(probs))
        values.append(int((probs < value).sum()))  # as a rank: between two scores all thresholds are one
    ranks = [int((probs < end).sum()) for end in (found.low, found.high)]
    assert found.resampled == ("persons" if people > 4 else "videos")
    assert ranks == [sorted(values)[2], sorted(values)[-3]]  # 5 % of 40 lie beyond either end


def test_a_band_is_wider_when_the_videos_of_a_person_err_together() -> None:
    probs, labels, groups = Crowd(40, alike=0.9).draw(np.random.default_rng(6))
    widths = []
    for names in (groups, np.arange(len(labels)).astype(np.str_)):
        found = choose_threshold(probs, labels, names, "validation", PRESETS["security"])
        demand = choose_threshold(probs, labels, names, "validation", PRESETS["balanced"])
        assert found.resampled == demand.resampled == "persons"
        widths.append(demand.high - demand.low)
    assert widths[0] > 1.3 * widths[1]


def test_one_person_alone_still_has_a_band_and_says_where_it_comes_from() -> None:
    probs, labels, _ = Crowd(40, alike=0.0).draw(np.random.default_rng(7))
    found = choose_threshold(probs, labels, np.full(len(labels), "a"), "validation", PRESETS["balanced"])
    assert found.low < found.high
    assert found.high - found.low < 0.5
    assert "too few persons" in found.describe()


@settings(deadline=None, max_examples=60)
@given(st.floats(0.02, 0.98), st.integers(1, 400))
def test_the_hits_required_are_the_fewest_whose_bound_reaches_the_goal(goal: float, persons: int) -> None:
    hits = require_hits(goal, persons)
    if hits is None:
        assert bound_share(persons, persons) < goal
        return
    assert bound_share(hits, persons) == pytest.approx(goal, abs=1e-6)
    assert hits <= persons


# 200 samples: of a promise that is kept in 95 %, fewer than 90.5 % are seen once in 500 times.
CHANCE = 0.905


@pytest.mark.parametrize("target", ["recall=0.9", "fpr=0.1"])
@pytest.mark.parametrize("crowd", [Crowd(40, alike=0.0, most=1), Crowd(40, alike=0.9), Crowd(12, alike=0.9)])
def test_promises_are_kept_in_95_of_100_samples(crowd: Crowd, target: str, without_band: None) -> None:
    assert count_kept(crowd, Target.parse(target), 200).hold(CHANCE)


@pytest.mark.parametrize("target", ["balanced", "cost=10"])
def test_bounds_hold_after_both_classes_have_chosen_the_threshold(target: str, without_band: None) -> None:
    assert count_kept(Crowd(60, alike=0.0, most=1, distance=0.5), Target.parse(target), 200).hold(CHANCE)


@pytest.mark.parametrize("target", ["recall=0.9", "fpr=0.1"])
def test_counting_videos_instead_of_persons_breaks_the_promises(target: str, without_band: None) -> None:
    kept = count_kept(Crowd(40, alike=0.9), Target.parse(target), 200, by_video=True)
    assert kept.recall < 0.85
    assert kept.fpr < 0.85
    assert kept.target is not None
    assert kept.target < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("target", ["recall=0.95", "fpr=0.05", "fpr=0.01", "balanced", "cost=10", "cost=10@0.01"])
@pytest.mark.parametrize("alike", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("most", [1, 12])
@pytest.mark.parametrize("people", [20, 60, 150, 320])
def test_promises_are_kept_in_every_crowd(
    people: int, most: int, alike: float, target: str, without_band: None
) -> None:
    assert count_kept(Crowd(people, alike, most), Target.parse(target), 1000).hold(0.93)


@pytest.mark.parametrize("target", [*TARGETS, *PRESETS.values(), Target.parse("recall=1"), Target.parse("fpr=0")])
def test_a_target_reads_back_from_its_name(target: Target) -> None:
    assert Target.parse(target.name) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recall", "is not a number"),
        ("recall=", "is not a number"),
        ("recall=95%", "is not a number"),
        ("recall=95", "up to 1"),
        ("recall=0", "above 0"),
        ("recall=nan", "above 0"),
        ("recall=0.9@0.1", "is not understood"),
        ("fpr=1", "below 1"),
        ("fpr=-0.1", "below 1"),
        ("balanced=1", "is not understood"),
        ("cost=0", "above 0"),
        ("cost=inf", "above 0"),
        ("cost=10@", "is not a number"),
        ("cost=10@1", "between 0 and 1"),
        ("precision=0.9", r"is not understood; write recall=0\.99"),
        ("", "is not understood"),
    ],
)
def test_a_target_that_cannot_be_is_refused_with_an_example(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"target .*{message}"):
        Target.parse(text)


def test_a_balanced_target_takes_no_value() -> None:
    with pytest.raises(UsageError, match="write balanced"):
        Target(kind="balanced", value=0.5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_chooses_no_threshold(label: int) -> None:
    with pytest.raises(UsageError, match="expected some of both"):
        choose_threshold(np.zeros(3), np.full(3, label), np.array(list("abc")), "validation", PRESETS["security"])


@pytest.mark.parametrize("probs", [np.zeros(2), np.array([0.0, 0.5, 1.5]), np.array([0.0, np.nan, 1.0])])
def test_what_is_no_probability_of_each_video_is_refused(probs: Floats) -> None:
    with pytest.raises(ValueError, match="expected probabilities"):
        choose_threshold(probs, np.array([0, 1, 1]), np.array(list("abc")), "validation", PRESETS["security"])


def test_a_band_that_does_not_hold_its_threshold_is_refused() -> None:
    found = choose_threshold(*make_people(8), "validation", PRESETS["security"])
    with pytest.raises(ValidationError, match="low <= value <= high"):
        Threshold.model_validate(found.model_dump() | {"low": 0.99})


def test_decisions_change_at_the_ends_of_the_band() -> None:
    found = choose_threshold(*make_people(8), "validation", PRESETS["security"])
    threshold = found.model_copy(update={"low": 0.4, "value": 0.5, "high": 0.6})
    decisions = [decide(prob, threshold) for prob in (0.0, 0.39, 0.4, 0.5, 0.59, 0.6, 1.0)]
    assert decisions == ["REAL", "REAL", "UNCERTAIN", "UNCERTAIN", "UNCERTAIN", "FAKE", "FAKE"]
    bare = threshold.model_copy(update={"low": 0.5, "high": 0.5})
    assert [decide(prob, bare) for prob in (0.49, 0.5)] == ["REAL", "FAKE"]


def test_a_threshold_describes_itself_in_one_sentence() -> None:
    found = choose_threshold(*make_people(40), "validation", PRESETS["security"])
    assert found.describe() == (
        "P >= 0.55 flags 1.00 of fakes (at least 0.93 on new ones, 95 % confidence, 40 persons: recall 0.95 not "
        "guaranteed) and 0.00 of reals (at most 0.07, 40 persons); nothing is UNCERTAIN"
    )
    banded = found.model_copy(update={"low": 0.21, "high": 0.6, "uncertain_fake": 0.125, "uncertain_real": 0.5})
    assert banded.describe().endswith("UNCERTAIN from 0.21 to 0.6 (0.12 of fakes, 0.50 of reals)")
    promised = choose_threshold(*make_people(300), "validation", PRESETS["newsroom"])
    assert "and 0.00 of reals (at most 0.01, 300 persons: FPR 0.01 guaranteed)" in promised.describe()


def test_nothing_is_promised_of_another_head_or_of_persons_that_nobody_counted() -> None:
    probs, labels, groups = make_people(80, reals=2)
    target = PRESETS["security"]
    assert choose_threshold(probs, labels, groups, "validation", target).guaranteed
    folds = choose_threshold(probs, labels, groups, "out-of-fold", target)
    assert not folds.guaranteed, "the head of a cross-validation is none of those that were judged"
    nameless = np.array([f"{UNNAMED}{i}" for i in range(len(labels))])
    unknown = choose_threshold(probs, labels, nameless, "validation", target)
    assert not unknown.guaranteed
    assert unknown.ungrouped == len(labels)
    assert "groups or videos without one: recall 0.95 not guaranteed" in unknown.describe()
