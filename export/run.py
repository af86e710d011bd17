"""Export: a run and its backbone file become a model folder, once parity has been shown."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from export.bundle import require_free, write_model_folder
from export.contract import Contract, TrainingFacts
from export.fuse import write_scorer
from export.fused import FusedModel
from export.parity import Check, Reference, check_parity
from extract.backbones import Backbone
from extract.detector_files import find_detector_file
from extract.detectors import open_detector_of_spec
from extract.specs import DetectorSpec, require_same
from extract.versions import read_versions
from train.checkpoint import Run, load_head, load_run


@dataclass(frozen=True)
class Export:
    """A finished export."""

    out: Path
    contract: Contract
    checks: list[Check]


def export_run(
    run_path: Path,
    backbone_path: Path,
    out: Path,
    detector: Path | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Export:
    """Fuses, proves parity and writes `out`; nothing is written where the proof fails.

    `cache` is the feature cache of the run (the path the run remembers, unless given); without it the checks on its
    samples are recorded as not measured. `detector` is the run's detector file,
    where it is not among those kept for the user.
    """
    require_free(out, overwrite=overwrite)
    run = load_run(run_path)
    backbone = Backbone(backbone_path, "cpu")
    fingerprint = run.document.fingerprint
    require_same(
        backbone.spec,
        fingerprint.backbone,
        f"{backbone_path} is not the backbone of {run_path}",
        "name the file that filled its cache",
    )
    detector_file = _find_detector(fingerprint.detector, detector)
    contract = make_contract(run)
    head = load_head(run)
    with TemporaryDirectory() as folder:
        scorer = Path(folder) / "scorer.onnx"
        on_stage("fusing backbone and head")
        write_scorer(backbone_path, head, contract, scorer)
        on_stage("comparing with backbone and torch head")
        model = FusedModel(scorer, "cpu")
        checks = check_parity(Reference(backbone, head, model), cache or Path(run.document.cache.path))
        certificate = {"checks": [c.model_dump() for c in checks], **_describe_software(model)}
        write_model_folder(out, scorer, detector_file, certificate, overwrite=overwrite)
    return Export(out, contract, checks)


def make_contract(run: Run) -> Contract:
    """What a model made from a run must say of itself."""
    document = run.document
    return Contract(
        unmask_version=version("unmask"),
        purpose=document.purpose,
        untrained_backbone=document.untrained_backbone,
        fingerprint=document.fingerprint,
        head=document.head,
        aggregate=document.aggregate,
        calibration=document.calibration,
        thresholds=document.thresholds,
        default_preset=document.default_preset,
        training=_describe_training(run),
    )


def _find_detector(spec: DetectorSpec, path: Path | None) -> Path | None:
    """The detector file of a run, checked against it; None for MTCNN, which is a package."""
    if spec.kind == "retinaface" and path is None:
        path = find_detector_file(spec)
    open_detector_of_spec(spec, path, "cpu")
    return path if spec.kind == "retinaface" else None


def _describe_training(run: Run) -> TrainingFacts:
    split = run.document.split
    return TrainingFacts(
        run=run.path.name,
        protocol=split.protocol,
        folds=split.folds,
        seed=run.document.fit.seed,
        counts={name: count.model_dump() for name, count in split.counts.items()},
    )


def _describe_software(model: FusedModel) -> dict[str, Any]:
    packages = ("unmask", "torch", "onnx", "numpy")
    return {
        "provider": model.provider,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **read_versions(packages)},
    }
