"""Crops per second of the exported ResNeXt-50 in ONNX Runtime against torch eager, on the CPU, in one run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.footage import footage_options, read_footage
from extract.backbone_files import embed_eagerly, load_network, make_backbone
from extract.backbones import BATCH, Backbone, measure_feature_error


@click.command()
@footage_options
@click.option("--network", default="resnext50_32x4d", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Alternating timed runs.")
def main(videos: Path | None, detector: str, as_json: bool, network: str, rounds: int) -> None:
    """Prints one JSON document; random weights, since they take the same time as trained ones."""
    footage = read_footage(videos, detector, BATCH)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "backbone.onnx"
        make_backbone(network, "random:0", file)
        ours = Backbone(file, "cpu")
        torch_network = load_network(network, "random:0")
        runs = {
            "onnxruntime": lambda: ours.embed(footage.crops),
            "torch_eager": lambda: embed_eagerly(torch_network, footage.crops),
        }
        error = measure_feature_error(runs["onnxruntime"](), runs["torch_eager"]())  # warms both up
        rates = {name: len(footage.crops) / seconds for name, seconds in time_alternately(runs, rounds).items()}
    document = {
        "benchmark": "backbone",
        "network": network,
        "footage": footage.source,
        "batch": len(footage.crops),
        "rounds": rounds,
        "crops_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["onnxruntime"] / rates["torch_eager"], 2),
        "feature_error_deviations": error,
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "torch": version("torch")},
    }
    click.echo(json.dumps(document, indent=None if as_json else 2))


def time_alternately(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each run; they take turns, so that a busy moment of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
