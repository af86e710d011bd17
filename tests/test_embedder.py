"""Crops of many clips in common batches: every clip gets its own features, and what waits is bounded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.backbones import Backbone
from extract.embedder import Embedder
from tests.fakes import make_tiny_backbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(make_tiny_backbone(tmp_path_factory.mktemp("b")), "cpu")


def make_crops(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 32, 32, 3), np.uint8)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_each_clip_gets_the_features_it_has_alone(backbone: Backbone, lengths: list[int]) -> None:
    clips = [make_crops(count, seed) for seed, count in enumerate(lengths)]
    embedder = Embedder(backbone)
    futures = [embedder.submit(crops) for crops in clips]
    found = [future.result(timeout=10) for future in futures]
    embedder.close()
    for features, crops in zip(found, clips, strict=True):
        assert np.array_equal(features, backbone.embed(crops).astype(np.float16))


class SlowBackbone:
    """Waits until it is told to go on."""

    def __init__(self, backbone: Backbone) -> None:
        self.spec, self.batch, self.embed_now = backbone.spec, backbone.batch, backbone.embed
        self.go_on = threading.Event()

    def embed(self, crops: np.ndarray) -> np.ndarray:
        assert self.go_on.wait(10)
        return self.embed_now(crops)


def test_who_brings_too_much_has_to_wait(backbone: Backbone) -> None:
    slow, crops = SlowBackbone(backbone), make_crops(10, 0)
    embedder = Embedder(slow, waiting_bytes=3 * crops.nbytes)  # type: ignore[arg-type]
    submitted: list[int] = []

    def bring() -> None:
        for number in range(6):
            embedder.submit(crops)
            submitted.append(number)

    thread = threading.Thread(target=bring)
    thread.start()
    while len(submitted) < 3:
        time.sleep(0.01)
    time.sleep(0.2)
    assert submitted == [0, 1, 2]
    slow.go_on.set()
    thread.join(10)
    assert submitted == list(range(6))
    embedder.close()


def test_one_clip_larger_than_the_bound_still_passes(backbone: Backbone) -> None:
    embedder = Embedder(backbone, waiting_bytes=1)
    assert embedder.submit(make_crops(40, 0)).result(timeout=10).shape == (40, 8)
    embedder.close()


def test_an_error_of_the_backbone_reaches_whoever_waits(backbone: Backbone) -> None:
    embedder = Embedder(backbone)
    with pytest.raises(Exception, match="expects uint8"):
        embedder.submit(np.zeros((40, 16, 16, 3), np.uint8)).result(timeout=10)
    assert embedder.submit(make_crops(3, 0)).result(timeout=10).shape == (3, 8)
    embedder.close()


def test_closing_cancels_what_waits(backbone: Backbone) -> None:
    slow = SlowBackbone(backbone)
    embedder = Embedder(slow)  # type: ignore[arg-type]
    futures = [embedder.submit(make_crops(20, seed)) for seed in range(5)]
    futures[-1].add_done_callback(lambda _: slow.go_on.set())  # the backbone goes on when the last is cancelled
    embedder.close()
    with pytest.raises(CancelledError):
        futures[-1].result(timeout=0)
