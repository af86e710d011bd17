"""Backbone files in use: `backbone.onnx` takes uint8 RGB crops (N, S, S, 3) and gives features (N, D)."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from extract.errors import FormatError, UnmaskError
from extract.files import hash_file
from extract.session import CUDA, Device, Session, open_session
from extract.specs import BackboneSpec

FORMAT = "unmask-backbone/1"
KEY = "unmask.backbone"
MEANINGS = {
    "crops": "uint8 (N, S, S, 3): RGB face crops; normalisation is inside",
    "features": "float32 (N, D): what the network's classifying layer would receive",
}
BATCH = 16  # ResNeXt-50 on a CPU is no faster beyond, and memory grows
CUDA_BATCH = 64  # not measured: no GPU was at hand, and 16 crops are little work for one

Real = TypeVar("Real", np.float32, np.float64)


class Backbone:
    """A backbone file loaded for inference; `provider` names what really runs it, `batch` how many crops at once.

    On the CPU a crop's features are the same to the bit in every batch, at every place of it: crops of several
    videos may share one. `embed` may be called from several threads.
    """

    def __init__(self, path: Path, device: Device = "auto") -> None:
        self.path = path
        self._session = open_session(path, device)
        self.spec = _read_spec(self._session)
        self.provider = self._session.provider
        self.batch = CUDA_BATCH if self.provider == CUDA else BATCH

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (N, D) of crops (N, S, S, 3), any number of them, a batch at a time."""
        expected = (self.spec.crop_px, self.spec.crop_px, 3)
        if crops.shape[1:] != expected or crops.dtype != np.uint8:
            raise UnmaskError(f"crops are {crops.dtype} {crops.shape[1:]}, {self.spec.name} expects uint8 {expected}")
        features = np.empty((len(crops), self.spec.dim), np.float32)
        for start in range(0, len(crops), self.batch):
            batch = slice(start, start + self.batch)
            features[batch] = self._session.run({"crops": crops[batch]})["features"]
        return features


def measure_feature_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference of features (N, D), each dimension measured in its own standard deviation over N.

    Random weights give features of any size, so an absolute difference says nothing. A dimension that hardly
    moves (a dead unit) is measured against a hundredth of the mean deviation instead of its own.
    """
    return float(_compare_features(found, expected).max())


def measure_typical_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Root mean square of the same differences: one rare feature does not decide it."""
    return float(np.sqrt(np.square(_compare_features(found, expected)).mean()))


def _compare_features(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.abs(found - expected) / raise_small(expected.std(axis=0)), np.float32)


def raise_small(deviation: NDArray[Real]) -> NDArray[Real]:
    """Standard deviations (D,) to measure differences in; none below a hundredth of their mean."""
    return np.maximum(deviation, max(float(deviation.mean()) / 100, 1e-12))


def _read_spec(session: Session) -> BackboneSpec:
    path = session.path
    document = session.read_document(KEY)
    if document is None:
        raise FormatError(f"{path} is no backbone file; wrap an ONNX model with `unmask backbone {path} --out ...`")
    if document.get("format") != FORMAT:
        raise FormatError(f"{path} has the format {document.get('format')!r}, expected {FORMAT!r}; make it again")
    known = {key: value for key, value in document.items() if key in BackboneSpec.model_fields}
    try:
        return BackboneSpec.model_validate({**known, "sha256": hash_file(path)})
    except ValueError as error:
        raise FormatError(f"{path}: its description is not understood ({error}); make it again") from error
