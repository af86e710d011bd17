"""An exported backbone in each precision: size, latency of one crop, and throughput, against torch eager and OpenVINO.

    python -m bench.export [--network efficientnet_lite0] [--weights imagenet] [--calibrate features.h5] [--rounds 7]

ONNX Runtime and OpenVINO run the same files; torch eager runs the network in single precision. Prints JSON.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.turns import measure, take_turns
from export.probes import MOST_REPLAY_ERROR
from extract.backbone_files import make_backbone
from extract.backbones import Backbone, measure_feature_error, measure_typical_error
from extract.calibration import CalibrationCrops, read_calibration
from extract.networks import embed_eagerly, load_network
from extract.precision import JUDGED, halve_backbone, quantise_backbone
from extract.specs import Precision
from extract.synthetic import make_crops
from extract.versions import read_versions

BATCH = 16
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@click.command()
@click.option("--network", default="efficientnet_lite0", show_default=True)
@click.option("--weights", default="imagenet", show_default=True)
@click.option("--calibrate", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Alternating timed runs.")
def main(network: str, weights: str, calibrate: Path | None, rounds: int) -> None:
    """Times every precision in every runtime by turns."""
    with TemporaryDirectory() as folder:
        files = {precision: Path(folder) / f"{precision}.onnx" for precision in PRECISIONS}
        spec = make_backbone(network, weights, files["fp32"])
        halve_backbone(files["fp32"], files["fp16"])
        crops = make_crops(4 * BATCH, spec.crop_px, seed=0)
        calibration = CalibrationCrops(crops, "synthetic crops", 0)
        if calibrate is not None:
            calibration = read_calibration(calibrate, spec)
        quantise_backbone(files["fp32"], files["int8"], calibration)
        judged = calibration.crops[JUDGED - 1 :: JUDGED][:BATCH]  # none of which gave a range
        runs: dict[str, Embed] = {"torch_eager": partial(embed_eagerly, load_network(network, weights))}
        for precision, path in files.items():
            runs[f"onnxruntime_{precision}"] = Backbone(path, "cpu").embed
            runs[f"openvino_{precision}"] = open_in_openvino(path)
        found = {name: run(judged) for name, run in runs.items()}
        latency = time_medians(runs, judged[:1], rounds)
        whole = time_medians(runs, judged, rounds)
        sizes = {precision: path.stat().st_size for precision, path in files.items()}
    rates = {name: len(judged) / seconds for name, seconds in whole.items()}
    document = {
        "benchmark": "export",
        "network": network,
        "weights": weights,
        "crops": calibration.source,
        "rounds": rounds,
        "size_mb": {precision: round(size / 1e6, 2) for precision, size in sizes.items()},
        "latency_ms": {name: round(1000 * seconds, 2) for name, seconds in latency.items()},
        "crops_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": {
            "int8_to_fp32": round(rates["onnxruntime_int8"] / rates["onnxruntime_fp32"], 2),
            "fp32_to_torch_eager": round(rates["onnxruntime_fp32"] / rates["torch_eager"], 2),
            **{f"{p}_to_openvino": round(rates[f"onnxruntime_{p}"] / rates[f"openvino_{p}"], 2) for p in PRECISIONS},
        },
        "feature_error": {name: describe_error(rows, found["torch_eager"]) for name, rows in found.items()},
        "accepted_probability_error": MOST_REPLAY_ERROR,
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "versions": read_package_versions()},
    }
    click.echo(json.dumps(document, indent=2))


def open_in_openvino(path: Path) -> Embed:
    """The same file in OpenVINO on the CPU, in the precision that the file has."""
    import openvino

    # Left to itself it computes in bfloat16 where the processor can, which no parity allows.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def embed(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array(compiled({"crops": crops})["features"], np.float32)

    return embed


def time_medians(runs: dict[str, Embed], crops: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """Median seconds of each run, taken by turns."""

    def time_one(run: Embed) -> float:
        return measure(lambda: run(crops))[0]

    taken = take_turns({name: partial(time_one, run) for name, run in runs.items()}, rounds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def describe_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, Any]:
    """Differences from torch eager in deviations of a feature."""
    largest, typical = measure_feature_error(found, expected), measure_typical_error(found, expected)
    return {"largest": float(f"{largest:.2g}"), "typical": float(f"{typical:.2g}")}


def read_package_versions() -> dict[str, str]:
    """Of the runtimes."""
    found = read_versions(("torch", "onnxruntime-gpu", "onnxruntime", "openvino"), absent="")
    return {name: number for name, number in found.items() if number}


if __name__ == "__main__":
    main()
