"""The folder `model/`: every file of an exported model, whole or absent.

scorer.onnx        crops of clips -> probabilities; carries the contract
features.onnx      the backbone file: crops -> features
head.onnx          features of clips -> probabilities; carries the contract
head_stream.onnx   the head one frame at a time, where it can be
detector.onnx      finds the faces (MTCNN is a package and has no file)
certificate.json   what was proved, and the sha256 of all the rest
MODEL_CARD.md      the same for people, with the data, the thresholds' prices and the limits
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.certificate import CERTIFICATE, Certificate, FileFacts, read_certificate
from extract.errors import DiskError, FormatError, MismatchError, UsageError
from extract.files import hash_file, write_directory_aside
from extract.specs import DetectorSpec

SCORER, FEATURES, HEAD, STREAM = "scorer.onnx", "features.onnx", "head.onnx", "head_stream.onnx"
DETECTOR, CARD = "detector.onnx", "MODEL_CARD.md"


@dataclass(frozen=True)
class ModelFolder:
    """Where an exported model's files lie; `detector` is None for MTCNN, which is a package."""

    path: Path
    scorer: Path
    detector: Path | None
    scorer_sha256: str
    certificate: Certificate


def open_model_folder(path: Path) -> ModelFolder:
    """Finds a model's files and checks the scorer against its certificate."""
    if not path.is_dir():
        raise UsageError(f"no such model folder: {path}; make one with `unmask export`")
    for name in (SCORER, CERTIFICATE):
        if not (path / name).is_file():
            raise FormatError(f"{path} has no {name}, so it is no model of `unmask export`; export it again")
    certificate = read_certificate(path)
    recorded = certificate.files.get(SCORER)
    digest = hash_file(path / SCORER)
    if recorded is None or digest != recorded.sha256:
        expected = "nothing" if recorded is None else f"{recorded.sha256[:12]}..."
        raise MismatchError(
            f"{path / SCORER} has the sha256 {digest[:12]}..., its certificate says {expected}; "
            "one of them was changed after export, so export it again"
        )
    detector = path / DETECTOR
    return ModelFolder(path, path / SCORER, detector if detector.is_file() else None, digest, certificate)


def write_model_folder(
    out: Path,
    files: Mapping[str, Path],
    certificate: Certificate,
    describe_file: Callable[[Path], FileFacts],
    write_card: Callable[[Certificate], str],
    *,
    overwrite: bool,
) -> None:
    """Moves an export into place; an existing folder is replaced only if it is a model and `overwrite` is set."""
    require_free(out, overwrite=overwrite)
    with write_directory_aside(out) as folder:
        for name, source in files.items():
            shutil.copyfile(source, folder / name)
        facts = {name: describe_file(folder / name) for name in sorted(files)}
        card = write_card(certificate.model_copy(update={"files": facts}))
        (folder / CARD).write_text(card, encoding="utf-8")
        facts[CARD] = describe_file(folder / CARD)
        whole = certificate.model_copy(update={"files": facts})
        (folder / CERTIFICATE).write_text(whole.model_dump_json(indent=1) + "\n", encoding="utf-8")


def require_free(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds something else, a model that is not to be replaced, and a place without access."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise DiskError(f"cannot write {out}: {parent} is no folder that this user may write to; choose another --out")
    if not out.exists():
        return
    ours = (out / SCORER).is_file() and (out / CERTIFICATE).is_file()
    if not ours and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is no model folder; choose another --out")
    if ours and not overwrite:
        raise UsageError(f"{out} holds a model already; choose another --out, or say --overwrite")


def require_recorded(folder: ModelFolder, name: str) -> Path:
    """A file of the model, which is the one that its certificate proved; raises MismatchError for another."""
    path, recorded = folder.path / name, folder.certificate.files.get(name)
    if recorded is None or not path.is_file() or hash_file(path) != recorded.sha256:
        raise MismatchError(
            f"{path} is not the file of its certificate; it was changed after export, so export it again"
        )
    return path


def require_detector(folder: ModelFolder, spec: DetectorSpec) -> None:
    """Refuses a folder whose detector file is missing where its contract names one."""
    if spec.sha256 is not None and folder.detector is None:
        raise FormatError(f"{folder.path} has no {DETECTOR}, which its contract names ({spec.name}); export it again")
