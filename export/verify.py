"""Proof again, wherever a model has been taken: its files are those of its certificate and still give its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import DETECTOR, FEATURES, HEAD, STREAM, ModelFolder, open_model_folder
from export.certificate import CERTIFICATE, Check, read_certificate
from export.contract import Contract, read_contract
from export.fused import ClipScores, FusedModel
from export.live import LiveHead
from export.probes import MOST_REPLAY_ERROR, QUICK_SHAPE, Batch, make_batch, make_batches, measure_replay, record
from extract.backbones import Backbone
from extract.detectors import open_detector_of_spec
from extract.errors import MismatchError, UsageError
from extract.files import hash_file
from extract.session import Device, Session, open_session
from extract.specs import require_same
from extract.synthetic import make_crops

FRAME_PX = 320
EXPORT_AGAIN = "export the model again"


def verify_model(path: Path, device: Device = "auto") -> list[Check]:
    """Every check of a model folder; where a file was changed, those that run the model are not made.

    Synthetic crops are drawn anew from their seeds: no footage is in a model, and none is needed. Neither torch nor
    onnx is used.
    """
    if not path.is_dir():
        raise UsageError(f"no such model folder: {path}; make one with `unmask export`")
    checks = _check_files(path)
    if any(check.status == "failed" for check in checks):
        return checks
    folder = open_model_folder(path)
    model = FusedModel(folder.scorer, device)
    contract, limit = model.contract, MOST_REPLAY_ERROR[model.contract.backbone.precision]
    checks.append(_check_replay(folder, model, limit))
    features, head = Backbone(path / FEATURES, device), open_session(path / HEAD, device)
    require_same(features.spec, contract.backbone, f"{path / FEATURES} is not the backbone inside", EXPORT_AGAIN)
    require_same(read_contract(head), contract, f"{path / HEAD} carries another contract", EXPORT_AGAIN)
    checks.append(_check_parts(model, features, head, limit))
    if (path / STREAM).is_file():
        live = LiveHead(path / STREAM, 1, device)
        require_same(live.contract, contract, f"{path / STREAM} carries another contract", EXPORT_AGAIN)
        checks.append(_check_stream(live, features, head))
    checks.append(_check_detector(folder, contract, device))
    return checks


def require_replay(folder: ModelFolder, model: FusedModel) -> None:
    """Raises MismatchError for a scorer that does not give here what its certificate holds, on one small batch.

    What is wrong with a machine, a driver or a runtime shows before the first verdict.
    """
    recorded = [one for one in folder.certificate.recorded if (one.clips, one.frames) == QUICK_SHAPE]
    found = record(model.run, [make_batch(*QUICK_SHAPE, model.contract.backbone.crop_px)])
    error, limit = measure_replay(found, recorded), MOST_REPLAY_ERROR[model.contract.backbone.precision]
    if not error <= limit:
        raise MismatchError(
            f"{folder.scorer} gives other probabilities by {model.provider} on this machine than its certificate "
            f"holds: they differ by {error:.1e}, expected at most {limit}; see `unmask verify {folder.path}`"
        )


def require_verified(path: Path, checks: list[Check]) -> None:
    """Raises MismatchError where a check failed."""
    failed = [f"{check.name}: {check.describe()}" for check in checks if check.status == "failed"]
    if failed:
        raise MismatchError(f"{path} is not what its certificate says: {'; '.join(failed)}; {EXPORT_AGAIN}")


def _check_files(path: Path) -> list[Check]:
    """A check for each file that the certificate names, and for each that it does not."""
    recorded = read_certificate(path).files
    found = {
        file.name: hash_file(file) if file.is_file() else None
        for file in sorted(path.iterdir())
        if file.name != CERTIFICATE
    }
    checks = []
    for name in sorted({*recorded, *found}):
        expected = recorded[name].sha256 if name in recorded else None
        if name not in found:
            detail = "it is missing"
        elif expected is None:
            detail = "the certificate does not know it"
        elif (digest := found[name]) is None:
            detail = "it is no file"
        elif digest != expected:
            detail = f"its sha256 is {digest[:12]}..., expected {expected[:12]}..."
        else:
            checks.append(Check(name=name, status="passed", detail=f"sha256 {expected[:12]}..."))
            continue
        checks.append(Check(name=name, status="failed", detail=detail))
    return checks


def _check_replay(folder: ModelFolder, model: FusedModel, limit: float) -> Check:
    """The scorer on synthetic crops, against what it gave at export."""
    batches = make_batches(model.contract.backbone.crop_px)
    found = record(model.run, batches)
    error = measure_replay(found, folder.certificate.recorded)
    name = "scorer.onnx against its export"
    if not np.isfinite(error):
        return Check(name=name, status="failed", detail="the certificate holds no scores of these synthetic crops")
    return _judge(name, error, limit, batches)


def _check_parts(model: FusedModel, features: Backbone, head: Session, limit: float) -> Check:
    """features.onnx and head.onnx one after the other, against the scorer."""

    def run(crops: NDArray[np.uint8], lengths: NDArray[np.int64]) -> ClipScores:
        rows = features.embed(crops.reshape(-1, *crops.shape[2:])).reshape(*crops.shape[:2], -1)
        return ClipScores(**head.run({"features": rows, "lengths": lengths}))

    batches = make_batches(features.spec.crop_px)
    error = measure_replay(record(run, batches), record(model.run, batches))
    return _judge("features.onnx and head.onnx against scorer.onnx", error, limit, batches)


def _check_stream(live: LiveHead, features: Backbone, head: Session) -> Check:
    """head_stream.onnx frame by frame, against the head on as much of the clip."""
    batch = make_batch(1, 16, features.spec.crop_px)
    rows, errors = features.embed(batch[0][0])[None], []
    for frame in range(rows.shape[1]):
        part: dict[str, NDArray[Any]] = {"features": rows[:, : frame + 1], "lengths": np.array([frame + 1], np.int64)}
        errors.append(abs(float(live.step(rows[:, frame]).prob[0] - head.run(part)["prob"][0])))
    return _judge("head_stream.onnx against head.onnx", max(errors), MOST_REPLAY_ERROR["fp32"], [batch])


def _check_detector(folder: ModelFolder, contract: Contract, device: Device) -> Check:
    """The detector is the contract's and runs; what it finds in a picture of nobody is nothing to compare."""
    spec = contract.fingerprint.detector
    open_detector_of_spec(spec, folder.detector, device).detect(make_crops(1, FRAME_PX, seed=0))
    return Check(name=DETECTOR if spec.sha256 else spec.name, status="passed", detail="it is the contract's, and runs")


def _judge(name: str, error: float, limit: float, batches: list[Batch]) -> Check:
    return Check(
        name=name,
        status="passed" if error <= limit else "failed",
        detail=f"probabilities within {limit}",
        clips=sum(len(lengths) for _, lengths in batches),
        frames=sum(int(lengths.sum()) for _, lengths in batches),
        prob_error=error,
    )
