"""A backbone file in lower precision, made from its fp32 parent, kept only if it runs and gives nearly its features."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.backbones import FORMAT, KEY, MEANINGS, Backbone, measure_feature_error, measure_typical_error
from extract.calibration import CalibrationCrops
from extract.errors import FormatError, UnmaskError, UsageError
from extract.files import translate_os_errors, write_aside
from extract.half import halve_network, round_network
from extract.onnx_files import load_model, save_model
from extract.quantise import quantise_network
from extract.specs import BackboneSpec, Precision
from extract.synthetic import make_crops

if TYPE_CHECKING:
    from onnx.onnx_pb import ModelProto

CROPS = 32
WORDS: dict[Precision, str] = {"fp32": "single precision", "fp16": "half precision", "int8": "8-bit integers"}
# In deviations of a feature. The features of another crop differ by 1.2 typically and 5.8 at most (EfficientNet-Lite0,
# ImageNet weights, these crops); half precision by 0.022 and 1.09, and by 0.003 and 0.08 in ResNeXt-50 of random
# weights. A typical 0.1 is noise of a hundredth of a feature's variance; the largest is of a feature that hardly moves.
# In 8 bits it is 0.20 and 3.4 (EfficientNet-Lite0, 16 face crops that did not calibrate). What that costs a detector is
# measured where it is exported.
MOST_TYPICAL_ERROR: dict[Precision, float] = {"fp16": 0.1, "int8": 0.4}
MOST_FEATURE_ERROR: dict[Precision, float] = {"fp16": 3.0, "int8": 10.0}
# Where half precision moves features by more, so many convolutions at the front stay as they are: of EfficientNet-Lite0
# that takes a clip's probability from 0.0065 off to 0.0039, for 1 % of the file.
LITTLE_ERROR, KEPT_CONVOLUTIONS = 0.01, 12
JUDGED = 4  # one of so many calibration crops is kept back to measure the error on
PATIENCE_S = 600.0
EMBED = """
import sys
from pathlib import Path
import numpy as np
from extract.backbones import Backbone
model, crops, features = map(Path, sys.argv[1:])
np.save(features, Backbone(model, "cpu").embed(np.load(crops)))
"""


@dataclass(frozen=True)
class MadeBackbone:
    """A backbone file as written; where it was converted, how far its features are from its parent's, in deviations.

    They were compared on `crops` crops: synthetic ones in half precision, real ones that did not calibrate in 8 bits.
    """

    spec: BackboneSpec
    feature_error: float | None = None  # the largest
    typical_error: float | None = None  # the root mean square
    crops: int = 0

    def to_document(self) -> dict[str, Any]:
        """A JSON document: the spec, and the errors of a conversion."""
        errors = {"feature_error": self.feature_error, "typical_error": self.typical_error, "crops": self.crops}
        return self.spec.model_dump(mode="json") | (errors if self.feature_error is not None else {})

    def __str__(self) -> str:
        spec = self.spec
        text = f"{spec.name}, {spec.dim}-d features of {spec.crop_px} px crops, {spec.weights}"
        if self.feature_error is not None:
            text += (
                f", {spec.precision}: {self.typical_error:.2g} deviations of a feature from its fp32 parent typically, "
                f"{self.feature_error:.2g} at most ({self.crops} crops)"
            )
        return text if spec.trained else f"{text} (UNTRAINED: random weights, its scores mean nothing)"


def halve_backbone(parent: Path, out: Path) -> MadeBackbone:
    """Writes the fp32 backbone file `parent` with weights and arithmetic in half precision.

    Crops, normalisation and the type of the features stay as they are. The same parent gives the same bytes.
    """
    original = _open_parent(parent, out)
    conversion = _Conversion(original, "fp16", make_crops(CROPS, original.spec.crop_px, seed=0))
    kept = _choose_kept(conversion, parent)

    def embed_rounded(path: Path) -> NDArray[np.float32]:
        conversion.write(lambda: round_network(load_model(parent), kept), path)
        return Backbone(path, "cpu").embed(conversion.crops)

    return conversion.make(lambda: halve_network(load_model(parent), kept), out, embed_rounded)


def _choose_kept(conversion: _Conversion, parent: Path) -> int:
    """How many convolutions stay in single precision: none, but where rounding the weights alone moves features."""
    with TemporaryDirectory() as folder:
        rounded = Path(folder) / "rounded.onnx"
        conversion.write(lambda: round_network(load_model(parent)), rounded)
        found = Backbone(rounded, "cpu").embed(conversion.crops)
    error = measure_typical_error(found, conversion.original.embed(conversion.crops))
    return KEPT_CONVOLUTIONS if error > LITTLE_ERROR else 0


def quantise_backbone(parent: Path, out: Path, calibration: CalibrationCrops) -> MadeBackbone:
    """Writes the fp32 backbone file `parent` with weights and activations in 8 bits.

    Three of four calibration crops give the activations their ranges; on the others the error is measured.
    """
    original = _open_parent(parent, out)
    calibration.require_fit(original.spec)
    judged = np.arange(len(calibration.crops)) % JUDGED == JUDGED - 1
    conversion = _Conversion(original, "int8", calibration.crops[judged], {"calibration": calibration.describe()})
    fitted = calibration.crops[~judged]
    return conversion.make(lambda: quantise_network(parent, fitted), out)


def _open_parent(parent: Path, out: Path) -> Backbone:
    if out.resolve() == parent.resolve():
        raise UsageError(f"{out} is the fp32 file itself, which exporting needs again; give another --out")
    original = Backbone(parent, "cpu")
    if original.spec.precision != "fp32":
        raise UsageError(f"{parent} is {original.spec.precision} already; convert the fp32 file it was made from")
    return original


@dataclass(frozen=True)
class _Conversion:
    """A parent on its way to another precision, and the crops that its features are compared on."""

    original: Backbone
    precision: Precision
    crops: NDArray[np.uint8]
    notes: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """What refusals call it."""
        return f"{self.original.spec.name} in {WORDS[self.precision]}"

    def make(
        self,
        change: Callable[[], ModelProto],
        out: Path,
        embed_otherwise: Callable[[Path], NDArray[np.float32]] | None = None,
    ) -> MadeBackbone:
        """Writes the changed model to `out` if a process of its own runs it and its features are close.

        `embed_otherwise` gives the features of the same precision computed in another way; the worse of both counts.
        """
        with translate_os_errors(out), TemporaryDirectory() as folder:
            trial = Path(folder) / "backbone.onnx"
            self.write(change, trial)
            found = [_embed_apart(trial, self.crops, self.name)]
            if embed_otherwise is not None:
                found.append(embed_otherwise(Path(folder) / "otherwise.onnx"))
            largest, typical = self._require_close(found)
            with write_aside(out) as temporary:
                shutil.copyfile(trial, temporary)
        return MadeBackbone(Backbone(out, "cpu").spec, largest, typical, len(self.crops))

    def write(self, change: Callable[[], ModelProto], path: Path) -> None:
        """Writes a changed model with the parent's description."""
        spec = self.original.spec
        described = spec.model_dump(mode="json", exclude={"sha256"}) | (self.notes or {})
        document = {**described, "format": FORMAT, "precision": self.precision, "parent": spec.sha256}
        try:
            with translate_os_errors(path):
                save_model(change(), path, KEY, document, MEANINGS)
        except UnmaskError:
            raise
        except Exception as error:  # the converters, onnx and its checker each have their own errors
            text = " ".join(str(error).split())
            raise FormatError(
                f"{spec.name} cannot be had in {WORDS[self.precision]} ({text[:200]}); use it in fp32"
            ) from error

    def _require_close(self, found: list[NDArray[np.float32]]) -> tuple[float, float]:
        """The largest and the typical error, each of the worse of `found`."""
        if not all(np.isfinite(features).all() for features in found):
            raise UnmaskError(
                f"{self.name} gives features that are not finite: values inside it pass what it can hold; "
                "nothing was written, use it in fp32"
            )
        expected = self.original.embed(self.crops)
        largest = max(measure_feature_error(features, expected) for features in found)
        typical = max(measure_typical_error(features, expected) for features in found)
        most_largest, most_typical = MOST_FEATURE_ERROR[self.precision], MOST_TYPICAL_ERROR[self.precision]
        if not (largest <= most_largest and typical <= most_typical):
            raise UnmaskError(
                f"{self.name} differs by {largest:.2g} deviations of a feature at most and {typical:.2g} "
                f"typically; {most_largest} and {most_typical} are accepted; nothing was written, "
                "use it in fp32"
            )
        return largest, typical


def _embed_apart(path: Path, crops: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """Features of `crops` from a process of its own: a graph may pass every check and still end ONNX Runtime."""
    given, answer = path.with_name("crops.npy"), path.with_name("features.npy")
    np.save(given, crops)
    command = [sys.executable, "-c", EMBED, str(path), str(given), str(answer)]
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command, cwd=root, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnmaskError(
            f"{name} gave no features within {PATIENCE_S:.0f} s; nothing was written, use it in fp32"
        ) from error
    if done.returncode != 0:
        words = [f"exit status {done.returncode}", *done.stderr.strip().splitlines()][-1].replace(str(path), "the file")
        raise UnmaskError(f"{name} ends the process that runs it ({words[:300]}); nothing was written, use it in fp32")
    return np.asarray(np.load(answer), np.float32)
