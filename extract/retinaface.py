"""RetinaFace in numpy: priors, decoding and suppression for every RetinaFace file, and the detector that runs one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from extract.boxes import compute_iou
from extract.detectors import Detections
from extract.errors import FormatError
from extract.files import hash_file
from extract.session import Device, Session, open_session
from extract.specs import DetectorSpec, Spec

DETECTOR_KEY = "unmask.detector"

STRIDES_PX = (8, 16, 32)
ANCHORS_PX = ((16, 32), (64, 128), (256, 512))
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
FRAMES_A_RUN = 8  # bounds memory; larger batches are no faster on a CPU


class DetectorDocument(Spec):
    """What a detector file says of itself, as JSON under DETECTOR_KEY in its metadata."""

    format: Literal["unmask-detector/1"] = "unmask-detector/1"
    name: str
    weights: str
    weights_sha256: str


class RawFaces(NamedTuple):
    """What the network says of N frames, P priors each."""

    loc: NDArray[np.float32]  # (N, P, 4) offsets from the priors
    conf: NDArray[np.float32]  # (N, P, 2) probability of background, of a face
    landmarks: NDArray[np.float32]  # (N, P, 10) offsets from the priors


class RetinaFaceDetector:
    """Runs a detector file: frames are shrunk, run in small batches, and their boxes scaled back."""

    def __init__(self, session: Session, spec: DetectorSpec) -> None:
        self.spec = spec
        self.provider = session.provider
        self.path: Path | None = session.path
        self._session = session

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        """Faces of each RGB frame of a batch (N, H, W, 3)."""
        return [
            faces
            for start in range(0, len(frames), FRAMES_A_RUN)
            for faces in self._detect_run(frames[start : start + FRAMES_A_RUN])
        ]

    def run(self, frames: NDArray[np.uint8]) -> RawFaces:
        """The network's answer for frames (N, H, W, 3) as they are, neither shrunk nor split."""
        answer = self._session.run({"frames": frames})
        return RawFaces(answer["loc"], answer["conf"], answer["landmarks"])

    def _detect_run(self, frames: NDArray[np.uint8]) -> list[Detections]:
        small = shrink_frames(frames, self.spec.max_side_px)
        raw = self.run(small)
        priors = make_priors(*small.shape[1:3])
        zoom = compute_zoom(frames, small)
        found = []
        for loc, scores in zip(raw.loc, raw.conf[:, :, 1], strict=True):
            (likely,) = np.nonzero(scores >= self.spec.min_score)
            boxes = decode_boxes(loc[likely], priors[likely]) * zoom
            found.append(select_faces(boxes, scores[likely], self.spec, frames.shape[1:3]))
        return found


def open_retinaface(path: Path, device: Device = "auto") -> RetinaFaceDetector | None:
    """Opens a detector file; None for an ONNX file that does not say it is one."""
    session = open_session(path, device)
    document = read_document(session)
    if document is None:
        return None
    spec = DetectorSpec(kind="retinaface", name=document.name, sha256=hash_file(path))
    return RetinaFaceDetector(session, spec)


def read_document(session: Session) -> DetectorDocument | None:
    """What the file says of itself, or None where it says nothing; refuses one that is not as it says."""
    document = session.read_document(DETECTOR_KEY)
    if document is None:
        return None
    try:
        parsed = DetectorDocument.model_validate(document)
    except ValidationError as error:
        raise FormatError(
            f"{session.path}: its detector document is not of the format unmask-detector/1 "
            f"({error.errors()[0]['msg']}); make it again with `unmask detector`"
        ) from error
    if set(session.inputs) != {"frames"} or set(session.outputs) != set(RawFaces._fields):
        raise FormatError(
            f"{session.path}: found inputs {sorted(session.inputs)} and outputs {sorted(session.outputs)}, "
            f"expected frames and {', '.join(RawFaces._fields)}; make it again with `unmask detector`"
        )
    return parsed


@lru_cache(maxsize=32)
def make_priors(height_px: int, width_px: int) -> NDArray[np.float32]:
    """The boxes that offsets refer to, for a picture of this size: (P, 4) centre x, y, width, height in pixels."""
    levels = []
    for stride, anchors in zip(STRIDES_PX, ANCHORS_PX, strict=True):
        rows, columns, sides = np.meshgrid(
            (np.arange(-(-height_px // stride)) + 0.5) * stride,
            (np.arange(-(-width_px // stride)) + 0.5) * stride,
            np.array(anchors),
            indexing="ij",
        )
        levels.append(np.stack([columns, rows, sides, sides], axis=-1).reshape(-1, 4))
    priors = np.concatenate(levels).astype(np.float32)
    priors.setflags(write=False)  # shared by all callers
    return priors


def decode_boxes(loc: NDArray[np.float32], priors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (n, 4) x0, y0, x1, y1 in the priors' pixels, from offsets (n, 4)."""
    centres = priors[:, :2] + loc[:, :2] * CENTRE_VARIANCE * priors[:, 2:]
    halves = priors[:, 2:] * np.exp(loc[:, 2:] * SIZE_VARIANCE) / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def suppress_overlaps(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], max_iou: float, max_kept: int
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the kept boxes, best first.

    No two kept boxes overlap by more than `max_iou`. Equal scores are ordered by their boxes, so that the
    answer does not depend on the order of the input.
    """
    left = np.lexsort((*boxes.T, -scores))
    kept: list[np.intp] = []
    while left.size and len(kept) < max_kept:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[compute_iou(boxes[best][None], boxes[left])[0] <= max_iou]
    return np.array(kept, dtype=np.intp)


def select_faces(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], spec: DetectorSpec, frame_px: tuple[int, ...]
) -> Detections:
    """Applies the spec's limits to candidates (n, 4) of one frame of (height, width), and clips to the frame."""
    limits = np.array([frame_px[1], frame_px[0]] * 2, dtype=np.float32)
    clipped = np.clip(boxes, 0, limits)
    # A box wholly outside the frame shows nothing; NaN fails every comparison.
    (usable,) = np.nonzero((scores >= spec.min_score) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    kept = usable[suppress_overlaps(boxes[usable], scores[usable], spec.nms_iou, spec.max_faces)]
    return Detections(clipped[kept].astype(np.float32), scores[kept].astype(np.float32))


def shrink_frames(frames: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """Frames (N, H, W, 3), area-resampled so that the longer side is at most `max_side_px`; never enlarged."""
    height, width = frames.shape[1:3]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return frames
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.empty((len(frames), *size, 3), dtype=np.uint8)
    for frame, target in zip(frames, small, strict=True):
        cv2.resize(frame, size[::-1], dst=target, interpolation=cv2.INTER_AREA)
    return small


def compute_zoom(frames: NDArray[np.uint8], small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Factors (4,) that take x0, y0, x1, y1 from a shrunk frame to the frame it was made from."""
    height, width = (frames.shape[axis] / small.shape[axis] for axis in (1, 2))
    return np.array([width, height, width, height], dtype=np.float32)
