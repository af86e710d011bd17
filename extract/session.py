"""The one door to ONNX Runtime: sessions whose device is the one that was asked for."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extract.errors import DeviceError, FormatError, UsageError

Device = Literal["auto", "cpu", "cuda"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
# How ONNX Runtime begins to say that a file's opset, or its format, is newer than it knows.
TOO_NEW = ("ONNX Runtime only *guarantees*", "Unsupported model IR version")


class Session:
    """An ONNX model loaded for inference: arrays in, arrays out; several threads may run it at once."""

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
        if self.provider == CUDA:
            return self.run_bound(feeds, "cuda")
        names = list(self.outputs)
        return dict(zip(names, self._raw.run(names, dict(feeds)), strict=True))

    def run_bound(self, feeds: Mapping[str, NDArray[Any]], memory: Literal["cpu", "cuda"]) -> dict[str, NDArray[Any]]:
        """The same with outputs made in the memory of a device: each array crosses to it, and back, once."""
        binding = self._raw.io_binding()  # one a call: threads share the session, never a binding
        for name, array in feeds.items():
            # This copies to the device that reads the input, and waits until it is there.
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self.outputs:
            binding.bind_output(name, memory)  # without a shape: ONNX Runtime allocates when it knows the batch
        self._raw.run_with_iobinding(binding)
        return dict(zip(self.outputs, binding.copy_outputs_to_cpu(), strict=True))

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
        return Session(ort.InferenceSession(str(path), _make_options(), providers=providers), path)
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        text = " ".join(str(error).split())
        for begins in TOO_NEW:
            if begins in text:
                raise FormatError(
                    f"{path} is of a version of ONNX that onnxruntime {ort.__version__} here does not read "
                    f"({text[text.index(begins) :][:200]}); update onnxruntime"
                ) from error
        raise FormatError(
            f"{path} is not an ONNX model that onnxruntime {ort.__version__} loads: {text[:300]}"
        ) from error


def count_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_options() -> Any:
    """Sessions that share the cores with each other, and with processes that decode.

    On two cores, 16 crops through ResNeXt-50 and at the same time ten batches of 8 frames through retinaface-mobile,
    with and without a third process that decodes: 2.10 and 1.77 s as ONNX Runtime sets itself up, 1.94 and 1.77 s
    without spinning, 1.72 and 1.57 s with the number of threads told as well (medians of 9). Not told, every session
    pins its threads, and all of them to the same cores. Each network alone takes as long in all three.
    """
    options = _import_runtime().SessionOptions()
    options.intra_op_num_threads = _count_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _count_cores() -> int:
    """Cores that this process may use, or 0 where only ONNX Runtime knows; two hyperthreads are one core."""
    if sys.platform != "linux":
        return 0
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    allowed = os.sched_getaffinity(0)
    try:
        return len({Path(siblings.format(cpu)).read_text(encoding="ascii") for cpu in allowed})
    except OSError:
        return len(allowed)
