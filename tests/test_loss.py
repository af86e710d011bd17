"""A backbone of lower precision in its parent's place: measured on the cache and on videos, refused past its limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import footage as footage_module
from export.bundle import CARD, SCORER
from export.certificate import Check, Footage
from export.footage import measure_footage
from export.fused import FusedModel
from export.loss import find_replacement, settle_losses
from export.run import Export, ExportRequest, export_run
from export.verify import verify_model
from extract.backbones import Backbone
from extract.calibration import CalibrationCrops
from extract.errors import MismatchError, UnmaskError
from extract.files import hash_file
from extract.manifest import write_manifest
from extract.precision import MOST_TYPICAL_ERROR, halve_backbone, quantise_backbone
from extract.synthetic import make_crops
from serve.scorer import Scorer
from tests.conftest import FACE, Pipeline
from tests.fakes import FixedDetector, make_tiny_backbone
from tests.media import write_video
from train.checkpoint import load_run
from train.measures.metrics import Estimate


@pytest.fixture(scope="module")
def half(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline's backbone in half precision."""
    out = tmp_path_factory.mktemp("half") / "half.onnx"
    halve_backbone(pipeline.backbone, out)
    return out


@pytest.fixture(scope="module")
def exported(pipeline: Pipeline, half: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A model with it inside."""
    return export_run(pipeline.run, half, tmp_path_factory.mktemp("exported") / "model")


def measure(pipeline: Pipeline, model: Path, manifest: Path | None = None, cache: Path | None = None) -> Footage:
    """What the videos of the pipeline say of a model, its faces found where extraction found them."""
    fused = FusedModel(model / SCORER, "cpu")
    detector = FixedDetector(FACE, spec=fused.contract.fingerprint.detector)
    run = load_run(pipeline.run)
    return measure_footage(manifest or pipeline.manifest, fused, detector, run, cache or pipeline.cache)


def test_a_replaced_backbone_is_named_with_its_cost(exported: Export, half: Path, pipeline: Pipeline) -> None:
    contract = FusedModel(exported.out / SCORER, "cpu").contract
    assert contract.replaced is not None
    assert contract.replaced.exceeded == ()
    assert contract.backbone == Backbone(half, "cpu").spec
    assert contract.fingerprint.backbone == Backbone(pipeline.backbone, "cpu").spec
    cost = next(check for check in exported.certificate.checks if check.name == "fp16 in place of its parent")
    assert cost.status == "passed"
    assert cost.frames == 64
    assert cost.logit_error_p95 is not None
    assert cost.logit_error_p95 > 0
    assert cost.typical_error is not None
    assert 0 < cost.typical_error < 0.01


def test_a_model_with_a_replaced_backbone_verifies_and_scores(exported: Export, pipeline: Pipeline) -> None:
    assert {check.status for check in verify_model(exported.out, "cpu")} == {"passed"}
    assert Scorer.open(exported.out, "cpu").facts.backbone == "tiny-0"
    assert "the backbone inside is fp16, made from the fp32 file" in (exported.out / CARD).read_text()


def test_without_its_cache_the_cost_is_not_measured(half: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    done = export_run(pipeline.run, half, tmp_path / "model", ExportRequest(cache=tmp_path / "gone.h5"))
    statuses = {check.name: check.status for check in done.certificate.checks}
    assert statuses["fp16 in place of its parent"] == "not measured"
    assert done.certificate.footage is None


def test_a_cost_past_its_limit_is_refused_or_recorded(
    half: Path, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST_TYPICAL_ERROR, "fp16", 1e-6)
    with pytest.raises(UnmaskError, match="costs more than is accepted, so nothing was written: fp16 in place of"):
        export_run(pipeline.run, half, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    done = export_run(pipeline.run, half, tmp_path / "model", ExportRequest(allow_loss=True))
    contract = FusedModel(done.out / SCORER, "cpu").contract
    assert contract.replaced is not None
    assert contract.replaced.exceeded[0].startswith("fp16 in place of its parent: ")
    assert "accepted" in {check.status for check in done.certificate.checks}
    assert "**Loss accepted at export**" in (done.out / CARD).read_text()


def test_a_file_made_from_another_parent_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    other = make_tiny_backbone(tmp_path, seed=1)
    quantise_backbone(other, tmp_path / "int8.onnx", CalibrationCrops(make_crops(20, 32, 0), "f.h5", 5))
    with pytest.raises(MismatchError, match=r"was made from the backbone .* was trained on features of"):
        export_run(pipeline.run, tmp_path / "int8.onnx", tmp_path / "model")


def test_the_backbone_of_the_cache_replaces_nothing(pipeline: Pipeline) -> None:
    spec = Backbone(pipeline.backbone, "cpu").spec
    assert find_replacement(spec, spec, pipeline.backbone, pipeline.run) is None


def test_videos_say_what_the_cache_says(pipeline: Pipeline) -> None:
    found = measure(pipeline, pipeline.model)
    assert found.status == "passed"
    # Some cuts of the footage are the same, and are judged once.
    once = {hash_file(video.path) for video in pipeline.videos}
    assert found.compared == found.n_fake + found.n_real == sum(found.roles.values()) == len(once)
    assert found.roles["train"] > found.roles["test"] > 0
    assert found.agreed == found.decided
    assert found.prob_error is not None
    assert 0 < found.prob_error < footage_module.MOST_PROB_ERROR
    assert found.auc.low is not None
    assert found.auc_change.value == pytest.approx(0, abs=0.02)


def test_videos_that_the_cache_has_not_are_scored_and_not_compared(pipeline: Pipeline, tmp_path: Path) -> None:
    found = measure(pipeline, pipeline.model, cache=tmp_path / "gone.h5")
    assert (found.status, found.compared, found.decided) == ("not measured", 0, 0)
    assert found.agreement is None
    assert found.n_fake > 0
    assert "none of them is in the cache" in found.describe()


def test_videos_without_a_score_are_counted_by_reason(pipeline: Pipeline, tmp_path: Path) -> None:
    black = write_video(tmp_path / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 12)
    videos = [*pipeline.videos[:4], replace(pipeline.videos[0], id="black.mp4", path=black)]
    write_manifest(tmp_path / "videos.csv", videos)
    found = measure(pipeline, pipeline.model, tmp_path / "videos.csv")
    assert found.not_scorable == {"NO_FACE": 1}
    assert found.n_fake + found.n_real == 4
    write_manifest(tmp_path / "videos.csv", videos[-1:])
    with pytest.raises(UnmaskError, match=r"no video of .* can be scored \(1 NO_FACE\)"):
        measure(pipeline, pipeline.model, tmp_path / "videos.csv")


def test_one_file_under_two_labels_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    first = pipeline.videos[0]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(first.path.read_bytes())
    write_manifest(tmp_path / "videos.csv", [first, replace(first, id="copy.mp4", path=copy, label="fake")])
    with pytest.raises(MismatchError, match="which is the same file, fake; correct the manifest"):
        measure(pipeline, pipeline.model, tmp_path / "videos.csv")


def test_the_command_measures_on_videos_and_the_card_tells(pipeline: Pipeline, tmp_path: Path) -> None:
    write_manifest(tmp_path / "videos.csv", pipeline.videos)
    request = ExportRequest(videos=tmp_path / "videos.csv")
    with pytest.raises(UnmaskError, match="says something else of the videos than the cache"):
        # The pipeline's faces were found where it was told, and the detector that it names finds others.
        export_run(pipeline.run, pipeline.backbone, tmp_path / "model", request)


def make_footage(**changes: object) -> Footage:
    """Sixty videos on which all verdicts agree."""
    nothing = Estimate(value=None)
    fields = {
        "manifest": "videos.csv", "status": "passed", "detail": "limits", "n_fake": 30, "n_real": 30, "clusters": 20,
        "cluster": "group", "not_scorable": {}, "roles": {"test": 60}, "auc": Estimate(value=0.9), "compared": 60,
        "auc_change": nothing, "decided": 40, "agreed": 40, "moved": 1, "prob_error": 0.01, "preset": "security",
    }  # fmt: skip
    return Footage.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("change", "agreed", "status"),
    [(0.0, 40, "passed"), (0.011, 40, "failed"), (-0.011, 40, "failed"), (None, 38, "passed"), (0.0, 37, "failed")],
)
def test_a_replaced_backbone_keeps_auc_and_verdicts(change: float | None, agreed: int, status: str) -> None:
    found = {"compared": 60, "decided": 40, "agreed": agreed, "prob_error": 0.3, "auc_change": Estimate(value=change)}
    assert footage_module._judge(found, replaced=True)[0] == status


def test_failed_videos_refuse_a_replaced_backbone_unless_allowed() -> None:
    check = Check(name="int8 in place of its parent", status="passed", detail="limits")
    failed = make_footage(status="failed")
    with pytest.raises(UnmaskError, match=r"costs more than is accepted.*videos of videos\.csv: 60 videos scored"):
        settle_losses([check], failed, allow=False)
    checks, footage, exceeded = settle_losses([check], failed, allow=True)
    assert checks == [check]
    assert footage is not None
    assert footage.status == "accepted"
    assert len(exceeded) == 1


def test_failed_videos_of_the_same_backbone_are_no_loss_to_be_allowed() -> None:
    with pytest.raises(UnmaskError, match="says something else of the videos than the cache"):
        settle_losses([], make_footage(status="failed"), allow=True)
