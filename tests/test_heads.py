"""Every kind of head: what its logits may depend on, how they agree with each other, and with torch's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from extract.errors import UsageError
from train.config import HeadConfig, Pooling
from train.heads.encoders import BothWays, make_encoder, make_positions
from train.heads.head import Head, mark_inside
from train.heads.pooling import Pool

TOLERANCE = 2e-6  # float32 sums in another order
DIM = 16
ENCODERS: dict[str, dict[str, Any]] = {
    "lstm": {"encoder": "lstm"},
    "lstm x2": {"encoder": "lstm", "layers": 2},
    "lstm both ways": {"encoder": "lstm", "bidirectional": True},
    "gru": {"encoder": "gru"},
    "gru x2 both ways": {"encoder": "gru", "layers": 2, "bidirectional": True},
    "transformer x2": {"encoder": "transformer", "layers": 2},
    "transformer widened": {"encoder": "transformer", "projection": 12},
    "linear": {"encoder": "linear"},
}
KINDS = [
    (name, pooling)
    for name in ENCODERS
    for pooling in ("mean", "max", "attention", "last")
    if (name, pooling) != ("linear", "last")
]
each_kind = pytest.mark.parametrize(("encoder", "pooling"), KINDS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the models are tiny; a second thread only waits
    torch.manual_seed(0)


def make_head(encoder: str, pooling: Pooling = "mean", **choices: Any) -> Head:
    """A small head in evaluation mode; the same arguments, the same weights."""
    torch.manual_seed(7)
    shape = {"projection": 8, "hidden": 8, "pooling": pooling, **ENCODERS[encoder], **choices}
    return Head(HeadConfig(dim=DIM, **shape)).eval()


@each_kind
def test_a_prediction_depends_neither_on_padding_nor_on_batch_mates(encoder: str, pooling: Pooling) -> None:
    head = make_head(encoder, pooling)
    crowd = torch.randn(5, 9, DIM) * 5
    lengths = torch.tensor([9, 1, 4, 8, 2])
    frames, clips = head(crowd, lengths)
    for row, length in enumerate(lengths.tolist()):
        own_frames, own_clip = head(crowd[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(frames[row, :length], own_frames[0], atol=TOLERANCE)
        assert torch.allclose(clips[row], own_clip[0], atol=TOLERANCE)


@each_kind
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_garbage_in_the_padding_changes_nothing(encoder: str, pooling: Pooling, garbage: float) -> None:
    head = make_head(encoder, pooling)
    features, lengths = torch.randn(3, 6, DIM), torch.tensor([6, 1, 4])
    frames, clips = head(features, lengths)
    spoiled = features.masked_fill(~mark_inside(features, lengths).unsqueeze(-1), garbage)
    spoiled_frames, spoiled_clips = head(spoiled, lengths)
    assert torch.equal(frames, spoiled_frames)
    assert torch.equal(clips, spoiled_clips)
    assert (frames[1, 1:] == 0).all(), "padding has no evidence"


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "linear"])
def test_time_runs_along_the_second_axis(encoder: str) -> None:
    head = make_head(encoder)
    clips = torch.randn(3, 8, DIM)
    changed = clips.clone()
    changed[0, 0] += 5 * torch.randn(DIM)
    lengths = torch.full((3,), 8)
    difference = (head(changed, lengths)[0] - head(clips, lengths)[0]).abs()
    assert (difference[0, 1:] > 1e-6).all(), "a later frame knows of an earlier one"
    assert (difference[1:] == 0).all(), "another clip of the batch does not"


@pytest.mark.parametrize("encoder", ["lstm both ways", "gru x2 both ways", "transformer x2"])
def test_an_earlier_frame_knows_of_a_later_one_where_the_encoder_sees_both_ways(encoder: str) -> None:
    head = make_head(encoder)
    clips = torch.randn(1, 8, DIM)
    changed = clips.clone()
    changed[0, 5] += 5 * torch.randn(DIM)
    difference = (head(changed, torch.tensor([6]))[0] - head(clips, torch.tensor([6]))[0]).abs()
    assert (difference[0, :6] > 1e-6).all()


def test_a_frame_knows_nothing_of_later_ones_where_the_encoder_runs_onward() -> None:
    head = make_head("lstm x2")
    clips = torch.randn(1, 8, DIM)
    changed = clips.clone()
    changed[0, 5:] += 1
    assert torch.equal(head(changed, torch.tensor([8]))[0][0, :5], head(clips, torch.tensor([8]))[0][0, :5])


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)), pooling=st.sampled_from(["mean", "max", "attention"]))
def test_the_linear_heads_clip_logit_ignores_the_order_of_frames(order: list[int], pooling: Pooling) -> None:
    head = make_head("linear", pooling)
    clip, lengths = torch.randn(1, 6, DIM), torch.tensor([6])
    assert torch.allclose(head(clip, lengths)[1], head(clip[:, order], lengths)[1], atol=TOLERANCE)


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "linear"])
def test_the_other_heads_see_the_order_of_frames(encoder: str) -> None:
    head = make_head(encoder)
    clip, lengths = torch.randn(1, 6, DIM), torch.tensor([6])
    assert (head(clip, lengths)[1] - head(clip.flip(1), lengths)[1]).abs() > 1e-4


def test_the_linear_head_has_nothing_but_a_weight_a_feature() -> None:
    head = make_head("linear", dropout=0.5).train()
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "classify.weight": (1, DIM),
        "classify.bias": (1,),
    }
    clip, lengths = torch.randn(2, 3, DIM), torch.tensor([3, 2])
    assert torch.equal(head(clip, lengths)[1], head(clip, lengths)[1]), "no dropout either"


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    kind=st.sampled_from(["lstm", "gru"]),
    layers=st.integers(1, 3),
)
def test_both_ways_is_torchs_own_layer_over_packed_sequences(lengths: list[int], kind: str, layers: int) -> None:
    config = HeadConfig(dim=DIM, encoder=kind, projection=5, hidden=4, layers=layers, bidirectional=True)  # type: ignore[arg-type]
    encoder = BothWays(config).eval()
    cell = nn.LSTM if kind == "lstm" else nn.GRU
    torchs = cell(5, 4, layers, batch_first=True, bidirectional=True)
    for layer in range(layers):
        for ours, suffix in ((encoder.onward[layer], ""), (encoder.homeward[layer], "_reverse")):
            copied = {name.replace("_l0", f"_l{layer}{suffix}"): value for name, value in ours.state_dict().items()}
            torchs.load_state_dict({**torchs.state_dict(), **copied})
    frames, counts = torch.randn(len(lengths), max(lengths), 5), torch.tensor(lengths)
    packed = pack_padded_sequence(frames, counts, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(torchs(packed)[0], batch_first=True)
    inside = mark_inside(frames, counts)
    found = torch.where(inside.unsqueeze(-1), encoder(frames, inside, counts), 0)
    assert torch.allclose(found, expected, atol=TOLERANCE)


def test_the_last_of_both_ways_is_where_each_direction_ends() -> None:
    head = make_head("lstm both ways", "last")
    features, lengths = torch.randn(2, 6, DIM), torch.tensor([6, 4])
    projected = head.project(head.condition(features))
    assert isinstance(head.encode, BothWays)
    onward, homeward = head.encode.onward[0], head.encode.homeward[0]
    for row, length in enumerate(lengths.tolist()):
        clip = projected[row : row + 1, :length]
        ends = torch.cat([onward(clip)[0][0, -1], homeward(clip.flip(1))[0][0, -1]])
        assert torch.allclose(head(features, lengths)[1][row], head.classify(ends), atol=TOLERANCE)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_clip_logit_is_pooled_from_the_frame_logits(encoder: str) -> None:
    features, lengths = torch.randn(2, 8, DIM), torch.tensor([8, 3])
    for pooling, pool in (("mean", Tensor.mean), ("max", Tensor.max)):
        frames, clips = make_head(encoder, pooling)(features, lengths)  # type: ignore[arg-type]
        expected = torch.stack([pool(frames[0]), pool(frames[1, :3])])
        assert torch.allclose(clips, expected, atol=TOLERANCE)


@pytest.mark.parametrize("encoder", ["lstm x2", "gru", "transformer x2"])
def test_last_is_the_logit_of_the_last_frame(encoder: str) -> None:
    frames, clips = make_head(encoder, "last")(torch.randn(2, 8, DIM), torch.tensor([8, 3]))
    assert torch.equal(clips, frames[[0, 1], [7, 2]])


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), scale=st.sampled_from([0.0, 1.0, 1e4]))
def test_attention_weights_are_none_at_padding_and_sum_to_one(lengths: list[int], scale: float) -> None:
    pool = Pool("attention", 4)
    hidden = torch.randn(len(lengths), 9, 4) * scale
    inside = mark_inside(hidden, torch.tensor(lengths))
    weights = pool.weigh(hidden, inside)
    assert torch.allclose(weights.sum(dim=1), torch.ones(len(lengths)), atol=TOLERANCE)
    assert (weights[~inside] == 0).all()


def test_attention_listens_to_the_frame_it_weighs_most() -> None:
    pool = Pool("attention", 1)
    assert pool.attend is not None
    nn.init.constant_(pool.attend.weight, 50.0)
    hidden = torch.tensor([[[0.0], [1.0], [0.2]]])
    logits = torch.tensor([[3.0, -2.0, 1.0]])
    clip = pool(logits, hidden, torch.ones(1, 3, dtype=torch.bool), torch.tensor([3]))
    assert torch.allclose(clip, torch.tensor([-2.0]), atol=1e-3)


def test_positions_have_no_end_and_differ_from_each_other() -> None:
    positions = make_positions(torch.zeros(1, 500, 8))
    assert torch.pdist(positions).min() > 1e-3
    assert torch.equal(make_positions(torch.zeros(2, 3, 8)), positions[:3])


@each_kind
def test_a_head_trains_under_bfloat16_and_answers_in_float32(encoder: str, pooling: Pooling) -> None:
    head = make_head(encoder, pooling).train()
    with torch.autocast("cpu", torch.bfloat16):
        frames, clips = head(torch.randn(4, 6, DIM).half(), torch.tensor([6, 1, 3, 4]))
    assert frames.dtype == clips.dtype == torch.float32
    clips.sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("encoder", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_stands_between_layers_and_not_within_one(encoder: Any, bidirectional: bool) -> None:
    frames, lengths = torch.randn(1, 5, 8), torch.tensor([5])
    for layers in (1, 2):
        shape: dict[str, Any] = {"layers": layers, "bidirectional": bidirectional, "dropout": 0.5, "projection": 8}
        encode = make_encoder(HeadConfig(dim=DIM, encoder=encoder, **shape)).train()
        first, second = (encode(frames, mark_inside(frames, lengths), lengths) for _ in range(2))
        assert torch.equal(first, second) == (layers == 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_fewer_digits_are_cast_first(dtype: torch.dtype) -> None:
    head = make_head("lstm")
    features, lengths = torch.randn(2, 5, DIM).to(dtype), torch.tensor([5, 3])
    assert torch.equal(head(features, lengths)[1], head(features.float(), lengths)[1])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("conditioning", ["standardise", "pca"])
def test_a_head_that_is_reloaded_gives_the_same_logits(encoder: str, conditioning: str) -> None:
    head = make_head(encoder, "attention", conditioning=conditioning, components=3)
    head.fit_conditioning([torch.randn(40, DIM) + 3])
    torch.manual_seed(1)
    reloaded = Head(head.config).eval()
    reloaded.load_state_dict(head.state_dict())
    features, lengths = torch.randn(2, 6, DIM), torch.tensor([6, 2])
    for found, expected in zip(reloaded(features, lengths), head(features, lengths), strict=True):
        assert torch.equal(found, expected)


def test_rows_may_be_conditioned_before_they_become_clips() -> None:
    head = make_head("lstm", conditioning="pca", components=3)
    rows = torch.randn(12, DIM)
    head.fit_conditioning([rows])
    lengths = torch.tensor([4, 2, 3])
    beforehand = head.score_conditioned(head.condition(rows).view(3, 4, 3), lengths)
    for found, expected in zip(beforehand, head(rows.view(3, 4, DIM), lengths), strict=True):
        assert torch.allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"encoder": "transformer", "bidirectional": True}, "no direction"),
        ({"encoder": "linear", "bidirectional": True}, "no direction"),
        ({"encoder": "linear", "pooling": "last"}, "ignores order"),
        ({"encoder": "transformer", "hidden": 20}, "multiple of 8, not 20"),
        ({"conditioning": "pca", "components": 17}, "the backbone has 16"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(choices: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        HeadConfig(dim=DIM, **choices)
