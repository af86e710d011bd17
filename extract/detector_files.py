"""Makes detector.onnx files: every RetinaFace behind one signature, with its preprocessing inside.

A detector file takes `frames`, uint8 RGB (N, H, W, 3), and gives `loc` (N, P, 4), `conf` (N, P, 2) after softmax
and `landmarks` (N, P, 10); `extract/retinaface.py` makes faces of them. Making one needs onnx, and torch for
RetinaFace ResNet-50; running one needs neither.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.detector_sources import (
    Preprocessing,
    RawNetwork,
    describe_foreign,
    export_resnet,
    extract_mobile,
    require_packages,
)
from extract.errors import FormatError, UsageError
from extract.files import hash_file, write_aside
from extract.retinaface import DETECTOR_KEY, DetectorDocument, RawFaces, make_priors, read_document
from extract.session import Session, open_session
from extract.specs import DetectorSpec

if TYPE_CHECKING:
    from onnx.onnx_pb import ModelProto


FILE_VERSION = 1  # raised when the same network gives another file, so that kept ones are made again
PROBE_PX = (75, 107)  # height, width: multiples of no stride
BUILDERS: dict[str, Callable[[Path], RawNetwork]] = {
    "retinaface": lambda folder: export_resnet(None, folder),
    "retinaface-mobile": extract_mobile,
}
BUILT_IN = tuple(BUILDERS)


def make_detector(
    source: str, out: Path, weights: str | None = None, preprocessing: Preprocessing | None = None
) -> DetectorSpec:
    """Writes a detector file for a built-in name or a raw RetinaFace FILE.onnx.

    `weights` (a FILE or random:SEED) is for `retinaface`, `preprocessing` for a FILE.onnx.
    """
    if weights is not None and source != "retinaface":
        raise UsageError(f"--weights goes with the detector retinaface, not with {source}")
    if preprocessing is not None and source in BUILT_IN:
        raise UsageError(f"the preprocessing of {source} is known; mean, std and channel order go with a FILE.onnx")
    if source == "mtcnn":
        raise UsageError("mtcnn has no detector file, its package carries it; name it where a detector is asked for")
    if source in BUILT_IN and weights is None:
        _copy(provide_built_in(source), out)
    elif source in BUILT_IN:
        with TemporaryDirectory() as folder:
            wrap_network(export_resnet(weights, Path(folder)), out)
    else:
        path = Path(source)
        if not path.is_file():
            raise UsageError(f"no such detector: {source}; give {' or '.join(BUILT_IN)}, or an existing FILE.onnx")
        _wrap_foreign(path, preprocessing, out)
    document = read_document(open_session(out, "cpu"))
    assert document is not None  # just written
    return DetectorSpec(kind="retinaface", name=document.name, sha256=hash_file(out))


def provide_built_in(name: str) -> Path:
    """The user's detector file of a built-in name, made at first use."""
    kept = _find_kept(name)
    if kept is not None:
        return kept
    with TemporaryDirectory() as folder:
        return _keep(BUILDERS[name](Path(folder)))


def provide_wrapped(path: Path) -> Path:
    """The user's detector file for a raw RetinaFace file with the usual preprocessing, made at first use."""
    network = describe_foreign(path)
    return _find_kept(network.name) or _keep(network)


def find_detector_file(spec: DetectorSpec) -> Path:
    """The user's kept detector file that a spec names."""
    for path in _list_kept(f"{spec.name}-v"):
        if path.stem.endswith(f"-{spec.sha256}") and hash_file(path) == spec.sha256:
            return path
    raise UsageError(
        f"the file of the detector {spec.name} (sha256 {spec.sha256}) is not among those kept in {keep_folder()}; "
        "name the file that was used"
    )


def keep_folder() -> Path:
    """Where detector files are kept for the user; UNMASK_CACHE moves it."""
    return Path(os.environ.get("UNMASK_CACHE") or Path.home() / ".cache" / "unmask") / "detectors"


def wrap_network(network: RawNetwork, out: Path) -> None:
    """Writes a raw RetinaFace behind the detector files' signature; the same network gives the same bytes."""
    require_packages("a detector file", "onnx")
    from extract.onnx_files import align_versions, load_model, save_model

    probe = _probe(network.path)
    model = _rewire(align_versions(load_model(network.path)), probe, network.preprocessing)
    document = DetectorDocument(name=network.name, weights=network.weights, weights_sha256=network.weights_sha256)
    save_model(model, out, DETECTOR_KEY, document.model_dump())


def _wrap_foreign(path: Path, preprocessing: Preprocessing | None, out: Path) -> None:
    """Wraps a FILE.onnx, or copies one that is a detector file already."""
    if read_document(open_session(path, "cpu")) is None:
        wrap_network(describe_foreign(path, preprocessing), out)
    elif preprocessing is None:
        _copy(path, out)
    else:
        raise UsageError(f"{path} is a detector file already, with its preprocessing inside; give the raw network")


def _copy(path: Path, out: Path) -> None:
    with write_aside(out) as temporary:
        shutil.copyfile(path, temporary)


