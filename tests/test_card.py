"""The model card: data and terms, figures with intervals, prices, limits, and what was not measured."""

from __future__ import annotations

import pytest

from export.bundle import CARD, FEATURES, HEAD, SCORER
from export.card import TERMS, UNSTATED, render_card
from export.certificate import read_certificate
from export.contract import Contract
from export.fused import FusedModel
from extract.files import hash_file
from tests.conftest import Pipeline
from train.checkpoint import Run, load_run
from train.measures.metrics import format_estimate


@pytest.fixture(scope="module")
def contract(pipeline: Pipeline) -> Contract:
    return FusedModel(pipeline.model / SCORER, "cpu").contract


def render(pipeline: Pipeline, contract: Contract, run: Run | None = None) -> str:
    return render_card(run or load_run(pipeline.run), contract, read_certificate(pipeline.model))


def test_a_card_gives_figures_with_intervals_of_data_the_head_never_saw(pipeline: Pipeline) -> None:
    card = (pipeline.model / CARD).read_text()
    test = load_run(pipeline.run).document.test
    assert test is not None
    assert "From the test split, which training never saw: 3 fake and 3 real videos" in card
    assert f"| video AUC | {format_estimate(test.auc)} |" in card
    assert "| share of alarms that are right where 1 % of videos are fake |" in card


def test_a_card_tells_every_threshold_with_its_price(pipeline: Pipeline, contract: Contract) -> None:
    card = (pipeline.model / CARD).read_text()
    for name, threshold in contract.thresholds.items():
        assert f"- `{name}` ({threshold.target.name}): {threshold.describe()}" in card


def test_a_card_says_what_was_not_measured(pipeline: Pipeline) -> None:
    card = (pipeline.model / CARD).read_text()
    assert "- videos by the exported model: *not measured*" in card


def test_a_card_lists_every_file_with_its_hash(pipeline: Pipeline) -> None:
    card = (pipeline.model / CARD).read_text()
    for name in (SCORER, FEATURES, HEAD):
        path = pipeline.model / name
        assert f"| {name} | {path.stat().st_size} | {hash_file(path)} |" in card


@pytest.mark.parametrize(
    ("dataset", "terms"),
    [("Celeb-DF v2", TERMS["Celeb-DF"]), ("FF++ c23", TERMS["FF++"]), ("DFDC", TERMS["DFDC"]), ("mine", UNSTATED)],
)
def test_a_card_tells_the_terms_of_known_data(pipeline: Pipeline, contract: Contract, dataset: str, terms: str) -> None:
    training = contract.training.model_copy(update={"datasets": (dataset,)})
    assert f"- {dataset}: {terms}\n" in render(pipeline, contract.model_copy(update={"training": training}))


def test_a_card_warns_of_demonstrations_and_untrained_backbones(pipeline: Pipeline, contract: Contract) -> None:
    changed = contract.model_copy(update={"purpose": "demo", "untrained_backbone": True})
    card = render(pipeline, changed)
    assert "DEMONSTRATION: this model was made to show the pipeline" in card
    assert "**UNTRAINED BACKBONE**" in card
    assert "ImageNet" in render(pipeline, contract)
    assert "UNTRAINED" not in render(pipeline, contract)


def test_a_card_says_of_random_weights_that_they_are(pipeline: Pipeline, contract: Contract) -> None:
    backbone = contract.backbone.model_copy(update={"weights": "random:0", "trained": False})
    prints = contract.fingerprint.model_copy(update={"backbone": backbone})
    card = render(pipeline, contract.model_copy(update={"fingerprint": prints, "untrained_backbone": True}))
    line = next(line for line in card.splitlines() if line.startswith("- backbone weights: random:0"))
    assert line.endswith("; random")


def test_a_card_names_no_part_that_holds_no_video(pipeline: Pipeline, contract: Contract) -> None:
    run = load_run(pipeline.run)
    empty = run.document.split.counts["val"].model_copy(update={"real": 0, "fake": 0})
    split = run.document.split.model_copy(update={"counts": {**run.document.split.counts, "val": empty}})
    card = render(pipeline, contract, Run(run.path, run.document.model_copy(update={"split": split})))
    assert "- train: " in card
    assert "- val: " not in card


def test_a_card_names_the_runtime_that_proved_the_model(pipeline: Pipeline) -> None:
    assert "\n- onnxruntime" in (pipeline.model / CARD).read_text()


def test_a_run_that_held_nothing_out_has_no_figures(pipeline: Pipeline, contract: Contract) -> None:
    run = load_run(pipeline.run)
    bare = Run(run.path, run.document.model_copy(update={"test": None, "out_of_fold": None}))
    card = render(pipeline, contract, bare)
    assert "*not measured*: the run held no video out." in card
    assert "video AUC" not in card


def test_a_card_is_markdown_without_holes(pipeline: Pipeline) -> None:
    card = (pipeline.model / CARD).read_text()
    assert "None" not in card
    assert "nan" not in card.lower().replace("finance", "")
    assert "\n\n\n" not in card
