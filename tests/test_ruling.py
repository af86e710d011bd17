"""Which threshold decides, what it costs, and what a score means where fakes are rare."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle import SCORER
from export.contract import Contract, read_contract
from extract.errors import FormatError, UsageError
from extract.session import open_session
from serve.ruling import OWN, Ruling
from serve.verdict import Outcome
from tests.conftest import Pipeline


@pytest.fixture(scope="module")
def contract(pipeline: Pipeline) -> Contract:
    return read_contract(open_session(pipeline.model / SCORER, "cpu"))


def as_logit(prob: float) -> float:
    return math.log(prob / (1 - prob))


def test_the_default_preset_decides_unless_another_is_named(contract: Contract) -> None:
    assert Ruling.choose(contract).preset == contract.default_preset
    newsroom = Ruling.choose(contract, "newsroom")
    assert (newsroom.value, newsroom.low, newsroom.high) == (
        contract.thresholds["newsroom"].value,
        contract.thresholds["newsroom"].low,
        contract.thresholds["newsroom"].high,
    )


def test_rates_are_those_the_threshold_was_chosen_with(contract: Contract) -> None:
    rates, known = Ruling.choose(contract, "balanced").rates, contract.thresholds["balanced"]
    assert rates is not None
    assert (rates.target, rates.recall, rates.fpr, rates.guaranteed) == ("balanced", known.recall, known.fpr, False)
    assert (rates.n_fake, rates.n_real, rates.source) == (known.n_fake, known.n_real, known.source)


def test_a_threshold_of_ones_own_has_no_band_and_no_known_rates(contract: Contract) -> None:
    ruling = Ruling.choose(contract, threshold=0.7)
    assert ruling.preset == OWN
    assert ruling.rates is None
    assert ruling.decide(as_logit(0.7001)) is Outcome.FAKE
    assert ruling.decide(as_logit(0.6999)) is Outcome.REAL


@given(prob=st.floats(0.001, 0.999))
def test_the_band_is_uncertain_and_the_threshold_inside_it(contract: Contract, prob: float) -> None:
    ruling = Ruling("security", 0.5, 0.25, 0.75, contract.calibration)
    expected = Outcome.REAL if prob < 0.25 else Outcome.UNCERTAIN if prob < 0.75 else Outcome.FAKE
    if min(abs(prob - 0.25), abs(prob - 0.75)) > 1e-9:
        assert ruling.decide(as_logit(prob)) is expected


def test_where_fakes_are_rare_a_score_and_an_alarm_mean_less(contract: Contract) -> None:
    known = contract.thresholds["security"]
    odds = Ruling.choose(contract, "security", prevalence=0.01).weigh(0.0)
    assert odds is not None
    assert odds.p_fake == pytest.approx(0.01)  # a score of 1/2 at even odds says nothing
    flagged = 0.01 * known.recall + 0.99 * known.fpr
    assert odds.ppv == pytest.approx(0.01 * known.recall / flagged)
    assert 0 < (odds.ppv_low or 0) < (odds.ppv or 0)


def test_without_rates_or_score_nothing_is_made_up(contract: Contract) -> None:
    odds = Ruling.choose(contract, threshold=0.5, prevalence=0.1).weigh(None)
    assert odds is not None
    assert (odds.p_fake, odds.ppv, odds.npv) == (None, None, None)
    assert Ruling.choose(contract).weigh(1.0) is None


def test_what_makes_no_sense_is_refused(contract: Contract) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        Ruling.choose(contract, "security", 0.5)
    for threshold in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="above 0, at most 1"):
            Ruling.choose(contract, threshold=threshold)
    for prevalence in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="between 0 and 1"):
            Ruling.choose(contract, prevalence=prevalence)
    with pytest.raises(FormatError, match="no preset 'strict'; it has balanced, newsroom, security"):
        Ruling.choose(contract, "strict")
