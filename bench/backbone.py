"""Crops per second of the exported ResNeXt-50 in ONNX Runtime against torch eager, on the CPU, in one run."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.footage import footage_options, read_footage
from bench.turns import measure, take_turns
from extract.backbone_files import make_backbone
from extract.backbones import BATCH, Backbone, measure_feature_error
from extract.networks import Network, embed_eagerly, load_network

GEMM = 2048  # side of the float32 matrices whose product tells what the processor can do at best


@click.command()
@footage_options
@click.option("--network", default="resnext50_32x4d", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Alternating timed runs.")
def main(videos: Path | None, detector: str, as_json: bool, network: str, rounds: int) -> None:
    """Prints one JSON document; random weights, since they take the same time as trained ones.

    The ceiling is the rate at which a large matrix product runs on this machine, in the backbone's own operations.
    """
    footage = read_footage(videos, detector, BATCH)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "backbone.onnx"
        make_backbone(network, "random:0", file)
        ours = Backbone(file, "cpu")
        torch_network = load_network(network, "random:0")
        matrix = torch.rand(GEMM, GEMM)
        runs = {
            "onnxruntime": lambda: ours.embed(footage.crops),
            "torch_eager": lambda: embed_eagerly(torch_network, footage.crops),
            "gemm": lambda: matrix @ matrix,
        }
        error = measure_feature_error(ours.embed(footage.crops), embed_eagerly(torch_network, footage.crops))
        seconds = time_alternately(runs, rounds)
        gflop_per_crop = count_gflop(torch_network)
    gflop_per_s = 2 * GEMM**3 / seconds.pop("gemm") / 1e9
    rates = {name: len(footage.crops) / value for name, value in seconds.items()}
    ceiling = gflop_per_s / gflop_per_crop
    document = {
        "benchmark": "backbone",
        "network": network,
        "footage": footage.source,
        "batch": len(footage.crops),
        "rounds": rounds,
        "crops_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["onnxruntime"] / rates["torch_eager"], 2),
        "ceiling": {
            "gemm_gflop_per_s": round(gflop_per_s, 1),
            "gflop_per_crop": round(gflop_per_crop, 2),
            "crops_per_s": round(ceiling, 2),
            "reached": round(rates["onnxruntime"] / ceiling, 2),
        },
        "feature_error_deviations": error,
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "torch": version("torch")},
    }
    click.echo(json.dumps(document, indent=None if as_json else 2))


def count_gflop(network: Network) -> float:
    """10^9 floating-point operations of one crop, a multiply-add counted as two."""
    with FlopCounterMode(display=False) as counter:
        network.module(torch.zeros(1, 3, network.crop_px, network.crop_px))
    return float(counter.get_total_flops()) / 1e9


def time_alternately(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each run."""
    turns = take_turns({name: partial(measure, run) for name, run in runs.items()}, rounds)
    return {name: statistics.median(seconds for seconds, _ in taken) for name, taken in turns.items()}


if __name__ == "__main__":
    main()
