"""Stand-ins with known answers: a detector that says where the face is, and small networks as ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from extract.backbone_files import wrap_backbone
from extract.detectors import Detections
from extract.specs import BackboneSpec, DetectorSpec, Fingerprint


class FixedDetector:
    """Finds the boxes it was told, in every frame that is not black."""

    def __init__(
        self, *boxes: tuple[float, float, float, float], score: float = 0.9, spec: DetectorSpec | None = None
    ) -> None:
        self.spec = spec or DetectorSpec(kind="mtcnn", name="fixed", package="fixed==1")
        self.provider = "test"
        self.path: Path | None = None
        self._boxes = np.array(boxes, np.float32).reshape(-1, 4)
        self._score = score
        self.batches: list[tuple[int, ...]] = []

    def detect(self, frames: NDArray[np.uint8]) -> list[Detections]:
        """The boxes, or none for a black frame."""
        self.batches.append(frames.shape)
        count = [len(self._boxes) if frame.max() > 3 else 0 for frame in frames]
        return [Detections(self._boxes[:n], np.full(n, self._score, np.float32)) for n in count]


def write_tiny_network(
    path: Path, dim: int = 8, crop_px: int | str = 32, batch: int | str = "N", seed: int = 0
) -> Path:
    """An ONNX network as a user may have one: float (N, 3, S, S) -> (N, dim), convolution, ReLU, mean."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 0.4, (dim, 3, 5, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "kernel"], ["edges"], strides=[3, 3]),
            helper.make_node("Relu", ["edges"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["features"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, crop_px, crop_px])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, dim, 1, 1])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def make_tiny_backbone(folder: Path, dim: int = 8, crop_px: int = 32, seed: int = 0) -> Path:
    """A backbone file of the tiny network."""
    out = folder / f"backbone-{dim}-{crop_px}-{seed}.onnx"
    wrap_backbone(write_tiny_network(folder / f"tiny-{seed}.onnx", dim, crop_px, seed=seed), out)
    return out


def make_fingerprint(dim: int = 8, trained: bool = True) -> Fingerprint:
    """A fingerprint of things that do not exist."""
    backbone = BackboneSpec(
        name="tiny", sha256="0" * 64, weights="random:0", weights_sha256="0" * 64, dim=dim, crop_px=32, trained=trained
    )
    return Fingerprint(backbone=backbone, detector=DetectorSpec(kind="mtcnn", name="fixed", package="fixed==1"))


def write_deep_network(path: Path, convolutions: int, crop_px: int = 32, seed: int = 0) -> Path:
    """The same with several convolutions one after the other, each with a ReLU."""
    rng = np.random.default_rng(seed)
    nodes, kernels, width = [], [], 3
    for number in range(convolutions):
        kernel = rng.normal(0, (2 / (9 * width)) ** 0.5, (8, width, 3, 3)).astype(np.float32)
        kernels.append(numpy_helper.from_array(kernel, f"kernel{number}"))
        source = f"positive{number}" if number else "picture"
        strides = [2, 2] if number < 2 else [1, 1]
        nodes.append(
            helper.make_node("Conv", [source, f"kernel{number}"], [f"edges{number}"], strides=strides, pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"edges{number}"], [f"positive{number + 1}"]))
        width = 8
    nodes.append(helper.make_node("GlobalAveragePool", [f"positive{convolutions}"], ["features"]))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, crop_px, crop_px])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 8, 1, 1])],
        kernels,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def write_raw_detector(
    path: Path,
    *,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    dims: tuple[str | int, ...] = ("N", 3, "H", "W"),
    widths: tuple[int, ...] = (10, 4, 2),
    strides: tuple[int, ...] = (8, 16, 32),
    softmax: bool = False,
) -> Path:
    """A small network with RetinaFace's outputs, as a foreign exporter might leave it."""
    random = np.random.default_rng(3)
    nodes, constants, outputs = [], [], []
    for width in widths:
        constants.append(numpy_helper.from_array(np.array([0, -1, width]), f"shape{width}"))
        for stride in strides:
            kernel = random.normal(0, 0.01, (2 * width, 3, 1, 1)).astype(np.float32)
            name = f"{width}_{stride}"
            constants.append(numpy_helper.from_array(kernel, f"kernel{name}"))
            nodes += [
                helper.make_node("Conv", ["conf", f"kernel{name}"], [f"conv{name}"], strides=[stride, stride]),
                helper.make_node("Transpose", [f"conv{name}"], [f"last{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"last{name}", f"shape{width}"], [f"rows{name}"]),
            ]
        rows = [f"rows{width}_{stride}" for stride in strides]
        nodes.append(helper.make_node("Concat", rows, [f"all{width}"], axis=1))
        last = "Softmax" if softmax and width == 2 else "Identity"
        nodes.append(helper.make_node(last, [f"all{width}"], [f"out{width}"]))  # Softmax is over the last axis
        outputs.append(helper.make_tensor_value_info(f"out{width}", TensorProto.FLOAT, ["N", "P", width]))
    # The input has the name of one of our outputs, which must not matter.
    graph = helper.make_graph(nodes, "raw", [helper.make_tensor_value_info("conf", kind, dims)], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    path.write_bytes(model.SerializeToString())
    return path
