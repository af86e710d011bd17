"""Face detectors behind one signature: a batch of frames in, boxes with scores out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extract.errors import FormatError, MismatchError, UsageError
from extract.files import hash_file
from extract.session import Device, open_session
from extract.specs import DetectorSpec


@dataclass(frozen=True)
class Detections:
    """The faces of one frame, best first, in pixels of that frame."""

    boxes: NDArray[np.float32]  # (n, 4) x0, y0, x1, y1
    scores: NDArray[np.float32]  # (n,)


class Detector(Protocol):
    """Finds faces; `provider` names what really ran it, `path` its file, if it has one."""

    spec: DetectorSpec
    provider: str
    path: Path | None

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        """Faces of each RGB frame of a batch (N, H, W, 3)."""
        ...


# The modules below import this one, and load OpenCV and its networks: each function imports what it opens.


def open_detector(source: str, device: Device = "auto") -> Detector:
    """Opens a detector by name (retinaface, retinaface-mobile, mtcnn) or from a FILE.onnx.

    A named file is made at first use and kept for the user; a raw RetinaFace file is wrapped on the fly.
    """
    if source == "mtcnn":
        from extract.mtcnn import open_mtcnn

        return open_mtcnn(device=device)
    from extract.detector_files import BUILT_IN, provide_built_in, provide_wrapped
    from extract.retinaface import open_retinaface

    if source in BUILT_IN:
        path = provide_built_in(source)
    else:
        path = Path(source)
        if not path.is_file():
            names = ", ".join([*BUILT_IN, "mtcnn"])
            raise UsageError(f"no such detector: {source}; give one of {names}, or an existing FILE.onnx")
    detector = open_retinaface(path, device) or open_retinaface(provide_wrapped(path), device)
    assert detector is not None  # a wrapped file says what it is
    return detector


def open_detector_of_spec(spec: DetectorSpec, path: Path | None, device: Device = "auto") -> Detector:
    """Opens the very detector that a spec names, from its file (none for MTCNN); needs neither torch nor onnx."""
    if spec.kind == "mtcnn":
        from extract.mtcnn import open_mtcnn

        return open_mtcnn(spec, device)
    if path is None or not path.is_file():
        raise UsageError(f"no such detector file: {path}; the detector {spec.name} needs one")
    found = hash_file(path)
    if found != spec.sha256:
        raise MismatchError(
            f"{path} is not the detector {spec.name} of the spec: found sha256 {found}, expected {spec.sha256}; "
            "use the file that the spec was made with"
        )
    from extract.retinaface import RetinaFaceDetector, read_document

    session = open_session(path, device)
    if read_document(session) is None:
        raise FormatError(f"{path} is not a detector file; make one with `unmask detector {path}`")
    return RetinaFaceDetector(session, spec)
