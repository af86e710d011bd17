"""The head: what its predictions may and may not depend on, and that fitting it repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extract.errors import DeviceError, UnmaskError
from tests.train_data import CacheRecipe, make_cache
from train.batches import BatchReader
from train.config import SMOOTHED, FitConfig, HeadConfig
from train.dataset import ClipData, select_usable
from train.fit import FitPlan, FittedHead, choose_device, fit_head
from train.heads.head import Head
from train.predict import predict_clips, predict_videos

CPU = torch.device("cpu")
TOLERANCE = 1e-6  # float32 sums in another order


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the models are tiny; a second thread only waits


def make_head(dim: int = 16) -> Head:
    torch.manual_seed(7)
    return Head(HeadConfig(dim=dim)).eval()


def fit_briefly(data: ClipData, seed: int = 0, epochs: int = 3) -> FittedHead:
    everyone = np.arange(len(data.records))
    config = FitConfig(epochs=epochs, seed=seed, batch_size=16, schedule="constant")
    return fit_head(data, everyone[::3], np.delete(everyone, np.s_[::3]), FitPlan(config))


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("length", [1, 4, 32])
def test_a_prediction_does_not_depend_on_padding_or_batch_mates(batch: int, length: int) -> None:
    head = make_head()
    clip = torch.randn(1, length, 16)
    frames, alone = head(clip, torch.tensor([length]))
    crowd = torch.randn(batch, length + 5, 16) * 10
    crowd[0, :length] = clip[0]
    lengths = torch.full((batch,), length + 5)
    lengths[0] = length
    crowd_frames, among = head(crowd, lengths)
    assert torch.allclose(alone[0], among[0], atol=TOLERANCE)
    assert torch.allclose(frames[0], crowd_frames[0, :length], atol=TOLERANCE)


def test_padding_that_is_not_a_number_changes_nothing() -> None:
    head = make_head()
    padded = torch.randn(1, 9, 16)
    expected = head(padded[:, :6], torch.tensor([6]))[1]
    padded[:, 6:] = float("nan")
    assert torch.allclose(head(padded, torch.tensor([6]))[1], expected, atol=TOLERANCE)


def test_the_recurrence_runs_over_time_and_not_over_the_batch() -> None:
    head = make_head()
    clips = torch.randn(3, 8, 16)
    changed = clips.clone()
    changed[0, 0] += 5 * torch.randn(16)
    lengths = torch.full((3,), 8)
    difference = (head(changed, lengths)[0] - head(clips, lengths)[0]).abs()
    assert (difference[0, 1:] > 1e-5).all(), "a later frame remembers an earlier one"
    assert (difference[1:] == 0).all(), "another clip of the batch does not"


def test_a_clips_logit_is_the_mean_of_its_frame_logits() -> None:
    frames, clip = make_head()(torch.randn(2, 8, 16), torch.tensor([8, 3]))
    assert torch.allclose(clip, torch.stack([frames[0].mean(), frames[1, :3].mean()]), atol=TOLERANCE)


def test_clip_and_video_predictions_do_not_depend_on_who_else_is_asked_for() -> None:
    data = select_usable(make_cache())
    head, reader = make_head(), BatchReader(data, CPU)
    together = predict_videos(head, data, reader, np.arange(len(data.records)))
    alone = [predict_videos(head, data, reader, np.array([v]))[0] for v in range(5)]
    np.testing.assert_allclose(together[:5], alone, atol=TOLERANCE)
    assert predict_clips(head, reader, np.array([1, 3])).shape == (2,)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    data = select_usable(make_cache(CacheRecipe(groups=8)))
    first, second, other = (fit_briefly(data, seed).head.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["project.weight"], other["project.weight"])


def test_fitting_leaves_torchs_random_state_and_settings_alone() -> None:
    data = select_usable(make_cache(CacheRecipe(groups=6)))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    fit_briefly(data, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_best_epoch_is_the_one_that_is_kept() -> None:
    data = select_usable(make_cache(CacheRecipe(signal=0.3)))
    fitted = fit_briefly(data, epochs=12)
    aucs, losses = ([getattr(epoch, name) for epoch in fitted.curve] for name in ("val_auc", "val_loss"))
    ends = range(SMOOTHED, len(fitted.curve) + 1)
    means = [(sum(aucs[e - SMOOTHED : e]) / SMOOTHED, -sum(losses[e - SMOOTHED : e]) / SMOOTHED) for e in ends]
    assert fitted.best_epoch == SMOOTHED + means.index(max(means))
    val = np.delete(np.arange(len(data.records)), np.s_[::3])
    logits = predict_videos(fitted.head, data, BatchReader(data, CPU), val)
    again = fit_briefly(data, epochs=fitted.best_epoch)
    np.testing.assert_array_equal(predict_videos(again.head, data, BatchReader(data, CPU), val), logits)


def test_rare_fakes_are_learned_too() -> None:
    cache = make_cache(CacheRecipe(groups=30))
    rare = [r for i, r in enumerate(cache.videos) if r.label == "real" or i % 12 == 1]
    data = select_usable(cache)
    chosen = np.array([i for i, r in enumerate(cache.videos) if r in rare])
    fitted = fit_head(data, chosen, chosen, FitPlan(FitConfig(epochs=20, batch_size=16)))
    logits = predict_videos(fitted.head, data, BatchReader(data, CPU), chosen)
    assert (logits[data.labels[chosen] == 1] > 0).mean() > 0.8


def test_a_loss_that_explodes_is_explained() -> None:
    data = select_usable(make_cache(CacheRecipe(groups=6)))
    everyone = np.arange(len(data.records))
    with pytest.raises(UnmaskError, match="--learning-rate"):
        fit_head(data, everyone, None, FitPlan(FitConfig(learning_rate=1e30, epochs=5)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there_is_refused_and_auto_takes_the_cpu() -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.gpu
def test_a_head_fitted_on_cuda_repeats_and_scores_alike_on_the_cpu() -> None:
    data = select_usable(make_cache(CacheRecipe(groups=8)))
    everyone, cuda = np.arange(len(data.records)), choose_device("cuda")
    first, second = (fit_head(data, everyone, everyone, FitPlan(FitConfig(epochs=3), device=cuda)) for _ in range(2))
    assert torch.equal(first.head.state_dict()["project.weight"], second.head.state_dict()["project.weight"])
    on_cuda = predict_videos(first.head, data, BatchReader(data, cuda), everyone)
    on_cpu = predict_videos(first.head.cpu(), data, BatchReader(data, CPU), everyone)
    np.testing.assert_allclose(on_cuda, on_cpu, atol=5e-3)  # TF32 in cuDNN's LSTM
