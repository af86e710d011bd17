"""The one door to ONNX Runtime: sessions whose device is the one that was asked for."""

from __future__ import annotations

import ctypes
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from extract.errors import DeviceError, FormatError, UsageError

Device = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class Session:
    """An ONNX model loaded for inference: arrays in, arrays out."""

    def __init__(self, raw: Any, path: Path) -> None:
        self._raw = raw
        self.path = path
        self.provider: str = raw.get_providers()[0]
        self.metadata: dict[str, str] = dict(raw.get_modelmeta().custom_metadata_map)
        # (element type, shape) by name; a dynamic axis is a string or None
        self.inputs = {i.name: (str(i.type), tuple(i.shape)) for i in raw.get_inputs()}
        self.outputs = {o.name: (str(o.type), tuple(o.shape)) for o in raw.get_outputs()}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs the model once; outputs by name."""
        names = list(self.outputs)
        return dict(zip(names, self._raw.run(names, dict(feeds)), strict=True))

    def read_document(self, key: str) -> Any:
        """The JSON document stored under `key` in the model's metadata, or None."""
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise FormatError(f"{self.path}: its metadata {key!r} is not JSON; the file is damaged") from error


def open_session(path: Path, device: Device = "auto") -> Session:
    """Loads an ONNX file.

    `auto` takes CUDA where it works and the CPU elsewhere; `cuda` that cannot run on CUDA is a DeviceError,
    never a fallback.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    if device == "cpu":
        return _load(path, [CPU])
    reason = explain_missing_cuda()
    if reason is None:
        session = _load(path, [CUDA, CPU])
        if session.provider == CUDA or device == "auto":
            return session
        reason = f"CUDA did not start for {path}"
    if device == "cuda":
        raise DeviceError(
            f"--device cuda cannot run here: {reason}; install unmask[cuda] and an NVIDIA driver, or use --device cpu"
        )
    return _load(path, [CPU])


@cache
def explain_missing_cuda() -> str | None:
    """Why CUDA cannot run in this process, or None where it may; a session that loads is the proof."""
    ort = _import_runtime()
    if CUDA not in ort.get_available_providers():
        return "the installed onnxruntime is built without CUDA"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver reports no device"
    ort.preload_dlls()  # finds CUDA's libraries in the nvidia-* packages, without torch
    return None


@cache
def _import_runtime() -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # a failed CUDA start prints pages; we say it in a sentence
    return onnxruntime


def _load(path: Path, providers: list[str]) -> Session:
    ort = _import_runtime()
    try:
        return Session(ort.InferenceSession(str(path), providers=providers), path)
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        text = " ".join(str(error).split())
        raise FormatError(
            f"{path} is not an ONNX model that onnxruntime {ort.__version__} loads: {text[:300]}"
        ) from error
