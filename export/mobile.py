"""A model for phones: `.ort` files of fixed shapes, the operators that a small runtime needs, and what to expect.

scorer.ort, features.ort, head.ort          one clip of the usual length; head_stream.ort, one frame
detector.ort                                any picture size: frames are not all alike
required_operators.config                   for a build of ONNX Runtime that holds nothing else
usability.txt                               what ONNX Runtime says of NNAPI, CoreML and the CPU
mobile.json                                 shapes, files, sha256, and the contract (some runtimes hide a file's own)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from export.bundle import DETECTOR, FEATURES, HEAD, SCORER, STREAM, open_model_folder
from export.contract import Contract, read_contract
from extract.errors import UnmaskError, UsageError
from extract.files import hash_file, write_directory_aside
from extract.onnx_files import fix_axes, load_model
from extract.session import open_session

FORMAT = "unmask-mobile/1"
DOCUMENT, OPERATORS, USABILITY = "mobile.json", "required_operators.config", "usability.txt"
TOOLS = "onnxruntime.tools"
PATIENCE_S = 600.0


def write_mobile(model: Path, out: Path) -> dict[str, Any]:
    """Writes the folder `out` from a model folder, whole or not at all; returns its document."""
    require_free(out)
    folder = open_model_folder(model)
    contract = read_contract(open_session(folder.scorer, "cpu"))
    frames = contract.clip_frames
    shapes: dict[str, dict[str, int]] = {
        SCORER: {"B": 1, "T": frames},
        FEATURES: {"N": frames},
        HEAD: {"B": 1, "T": frames},
        STREAM: {"B": 1},
        DETECTOR: {},
    }
    with TemporaryDirectory() as temporary, write_directory_aside(out) as written:
        fixed = Path(temporary)
        present = {name: axes for name, axes in shapes.items() if (model / name).is_file()}
        for name, axes in present.items():
            fix_axes(load_model(model / name), axes, fixed / name)
        _run_tool(
            "convert_onnx_models_to_ort", "--optimization_style", "Fixed", "--target_platform", "arm",
            "--output_dir", str(written), str(fixed),
        )  # fmt: skip
        _keep_operators(written)
        reports = [f"{name}\n{_run_tool('check_onnx_model_mobile_usability', str(fixed / name))}" for name in present]
        (written / USABILITY).write_text("\n".join(reports).replace(f"{fixed}/", ""), encoding="utf-8")
        document = _describe(written, present, contract, folder.scorer_sha256)
        (written / DOCUMENT).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document


def require_free(out: Path) -> None:
    """Refuses a folder that holds something else."""
    if out.is_dir() and (not any(out.iterdir()) or (out / DOCUMENT).is_file()):
        return
    if out.exists():
        raise UsageError(f"{out} exists and holds no mobile model; choose another --mobile")


def _run_tool(name: str, *arguments: str) -> str:
    """What a tool of ONNX Runtime prints; it runs in a process of its own, since it may end it."""
    command = [sys.executable, "-m", f"{TOOLS}.{name}", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnmaskError(f"{TOOLS}.{name} did not end within {PATIENCE_S:.0f} s; nothing was written") from error
    if done.returncode != 0:
        words = [f"exit status {done.returncode}", *(done.stderr.strip() or done.stdout.strip()).splitlines()][-1]
        raise UnmaskError(f"{TOOLS}.{name} failed ({words[:300]}); nothing was written")
    return f"{done.stdout}{done.stderr}".strip() + "\n"


def _keep_operators(folder: Path) -> None:
    """Gives the list of operators, which the tool names after what it converted, its one name."""
    found = sorted(folder.glob("*.config"))
    if len(found) != 1:
        raise UnmaskError(f"{TOOLS} wrote {len(found)} lists of operators, expected one; nothing was written")
    found[0].rename(folder / OPERATORS)


def _describe(folder: Path, shapes: Mapping[str, Mapping[str, int]], contract: Contract, scorer: str) -> dict[str, Any]:
    files = {}
    for path in sorted(folder.glob("*.ort")):
        session = open_session(path, "cpu")  # which shows that it loads
        files[path.name] = {
            "sha256": hash_file(path),
            "bytes": path.stat().st_size,
            "inputs": {name: list(shape) for name, (_, shape) in session.inputs.items()},
        }
    missing = {name.replace(".onnx", ".ort") for name in shapes} - set(files)
    if missing:
        raise UnmaskError(f"{TOOLS} did not convert {', '.join(sorted(missing))}; nothing was written")
    return {
        "format": FORMAT,
        "scorer_sha256": scorer,
        "files": files,
        "contract": contract.model_dump(mode="json"),
    }