def _keep(network: RawNetwork) -> Path:
    """Makes a detector file in the user's folder, under a name that ends in its sha256."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "detector.onnx"
        wrap_network(network, made)
        kept = keep_folder() / f"{network.name}-v{FILE_VERSION}-{hash_file(made)}.onnx"
        _copy(made, kept)
    return kept


def _find_kept(name: str) -> Path | None:
    """A kept file whose content is still what its name says; a damaged one is made again."""
    return next((p for p in _list_kept(f"{name}-v{FILE_VERSION}-") if p.stem.endswith(hash_file(p))), None)


def _list_kept(begin: str) -> Iterator[Path]:
    return iter(sorted(keep_folder().glob(f"{begin}*.onnx")))


@dataclass(frozen=True)
class _Probe:
    input_name: str
    output_names: dict[str, str]  # ours to theirs
    softmaxed: bool


def _probe(path: Path) -> _Probe:
    """Runs a raw file once to see whether it is a RetinaFace, and which output is which."""
    session = open_session(path, "cpu")
    input_name = _find_pixels(session)
    noise = np.random.default_rng(0).uniform(-120, 130, (2, 3, *PROBE_PX)).astype(np.float32)
    try:
        answer = session.run({input_name: noise})
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        text = " ".join(str(error).split())
        raise FormatError(
            f"{path} does not run on a batch of two {PROBE_PX[1]}x{PROBE_PX[0]} frames: {text[:200]}"
        ) from error
    found = {name: array.shape for name, array in answer.items()}
    priors = len(make_priors(*PROBE_PX))
    wanted = {"loc": (2, priors, 4), "conf": (2, priors, 2), "landmarks": (2, priors, 10)}
    if sorted(found.values()) != sorted(wanted.values()):
        raise FormatError(
            f"{path} is not a RetinaFace with strides 8, 16, 32 and two anchors each: for two "
            f"{PROBE_PX[1]}x{PROBE_PX[0]} frames found outputs {found}, expected {wanted}; export the network "
            "without its decoding, or use the detector retinaface-mobile"
        )
    names = {shape: name for name, shape in found.items()}
    output_names = {ours: names[shape] for ours, shape in wanted.items()}
    return _Probe(input_name, output_names, _sums_to_one(answer[output_names["conf"]]))


def _find_pixels(session: Session) -> str:
    """The name of the one float (N, 3, H, W) input; refuses a session without."""
    described = ", ".join(f"{name} {kind} {list(shape)}" for name, (kind, shape) in session.inputs.items())
    expected = "one input tensor(float) [N, 3, H, W]"
    if len(session.inputs) != 1:
        raise FormatError(f"{session.path} is not a raw RetinaFace: found inputs {described}, expected {expected}")
    name, (kind, shape) = next(iter(session.inputs.items()))
    if kind != "tensor(float)" or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise FormatError(f"{session.path} is not a raw RetinaFace: found input {described}, expected {expected}")
    if any(isinstance(shape[axis], int) for axis in (0, 2, 3)):
        raise FormatError(
            f"{session.path} takes one size only: found input {described}, expected {expected}; "
            "export it again with dynamic batch, height and width"
        )
    return str(name)


def _sums_to_one(conf: NDArray[np.float32]) -> bool:
    return bool((conf >= 0).all() and np.allclose(conf.sum(axis=-1), 1, atol=1e-3))


def _rewire(raw: ModelProto, probe: _Probe, preprocessing: Preprocessing) -> ModelProto:
    """The same network, with frames in and RawFaces out."""
    from onnx import TensorProto, compose, helper

    inner = compose.add_prefix(raw, "net/")
    graph = inner.graph
    before = _make_preprocessing(preprocessing, f"net/{probe.input_name}", inner)
    after = [
        helper.make_node(
            "Softmax" if ours == "conf" and not probe.softmaxed else "Identity",
            [f"net/{theirs}"],
            [ours],
            f"name/{ours}",
        )
        for ours, theirs in probe.output_names.items()
    ]
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", "H", "W", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "P", width])
        for name, width in zip(RawFaces._fields, (4, 2, 10), strict=True)
    ]
    nodes = [*before, *graph.node, *after]
    clean = helper.make_graph(nodes, "detector", [frames], outputs, list(graph.initializer))
    model = helper.make_model(clean, producer_name="unmask", opset_imports=inner.opset_import)
    model.functions.extend(inner.functions)
    model.ir_version = inner.ir_version
    return model


def _make_preprocessing(preprocessing: Preprocessing, pixels: str, model: ModelProto) -> list[Any]:
    """Nodes from `frames` to the network's float (N, 3, H, W) input; their constants go into the model."""
    from onnx import TensorProto, helper, numpy_helper

    # Planes first: reordering three planes costs nothing, reordering every pixel's bytes as much as the network.
    constants: dict[str, NDArray[Any]] = {
        "pre/order": np.array([0, 1, 2] if preprocessing.rgb else [2, 1, 0], np.int64),
        "pre/mean": np.array(preprocessing.mean, np.float32).reshape(3, 1, 1),
        "pre/std": np.array(preprocessing.std, np.float32).reshape(3, 1, 1),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return [
        helper.make_node("Transpose", ["frames"], ["pre/planes"], "pre/transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["pre/planes", "pre/order"], ["pre/ordered"], "pre/gather", axis=1),
        helper.make_node("Cast", ["pre/ordered"], ["pre/float"], "pre/cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pre/float", "pre/mean"], ["pre/centred"], "pre/sub"),
        helper.make_node("Div", ["pre/centred", "pre/std"], [pixels], "pre/div"),
    ]
