"""The unit and the image name what the service has: its options, its port, its health path."""

from __future__ import annotations

import json
import re
from configparser import RawConfigParser
from pathlib import Path

import click
import pytest
from fastapi.routing import APIRoute

from serve.serve_cli import serve_command
from serve.service import state
from serve.service.access import choose_keys
from serve.service.server import GRACE_S

ROOT = Path(__file__).parent.parent
UNIT, IMAGE, PAGE = (ROOT / "deploy" / name for name in ("unmask.service", "Dockerfile", "README.md"))


def read_unit() -> dict[str, str]:
    """The [Service] part; of a key that comes twice, the last."""
    parser = RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return dict(parser["Service"])


def read_image(instruction: str) -> str:
    """What the last instruction of this name says, on one line."""
    text = IMAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    said: list[str] = re.findall(rf"^\s*{instruction} (.*)$", text, re.MULTILINE)
    return said[-1].strip()


def list_unit_arguments() -> list[str]:
    """What follows `unmask serve`."""
    return read_unit()["ExecStart"].split()[2:]


def list_image_arguments() -> list[str]:
    """What follows `unmask serve`."""
    words: list[str] = json.loads(read_image("CMD"))
    return words


def parse(arguments: list[str]) -> click.Context:
    """Raises where the command knows no such option, or not such a value."""
    return serve_command.make_context("serve", list(arguments))


@pytest.mark.parametrize("list_arguments", [list_unit_arguments, list_image_arguments])
def test_the_command_takes_what_is_named(list_arguments: type[list[str]]) -> None:
    assert parse(list_arguments()).params["port"] == 8000


@pytest.mark.parametrize("list_arguments", [list_unit_arguments, list_image_arguments])
def test_nobody_is_answered_without_a_key(list_arguments: type[list[str]], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"desk:{'0' * 64}\n", encoding="utf-8")
    params = parse(list_arguments()).params
    assert params["keys"] is not None
    assert choose_keys(params["host"], keys) is not None


def test_the_image_asks_its_own_port_for_health() -> None:
    port = parse(list_image_arguments()).params["port"]
    address = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", read_image("HEALTHCHECK"))
    assert address is not None
    assert int(address[1]) == int(read_image("EXPOSE")) == port
    assert address[2] in {route.path for route in state.router.routes if isinstance(route, APIRoute)}


def test_the_health_that_the_unit_tells_of_is_there() -> None:
    port = parse(list_unit_arguments()).params["port"]
    assert f"http://127.0.0.1:{port}/healthz" in UNIT.read_text(encoding="utf-8")


def test_the_image_keeps_jobs_on_its_volume_and_runs_as_nobody_much() -> None:
    assert parse(list_image_arguments()).params["data"] == Path(read_image("VOLUME"))
    assert int(read_image("USER").partition(":")[0]) > 0
    assert read_image("STOPSIGNAL") == read_unit()["KillSignal"] == "SIGTERM"


def test_the_unit_waits_longer_than_requests_may_take_to_end() -> None:
    assert int(read_unit()["TimeoutStopSec"]) > GRACE_S


def test_the_unit_may_write_only_where_its_data_lie() -> None:
    unit = read_unit()
    assert unit["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in unit
    assert str(parse(list_unit_arguments()).params["data"]) == f"%S/{unit['StateDirectory']}"


def test_neither_lets_onnx_runtime_report_its_use() -> None:
    for environment in (read_unit()["Environment"], read_image("ENV")):
        assert "ORT_DISABLE_TELEMETRY=1" in environment.split()


def test_the_image_is_built_of_everything_that_the_wheel_needs() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = set(re.findall(r'"([a-z]+)\.', project.partition("packages = [")[2].partition("]")[0]))
    assert packages < kept
    assert kept - packages == {"pyproject.toml", "README.md", "LICENSE", "unmask.py"}


def test_the_page_names_options_that_the_command_has() -> None:
    known = {name for option in serve_command.params for name in option.opts}
    prose = re.findall(r"`(--[a-z-]+)[ A-Z]*`", PAGE.read_text(encoding="utf-8"))
    assert set(prose) - known <= {"--triton"}
