"""The graph of a backbone file in 8-bit integers: static QDQ, calibrated on crops, the normalisation left as it is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.onnx_files import FRONT, align_versions, load_model, name_nodes, require_standard

if TYPE_CHECKING:
    from onnx.onnx_pb import ModelProto

BATCH = 8
# What the first layers round, every later one sees. Of EfficientNet-Lite0 in 8 bits, on 16 face crops, the typical
# error is 0.50 deviations of a feature, with so many convolutions left in single precision 0.35 (one), 0.26 (three),
# 0.20 (six) and 0.20 (nine).
KEPT = 6
# Where the time goes. What a convolution's result passes through on its way to the next one joins it, so that it stays
# in integers; the mean over the last map does not, which alone would leave a feature 256 values.
COUNTED = ("Conv", "Gemm", "MatMul")
PASSED = ("Add", "Mul", "Clip", "Relu", "MaxPool")


def quantise_network(parent: Path, crops: NDArray[np.uint8]) -> ModelProto:
    """The network of a backbone file with 8-bit weights (signed, a scale for each channel) and activations (unsigned).

    `crops` (n, S, S, 3) decide the range of each activation. The normalisation and the first convolutions stay in
    single precision.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _quietly():
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(parent), str(prepared), skip_symbolic_shape=True)
        model = name_nodes(load_model(prepared))
        quantize_static(
            model,
            str(written),
            _CropReader(crops),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*COUNTED, *PASSED],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_list_kept(model),
        )
        model = align_versions(load_model(written))
    require_standard(model, "quantising made them, so use the file in fp32")
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the advice that ONNX Runtime logs while it quantises."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)


def _list_kept(model: ModelProto) -> list[str]:
    """Names of the nodes that stay in single precision: the normalisation and the first convolutions."""
    front = [node.name for node in model.graph.node if node.name.startswith(FRONT)]
    return front + [node.name for node in model.graph.node if node.op_type == "Conv"][:KEPT]


class _CropReader:
    """Feeds crops to the calibration of ONNX Runtime, a batch at a time."""

    def __init__(self, crops: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(crops, range(BATCH, len(crops), BATCH)))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None behind the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"crops": batch}
