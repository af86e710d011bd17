"""A Triton model repository: detector and scorer with dynamic batching, warm-up and versions, one more each time.

DIR/scorer/config.pbtxt, 1/model.onnx, warmup/lengths     clips of one length are batched along B
DIR/detector/config.pbtxt, 1/model.onnx                   frames of one size are batched along N
DIR/unmask.json                                           which model each version is, with its contract
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import ModelFolder, open_model_folder
from export.contract import Contract, read_contract
from extract.errors import FormatError, MismatchError, MissingPackageError, UsageError
from extract.files import write_directory_aside
from extract.session import Session, open_session

FORMAT = "unmask-triton/1"
DOCUMENT = "unmask.json"
CONFIG, MODEL, WARMUP = "config.pbtxt", "model.onnx", "warmup"
MOST_CLIPS, MOST_FRAMES = 8, 32  # a batch
QUEUE_US = 2_000  # how long a request may wait for others to batch with
KEPT_VERSIONS = 2  # served at once, so that clients can move from one to the next
FRAME_PX = (360, 640)  # of the warm-up; others work as well
TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float)": "TYPE_FP32",
}


def write_triton(model: Path, out: Path) -> dict[str, Any]:
    """Writes the repository `out` from a model folder, or adds a version to the one that is there; its document.

    The configuration is made and read back with Triton's own schema, so that no field is misspelt.
    """
    folder = open_model_folder(model)
    session = open_session(folder.scorer, "cpu")
    contract = read_contract(session)
    document = _read_repository(out)
    version = str(max(map(int, document["versions"]), default=0) + 1)
    document["versions"][version] = {
        "scorer_sha256": folder.scorer_sha256,
        "contract": contract.model_dump(mode="json"),
    }
    with write_directory_aside(out) as written:
        for name in ("scorer", "detector"):
            if (out / name).is_dir():
                shutil.copytree(out / name, written / name, dirs_exist_ok=True)
        _add_scorer(written / "scorer", version, folder, session, contract)
        if folder.detector is not None:
            _add_detector(written / "detector", version, folder.detector)
        (written / DOCUMENT).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document


def require_place(out: Path) -> None:
    """Refuses, before a model is made for it, a folder of something else, and a Python without Triton's schema."""
    _import_schema()
    _read_repository(out)


def _import_schema() -> Any:
    try:
        from tritonclient.grpc import model_config_pb2
    except RuntimeError as error:  # its words for a client that was installed without grpc
        raise MissingPackageError(
            'tritonclient lacks its grpc part, which brings Triton\'s schema; pip install "unmask[triton]"'
        ) from error
    return model_config_pb2


def _read_repository(out: Path) -> dict[str, Any]:
    """The document of a repository that is there, or of a new one; a folder of something else is refused."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {"format": FORMAT, "versions": {}}
    if not (out / DOCUMENT).is_file():
        raise UsageError(f"{out} exists and is no Triton repository of unmask; choose another --triton")
    try:
        document: dict[str, Any] = json.loads((out / DOCUMENT).read_text(encoding="utf-8"))
        if document["format"] == FORMAT and all(number.isdecimal() for number in document["versions"]):
            return document
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise FormatError(f"{out / DOCUMENT} is no document of the format {FORMAT!r}; choose another --triton")


def _add_scorer(folder: Path, version: str, model: ModelFolder, session: Session, contract: Contract) -> None:
    frames, size_px = contract.clip_frames, contract.backbone.crop_px
    _copy_model(model.scorer, folder / version)
    (folder / WARMUP).mkdir(exist_ok=True)
    (folder / WARMUP / "lengths").write_bytes(np.array([frames], np.int64).tobytes())
    warmup = {
        "crops": {"data_type": "TYPE_UINT8", "dims": [frames, size_px, size_px, 3], "zero_data": True},
        # A length of zero would be no clip.
        "lengths": {"data_type": "TYPE_INT64", "dims": [1], "input_data_file": "lengths"},
    }
    _write_config(folder, _make_config("scorer", session, MOST_CLIPS, warmup))


def _add_detector(folder: Path, version: str, detector: Path) -> None:
    _copy_model(detector, folder / version)
    session = open_session(detector, "cpu")
    (name,) = session.inputs
    warmup = {name: {"data_type": "TYPE_UINT8", "dims": [*FRAME_PX, 3], "zero_data": True}}
    _write_config(folder, _make_config("detector", session, MOST_FRAMES, warmup))


def _copy_model(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / MODEL)


def _make_config(name: str, session: Session, most: int, warmup: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ModelConfig."""
    return {
        "name": name,
        "backend": "onnxruntime",
        "max_batch_size": most,
        "input": [_describe(tensor, *facts) for tensor, facts in session.inputs.items()],
        "output": [_describe(tensor, *facts) for tensor, facts in session.outputs.items()],
        "dynamic_batching": {"max_queue_delay_microseconds": QUEUE_US},
        "version_policy": {"latest": {"num_versions": KEPT_VERSIONS}},
        "model_warmup": [{"name": "one", "batch_size": 1, "inputs": warmup}],
    }


def _describe(name: str, kind: str, shape: tuple[Any, ...]) -> dict[str, Any]:
    """An input or output without its batch axis, which Triton adds; a number for each item is (1,) to Triton."""
    dims = [axis if isinstance(axis, int) else -1 for axis in shape[1:]]
    described = {"name": name, "data_type": TYPES[kind]}
    return described | ({"dims": dims} if dims else {"dims": [1], "reshape": {"shape": []}})


def _write_config(folder: Path, fields: dict[str, Any]) -> None:
    from google.protobuf import json_format, text_format

    new_config = _import_schema().ModelConfig
    config = json_format.ParseDict(fields, new_config())
    text = text_format.MessageToString(config)
    assert text_format.Parse(text, new_config()) == config  # what Triton will read is what was meant
    if (folder / CONFIG).is_file():
        earlier = text_format.Parse((folder / CONFIG).read_text(encoding="utf-8"), new_config())
        if (list(earlier.input), list(earlier.output)) != (list(config.input), list(config.output)):
            raise MismatchError(
                f"the versions of {fields['name']} that are there take or give other tensors than this one, and Triton "
                "has one configuration for all; choose another --triton"
            )
    (folder / CONFIG).write_text(text, encoding="utf-8")
