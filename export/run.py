"""Export: a run and its backbone file become a model folder, once parity has been shown."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from export.bundle import DETECTOR, FEATURES, HEAD, SCORER, STREAM, require_free, write_model_folder
from export.card import render_card
from export.certificate import Certificate, Check, Footage, read_certificate
from export.contract import Contract, Replacement, TrainingFacts
from export.footage import measure_footage
from export.fuse import CalibratedHead, write_models
from export.fused import FusedModel
from export.loss import check_loss, find_replacement, settle_losses
from export.onnx_facts import describe_file
from export.parity import Reference, check_head, check_parity, check_stream, require_passed
from export.probes import make_batches, record
from export.stream import explain_no_stream, write_stream
from extract.backbones import Backbone
from extract.detector_files import find_detector_file
from extract.detectors import open_detector_of_spec
from extract.specs import BackboneSpec, DetectorSpec
from extract.versions import read_versions
from train.checkpoint import Run, load_head, load_run, read_predictions
from train.heads.head import Head


@dataclass(frozen=True)
class Watcher:
    """Who is told how far an export is."""

    on_stage: Callable[[str], None] = lambda _: None
    on_video: Callable[[int, int], None] = lambda *_: None


@dataclass(frozen=True)
class Export:
    """A finished export."""

    out: Path
    contract: Contract
    certificate: Certificate


@dataclass(frozen=True)
class ExportRequest:
    """What an export may be given beside the run, its backbone and a place.

    `detector` is the run's detector file, where it is not among those kept for the user; `cache` the feature cache of
    the run (the path the run remembers, unless given), without which the checks on its samples are not measured;
    `videos` a manifest to measure the exported model on. `allow_loss` accepts a replaced backbone that costs more than
    the stated limits.
    """

    detector: Path | None = None
    cache: Path | None = None
    videos: Path | None = None
    allow_loss: bool = False
    overwrite: bool = False


def export_run(
    run_path: Path,
    backbone_path: Path,
    out: Path,
    request: ExportRequest | None = None,
    watch: Watcher | None = None,
) -> Export:
    """Fuses, proves parity and writes the folder `out`; nothing is written where the proof fails.

    The backbone is the one that filled the run's cache, or a file of lower precision that was made from it.
    """
    request, watch = request or ExportRequest(), watch or Watcher()
    require_free(out, overwrite=request.overwrite)
    run, backbone = load_run(run_path), Backbone(backbone_path, "cpu")
    fingerprint = run.document.fingerprint
    replacement = find_replacement(backbone.spec, fingerprint.backbone, backbone_path, run_path)
    detector_file = _find_detector(fingerprint.detector, request.detector)
    cache = request.cache or Path(run.document.cache.path)
    head, contract = load_head(run), make_contract(run, replacement)
    with TemporaryDirectory() as folder:
        maker = _Maker(Path(folder), run, backbone, head, watch)
        maker.fuse(contract)
        losses = maker.check_loss(contract, cache)
        footage = maker.measure_footage(request.videos, detector_file, cache)
        losses, footage, exceeded = settle_losses(losses, footage, request.allow_loss)
        if exceeded:
            contract = make_contract(run, replacement, exceeded)
            maker.fuse(contract)  # which records them
        checks = [*maker.check_parity(cache), *losses]
        files = maker.list_files(detector_file)
        certificate = Certificate(
            checks=tuple(checks),
            footage=footage,
            recorded=record(maker.model.run, make_batches(backbone.spec.crop_px)),
            streaming=maker.streaming,
            files={},
            **_describe_software(maker.model),
        )
        watch.on_stage("writing the model")
        write_model_folder(
            out, files, certificate, describe_file, partial(render_card, run, contract), overwrite=request.overwrite
        )
    return Export(out, contract, read_certificate(out))


@dataclass
class _Maker:
    """The files of one model while they are made and proved."""

    folder: Path
    run: Run
    backbone: Backbone
    head: Head
    watch: Watcher
    streaming: str = ""

    def fuse(self, contract: Contract) -> None:
        self.watch.on_stage("fusing backbone and head")
        write_models(self.backbone.path, self.head, contract, self.folder / SCORER, self.folder / HEAD)
        self.streaming = explain_no_stream(self.head.config)
        if not self.streaming:
            write_stream(self.head, contract, self.folder / STREAM)
        self.model = FusedModel(self.folder / SCORER, "cpu")

    def check_parity(self, cache: Path) -> list[Check]:
        self.watch.on_stage("comparing with backbone and torch head")
        reference = Reference(self.backbone, self.head, self.model)
        checks = check_parity(reference, cache)
        checks.append(check_head(reference, self.folder / HEAD))
        if not self.streaming:
            checks.append(check_stream(reference, self.folder / STREAM))
        require_passed(checks)
        return checks

    def check_loss(self, contract: Contract, cache: Path) -> list[Check]:
        if contract.replaced is None:
            return []
        self.watch.on_stage("comparing with the backbone that filled the cache")
        head = CalibratedHead(self.head, contract.calibration).eval()
        return [check_loss(self.backbone, head, cache, contract.fingerprint)]

    def measure_footage(self, videos: Path | None, detector_file: Path | None, cache: Path) -> Footage | None:
        if videos is None:
            return None
        self.watch.on_stage("scoring videos")
        detector = open_detector_of_spec(self.run.document.fingerprint.detector, detector_file, "cpu")
        return measure_footage(videos, self.model, detector, self.run, cache, self.watch.on_video)

    def list_files(self, detector_file: Path | None) -> dict[str, Path]:
        files = {SCORER: self.folder / SCORER, FEATURES: self.backbone.path, HEAD: self.folder / HEAD}
        if not self.streaming:
            files[STREAM] = self.folder / STREAM
        return files if detector_file is None else {**files, DETECTOR: detector_file}


def make_contract(run: Run, replacement: BackboneSpec | None = None, exceeded: tuple[str, ...] = ()) -> Contract:
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
        replaced=None if replacement is None else Replacement(backbone=replacement, exceeded=exceeded),
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
        datasets=tuple(sorted({row.dataset for row in read_predictions(run)} - {""})),
        protocol=split.protocol,
        folds=split.folds,
        seed=run.document.fit.seed,
        counts={name: count.model_dump() for name, count in split.counts.items()},
    )


def _describe_software(model: FusedModel) -> dict[str, Any]:
    # ONNX Runtime comes under either name.
    found = read_versions(("unmask", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy"), absent="")
    return {
        "provider": model.provider,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: v for name, v in found.items() if v}},
    }
