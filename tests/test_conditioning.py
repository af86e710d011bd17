"""Conditioning: its constants against numpy and scikit-learn, and what it refuses to be fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from extract.errors import UnmaskError
from train.config import HeadConfig
from train.heads.conditioning import Conditioner, Standardise, Whiten, make_conditioner, measure_moments

EXACT = 1e-5  # products are formed in float32


def make_rows(count: int = 300, dim: int = 12, seed: int = 0) -> Tensor:
    """Rows as a cache holds them: float16, correlated, of unequal scale, and far from zero."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dim)) * np.geomspace(1, 0.05, dim) @ rng.normal(size=(dim, dim))
    return torch.from_numpy((mixed + 20).astype(np.float16))


def cut_blocks(rows: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """The rows in consecutive blocks; whatever `sizes` leave over is the last."""
    yield from torch.split(rows, [*sizes, len(rows) - sum(sizes)])


def fit(conditioner: Conditioner, rows: Tensor) -> NDArray[np.float64]:
    """Fits it in uneven blocks and gives the conditioned rows."""
    conditioner.fit(cut_blocks(rows, [1, 0, 70]))
    return np.asarray(conditioner(rows).double().numpy())


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), max_size=8).filter(lambda s: sum(s) <= 60),
    offset=st.sampled_from([0.0, 30.0, -3000.0]),
)
def test_moments_do_not_depend_on_how_rows_are_cut_into_blocks(sizes: list[int], offset: float) -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)) + offset
    exact = rows.double().numpy()
    for joint, scatter in ((True, np.cov(exact.T, ddof=0) * 60), (False, exact.var(axis=0) * 60)):
        moments = measure_moments(cut_blocks(rows, sizes), 4, joint=joint)
        assert moments.count == 60
        np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(moments.scatter, scatter, atol=60 * EXACT)


def test_many_rows_lose_no_digits() -> None:
    rows = make_rows(30_000, 6)
    exact = rows.double().numpy()
    moments = measure_moments([rows], 6, joint=True)
    np.testing.assert_allclose(moments.scatter / len(rows), np.cov(exact.T, ddof=0), rtol=1e-5, atol=1e-5)


def test_standardised_rows_are_those_of_scikit_learn() -> None:
    rows = make_rows()
    expected = StandardScaler().fit_transform(rows.double().numpy())
    np.testing.assert_allclose(fit(Standardise(12), rows), expected, atol=1e-4)


def test_whitened_rows_are_those_of_scikit_learn_up_to_the_sign() -> None:
    rows = make_rows()
    whitener = Whiten(12, 5)
    found = fit(whitener, rows)
    reference = PCA(5, whiten=True, svd_solver="full").fit(rows.double().numpy())
    signs = np.sign((reference.components_ * whitener.matrix.T.double().numpy()).sum(axis=1))
    np.testing.assert_allclose(found, reference.transform(rows.double().numpy()) * signs, atol=1e-3)
    np.testing.assert_allclose(np.cov(found.T), np.eye(5), atol=1e-3)


def test_whitening_repeats_and_its_largest_entries_are_positive() -> None:
    whiteners = [Whiten(12, 5), Whiten(12, 5)]
    whiteners[0].fit([make_rows()])
    whiteners[1].fit(cut_blocks(make_rows(), [150]))
    first, second = (w.matrix for w in whiteners)
    assert torch.allclose(first, second, rtol=1e-3, atol=1e-4)
    assert (first.gather(0, first.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_a_dead_unit_does_not_explode_when_it_wakes() -> None:
    rows = make_rows()
    rows[:, 3] = 0.5
    standardise = Standardise(12)
    assert np.abs(fit(standardise, rows)[:, 3]).max() == 0
    awake = rows[:1].clone()
    awake[:, 3] += 1
    typical = float(rows.float().std(dim=0).mean())
    assert 0 < standardise(awake)[0, 3] <= 1.1 * 100 / typical


def test_directions_without_variance_do_not_explode() -> None:
    rows = make_rows(dim=3).repeat(1, 4)  # 12 features in 3 dimensions
    whitener = Whiten(12, 8)
    assert np.abs(fit(whitener, rows)[:, 3:]).max() < 0.05, "training rows have nothing there"
    apart = rows[:50].float() + torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    assert whitener(apart).isfinite().all()
    assert whitener(apart).abs().max() < 1000


def test_layernorm_is_torchs_without_weights() -> None:
    rows = make_rows()
    normalise = make_conditioner(HeadConfig(dim=12, conditioning="layernorm"))
    assert torch.equal(normalise(rows), functional.layer_norm(rows.float(), (12,)))
    assert not list(normalise.state_dict())


def test_under_autocast_layernorm_rounds_to_float16_and_no_further() -> None:
    rows = make_rows()
    normalise = make_conditioner(HeadConfig(dim=12, conditioning="layernorm"))
    with torch.autocast("cpu", torch.bfloat16):
        found = normalise(rows)
        unrounded = normalise(rows.float())
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), unrounded, rtol=2**-10, atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "standardise", "pca"])
def test_autocast_leaves_fitted_conditioning_exact(kind: Any) -> None:
    rows = make_rows()
    conditioner = make_conditioner(HeadConfig(dim=12, conditioning=kind, components=5))
    conditioner.fit([rows])
    expected = conditioner(rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conditioner(rows), expected)


@pytest.mark.parametrize("kind", ["none", "layernorm"])
def test_conditioning_without_constants_reads_no_rows(kind: Any) -> None:
    def read_rows() -> Iterator[Tensor]:
        raise AssertionError("read")
        yield

    make_conditioner(HeadConfig(dim=12, conditioning=kind)).fit(read_rows())


@pytest.mark.parametrize("kind", ["none", "standardise"])
def test_before_it_is_fitted_conditioning_changes_nothing(kind: Any) -> None:
    rows = make_rows()
    assert torch.equal(make_conditioner(HeadConfig(dim=12, conditioning=kind))(rows), rows.float())


@pytest.mark.parametrize("kind", ["none", "standardise", "layernorm", "pca"])
def test_conditioning_leaves_its_input_as_it_was(kind: Any) -> None:
    rows = make_rows().float()
    before = rows.clone()
    conditioner = make_conditioner(HeadConfig(dim=12, conditioning=kind, components=5))
    conditioner.fit([rows])
    conditioner(rows)
    assert torch.equal(rows, before)


def test_fewer_rows_than_components_are_refused() -> None:
    with pytest.raises(UnmaskError, match=r"PCA to 5 components .* there are 5; use fewer --components"):
        Whiten(12, 5).fit([make_rows(5)])
    Whiten(12, 5).fit([make_rows(6)])


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_row_has_no_scale(count: int) -> None:
    with pytest.raises(UnmaskError, match=f"at least 2 training rows, there are {count}"):
        Standardise(12).fit([make_rows(3)[:count]])


@pytest.mark.parametrize("conditioner", [Standardise(12), Whiten(12, 3)], ids=["standardise", "pca"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_that_are_all_alike_are_refused(conditioner: Conditioner, dtype: torch.dtype) -> None:
    with pytest.raises(UnmaskError, match="the 40 training rows are all alike"):
        conditioner.fit([make_rows()[:1].to(dtype).repeat(40, 1)])
