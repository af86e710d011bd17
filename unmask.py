"""unmask: tells whether the faces in a video are real. The front door of command line and library."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from serve.scorer import Scorer
    from serve.verdict import Verdict

__all__ = ["Scorer", "Verdict", "main"]

# command -> (module, attribute): loaded only when it is called, so that --help stays quick
COMMANDS = {
    "doctor": ("extract.cli", "doctor_command"),
    "backbone": ("extract.cli", "backbone_command"),
    "detector": ("extract.cli", "detector_command"),
    "manifest": ("extract.dataset_cli", "manifest_command"),
    "audit": ("extract.dataset_cli", "audit_command"),
    "extract": ("extract.extract_cli", "extract_command"),
    "cache": ("extract.cache_cli", "cache_group"),
    "train": ("train.cli", "train_command"),
    "sweep": ("train.sweep_cli", "sweep_command"),
    "evaluate": ("train.evaluate_cli", "evaluate_command"),
    "compare": ("train.evaluate_cli", "compare_command"),
    "export": ("export.cli", "export_command"),
    "inspect": ("export.cli", "inspect_command"),
    "verify": ("export.cli", "verify_command"),
    "score": ("serve.score_cli", "score_command"),
    "watch": ("serve.watch_cli", "watch_command"),
    "serve": ("serve.serve_cli", "serve_command"),
    "demo": ("serve.demo_cli", "demo_command"),
}
# package -> the extra that brings it: scoring needs none of these
EXTRAS = {
    **dict.fromkeys(
        (
            "h5py",
            "matplotlib",
            "onnx",
            "onnxscript",
            "optuna",
            "safetensors",
            "scipy",
            "sklearn",
            "torch",
            "torchvision",
        ),
        "train",
    ),
    **dict.fromkeys(("fastapi", "prometheus_client", "starlette", "uvicorn"), "serve"),
    "ray": "ray",
    "tritonclient": "triton",
}
LIBRARY = {"Scorer": "serve.scorer", "Verdict": "serve.verdict"}


def __getattr__(name: str) -> Any:
    if name in LIBRARY:
        return getattr(import_module(LIBRARY[name]), name)
    raise AttributeError(f"module 'unmask' has no attribute {name!r}")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed, and whose errors are one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads one command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an error of ours becomes its sentence and its exit code."""
        from extract.errors import STOPPED, UnmaskError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("unmask: stopped", err=True)
            sys.exit(STOPPED)
        except UnmaskError as error:
            click.echo(f"unmask: {error}", err=True)
            sys.exit(error.exit_code)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            remedy = f'pip install "unmask[{EXTRAS[package]}]"'
            click.echo(f"unmask: this command needs the package {package}, which is not installed; {remedy}", err=True)
            sys.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="unmask", prog_name="unmask")
def main() -> None:
    """Tells whether the faces in a video are real."""
    # Read when torch is loaded: threads that spin while they wait make training ten times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
