"""The folder `model/`: `scorer.onnx`, `detector.onnx` and `certificate.json`, whole or absent."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.errors import FormatError, MismatchError, UsageError
from extract.files import hash_file, write_directory_aside
from extract.specs import DetectorSpec

SCORER, DETECTOR, CERTIFICATE = "scorer.onnx", "detector.onnx", "certificate.json"
FORMAT = "unmask-certificate/1"


@dataclass(frozen=True)
class ModelFolder:
    """Where an exported model's files lie; `detector` is None for MTCNN, which is a package."""

    path: Path
    scorer: Path
    detector: Path | None
    scorer_sha256: str


def open_model_folder(path: Path) -> ModelFolder:
    """Finds a model's files and checks the scorer against its certificate."""
    if not path.is_dir():
        raise UsageError(f"no such model folder: {path}; make one with `unmask export`")
    for name in (SCORER, CERTIFICATE):
        if not (path / name).is_file():
            raise FormatError(f"{path} has no {name}, so it is no model of `unmask export`; export it again")
    certificate = _read_certificate(path / CERTIFICATE)
    recorded = certificate["files"].get(SCORER, {}).get("sha256")
    digest = hash_file(path / SCORER)
    if digest != recorded:
        raise MismatchError(
            f"{path / SCORER} has the sha256 {digest[:12]}..., its certificate says {str(recorded)[:12]}...; "
            "one of them was changed after export, so export it again"
        )
    detector = path / DETECTOR
    return ModelFolder(path, path / SCORER, detector if detector.is_file() else None, digest)


def write_model_folder(
    out: Path, scorer: Path, detector: Path | None, certificate: dict[str, Any], *, overwrite: bool
) -> None:
    """Moves an export into place; an existing folder is replaced only if it is a model and `overwrite` is set."""
    require_free(out, overwrite=overwrite)
    with write_directory_aside(out) as folder:
        shutil.copyfile(scorer, folder / SCORER)
        if detector is not None:
            shutil.copyfile(detector, folder / DETECTOR)
        files = {p.name: {"sha256": hash_file(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
        document = {"format": FORMAT, **certificate, "files": files}
        (folder / CERTIFICATE).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_free(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds something else, or a model that is not to be replaced."""
    if not out.exists():
        return
    ours = (out / SCORER).is_file() and (out / CERTIFICATE).is_file()
    if not ours and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is no model folder; choose another --out")
    if ours and not overwrite:
        raise UsageError(f"{out} holds a model already; choose another --out, or say --overwrite")


def require_detector(folder: ModelFolder, spec: DetectorSpec) -> None:
    """Refuses a folder whose detector file is missing where its contract names one."""
    if spec.sha256 is not None and folder.detector is None:
        raise FormatError(f"{folder.path} has no {DETECTOR}, which its contract names ({spec.name}); export it again")


def _read_certificate(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path} is not JSON ({error}); export the model again") from error
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("files"), dict)
    ):
        raise FormatError(f"{path} is not a certificate of the format {FORMAT!r}; export the model again")
    return document
