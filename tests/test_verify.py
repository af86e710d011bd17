"""A model proves itself again: hashes, replay, parts; and everything that was changed is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from export.bundle import CARD, DETECTOR, FEATURES, HEAD, SCORER, STREAM
from export.certificate import CERTIFICATE, Certificate, read_certificate
from export.cli import inspect_command, verify_command
from export.inspection import inspect_model
from export.probes import measure_replay
from export.verify import require_verified, verify_model
from extract.errors import FormatError, MismatchError, UsageError
from extract.files import hash_file
from extract.onnx_files import load_model
from tests.conftest import Pipeline
from tests.fakes import make_tiny_backbone

FILES = {SCORER, FEATURES, HEAD, STREAM, CARD}


@pytest.fixture
def copy(pipeline: Pipeline, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline.model, tmp_path / "model"))


def list_failed(model: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify_model(model, "cpu") if check.status == "failed"}


def rewrite(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Changes an ONNX file, and its certificate as if it had always been so."""
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    file = path.parent / CERTIFICATE
    document = json.loads(file.read_text())
    document["files"][path.name]["sha256"] = hash_file(path)
    file.write_text(json.dumps(document))


def move_classifier(model: onnx.ModelProto) -> None:
    bias = next(c for c in model.graph.initializer if c.name.endswith("head.classify.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))


def test_an_untouched_model_passes_every_check(pipeline: Pipeline) -> None:
    checks = verify_model(pipeline.model, "cpu")
    assert {check.status for check in checks} == {"passed"}
    assert {check.name for check in checks} >= FILES
    ran = {check.name: check for check in checks if check.frames}
    assert len(ran) == 3
    assert ran["scorer.onnx against its export"].frames == 1 + (3 + 1) + (8 + 5) + 32
    require_verified(pipeline.model, checks)


def test_the_certificate_lists_every_file_with_what_it_takes_and_gives(pipeline: Pipeline) -> None:
    files = read_certificate(pipeline.model).files
    assert files.keys() == FILES
    assert {name: facts.sha256 for name, facts in files.items()} == {n: hash_file(pipeline.model / n) for n in FILES}
    scorer = files[SCORER]
    assert [(t.name, t.type, t.shape) for t in scorer.inputs] == [
        ("crops", "uint8", ("B", "T", 32, 32, 3)),
        ("lengths", "int64", ("B",)),
    ]
    assert [t.shape for t in scorer.outputs] == [("B",), ("B",), ("B", "T")]
    assert all(t.meaning for t in (*scorer.inputs, *scorer.outputs))
    assert scorer.operators["LSTM"] == 1
    assert files[CARD].operators == {}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_file_is_named_with_both_hashes(copy: Path, name: str) -> None:
    before = hash_file(copy / name)
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    after = hash_file(copy / name)
    assert list_failed(copy) == {name: f"its sha256 is {after[:12]}..., expected {before[:12]}..."}


def test_missing_and_unknown_files_are_named(copy: Path) -> None:
    (copy / HEAD).unlink()
    (copy / "extra.onnx").touch()
    assert list_failed(copy) == {HEAD: "it is missing", "extra.onnx": "the certificate does not know it"}


def test_a_scorer_that_gives_other_numbers_is_found_even_with_its_hash(copy: Path) -> None:
    rewrite(copy / SCORER, move_classifier)
    failed = list_failed(copy)
    assert failed.keys() == {"scorer.onnx against its export", "features.onnx and head.onnx against scorer.onnx"}


def test_a_head_that_gives_other_numbers_is_found_even_with_its_hash(copy: Path) -> None:
    rewrite(copy / HEAD, move_classifier)
    failed = list_failed(copy)
    assert failed.keys() == {"features.onnx and head.onnx against scorer.onnx", "head_stream.onnx against head.onnx"}


def test_features_of_another_backbone_are_refused(copy: Path, tmp_path: Path) -> None:
    other = make_tiny_backbone(tmp_path, seed=4)
    shutil.copyfile(other, copy / FEATURES)
    rewrite(copy / FEATURES, lambda model: None)
    with pytest.raises(MismatchError, match=r"features.onnx is not the backbone inside .*sha256: found"):
        verify_model(copy, "cpu")


@pytest.mark.parametrize("name", [HEAD, STREAM])
def test_a_head_with_another_contract_is_refused(copy: Path, name: str) -> None:
    def demote(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            entry.value = entry.value.replace('"purpose": "research"', '"purpose": "production"')

    rewrite(copy / name, demote)
    with pytest.raises(MismatchError, match=rf"{name} carries another contract .*purpose: found"):
        verify_model(copy, "cpu")


def test_an_older_certificate_is_refused(copy: Path) -> None:
    document = json.loads((copy / CERTIFICATE).read_text())
    (copy / CERTIFICATE).write_text(json.dumps({**document, "format": "unmask-certificate/1"}))
    with pytest.raises(FormatError, match=r"has the format 'unmask-certificate/1', expected 'unmask-certificate/3'"):
        verify_model(copy, "cpu")


def test_a_certificate_with_a_hole_is_refused_with_the_place(copy: Path) -> None:
    document = json.loads((copy / CERTIFICATE).read_text())
    del document["recorded"][0]["logits"]
    (copy / CERTIFICATE).write_text(json.dumps(document))
    with pytest.raises(FormatError, match=r"is damaged at recorded\.0\.logits: Field required; export the model again"):
        verify_model(copy, "cpu")


def test_what_was_recorded_of_other_batches_never_agrees(pipeline: Pipeline) -> None:
    recorded = read_certificate(pipeline.model).recorded
    assert measure_replay(recorded, recorded) == 0
    assert measure_replay(recorded[:-1], recorded) == np.inf


@pytest.mark.parametrize("look", [verify_model, inspect_model])
@pytest.mark.parametrize("content", [b"", b"all is well", b"\xff\xfe\x00", b"[]", b"null"])
def test_a_certificate_that_is_none_is_refused(copy: Path, content: bytes, look: Callable[[Path], object]) -> None:
    (copy / CERTIFICATE).write_bytes(content)
    with pytest.raises(FormatError, match=r"certificate\.json (is damaged|has the format None)"):
        look(copy)


@pytest.mark.parametrize("look", [verify_model, inspect_model])
def test_a_certificate_that_is_a_folder_is_refused(copy: Path, look: Callable[[Path], object]) -> None:
    (copy / CERTIFICATE).unlink()
    (copy / CERTIFICATE).mkdir()
    with pytest.raises(FormatError, match=r"certificate\.json"):
        look(copy)


def test_folders_among_the_files_are_named(copy: Path) -> None:
    (copy / HEAD).unlink()
    (copy / HEAD).mkdir()
    (copy / "notes").mkdir()
    assert list_failed(copy) == {HEAD: "it is no file", "notes": "the certificate does not know it"}


def test_a_certificate_without_recorded_scores_proves_nothing(copy: Path) -> None:
    document = json.loads((copy / CERTIFICATE).read_text())
    (copy / CERTIFICATE).write_text(json.dumps(document | {"recorded": []}))
    assert list_failed(copy) == {
        "scorer.onnx against its export": "the certificate holds no scores of these synthetic crops"
    }


@pytest.mark.parametrize("look", [verify_model, inspect_model])
def test_a_scorer_without_a_contract_is_refused(copy: Path, look: Callable[[Path], object]) -> None:
    rewrite(copy / SCORER, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(FormatError, match=r"scorer\.onnx carries no contract"):
        look(copy)


@pytest.mark.parametrize("look", [verify_model, inspect_model])
def test_a_truncated_scorer_is_refused_even_with_its_hash(copy: Path, look: Callable[[Path], object]) -> None:
    rewrite(copy / SCORER, lambda model: None)
    whole = (copy / SCORER).read_bytes()
    (copy / SCORER).write_bytes(whole[: len(whole) // 2])
    document = json.loads((copy / CERTIFICATE).read_text())
    document["files"][SCORER]["sha256"] = hash_file(copy / SCORER)
    (copy / CERTIFICATE).write_text(json.dumps(document))
    with pytest.raises(FormatError, match=r"scorer\.onnx is not an ONNX model that onnxruntime .* loads"):
        look(copy)


def test_the_command_ends_with_1_and_says_what_differs(copy: Path) -> None:
    (copy / CARD).write_text("changed")
    done = CliRunner().invoke(verify_command, [str(copy), "--device", "cpu"])
    assert isinstance(done.exception, MismatchError)
    assert "failed       MODEL_CARD.md: its sha256 is" in done.stdout
    assert "is not what its certificate says: MODEL_CARD.md" in str(done.exception)


def test_the_command_prints_one_document(pipeline: Pipeline) -> None:
    done = CliRunner().invoke(verify_command, [str(pipeline.model), "--json"], catch_exceptions=False)
    assert {check["status"] for check in json.loads(done.stdout)["checks"]} == {"passed"}


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for look in (verify_model, inspect_model):
        with pytest.raises(UsageError, match="no such model folder"):
            look(tmp_path / "none")


def test_inspection_tells_contract_files_tensors_operators_and_certificate(pipeline: Pipeline) -> None:
    done = CliRunner().invoke(inspect_command, [str(pipeline.model)], env={"COLUMNS": "200"}, catch_exceptions=False)
    told = (
        "unmask-contract/4",
        "tiny-0",
        "lstm, mean pooling",
        "security",
        SCORER,
        "(B, T, 32, 32, 3)",
        "LSTM 1",
        "passed",
    )
    for words in told:
        assert words in done.stdout, words
    document = json.loads(CliRunner().invoke(inspect_command, [str(pipeline.model), "--json"]).stdout)
    assert document["contract"]["purpose"] == "research"
    assert Certificate.model_validate(document["certificate"]) == read_certificate(pipeline.model)


def test_neither_torch_nor_onnx_is_needed_to_verify_and_inspect(pipeline: Pipeline) -> None:
    code = f"""
import sys
for name in ("torch", "onnx", "h5py", "scipy", "sklearn", "jinja2"):
    sys.modules[name] = None  # as if it were not installed
from unmask import main
main(["verify", {str(pipeline.model)!r}], standalone_mode=False)
main(["inspect", {str(pipeline.model)!r}], standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_runtime_that_lacks_the_opset_is_named(copy: Path) -> None:
    def age(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 999

    rewrite(copy / SCORER, age)
    with pytest.raises(FormatError, match=r"is of a version of ONNX that onnxruntime .* does not read .*opset"):
        verify_model(copy, "cpu")


def test_a_runtime_that_lacks_the_ir_version_is_named(copy: Path) -> None:
    def age(model: onnx.ModelProto) -> None:
        model.ir_version = 99

    rewrite(copy / SCORER, age)
    with pytest.raises(FormatError, match=r"is of a version of ONNX that onnxruntime .* does not read .*IR version"):
        inspect_model(copy)


def test_a_model_has_a_detector_file_only_where_its_detector_is_one(pipeline: Pipeline) -> None:
    assert not (pipeline.model / DETECTOR).exists()  # MTCNN is a package
    assert load_model(pipeline.model / FEATURES).graph.input[0].name == "crops"
