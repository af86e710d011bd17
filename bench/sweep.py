"""How much of an epoch is the head's own work, what a cached epoch saves, and training on more than memory holds.

    python -m bench.sweep [--part epoch|streaming|sweep] [--videos 6529] [--dim 2048]

The cache is synthetic, of the size of Celeb-DF v2 unless told, with labels that can be learned. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.memory import sum_memory
from bench.synthetic import FRAMES, write_synthetic_cache
from bench.turns import measure, take_turns
from train.config import FitConfig, HeadConfig, HeadShape
from train.dataset import ClipData, open_clip_data
from train.fit import Epoch, Fit, FitPlan
from train.predict import BATCH_ROWS
from train.splits import assign_splits

MB = 1 << 20
LARGER = 8  # times the cache, so that a quarter of it holds torch too
PARTS = ("epoch", "streaming", "sweep")
POLL_S = 5.0  # to add up the pages of all processes takes a twentieth of a second


def main() -> None:
    """Runs the parts that are asked for and prints what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--videos", type=int, default=6529)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--jobs", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    found: dict[str, Any] = {"videos": told.videos, "frames": FRAMES, "dim": told.dim, "cores": os.cpu_count()}
    with TemporaryDirectory() as folder:
        cache = write_synthetic_cache(Path(folder) / "features.h5", told.videos, told.dim)
        found["cache_mb"] = cache.stat().st_size / MB
        for part in told.part or PARTS:
            if part == "epoch":
                found[part] = measure_epoch(cache, told.rounds)
            elif part == "streaming":
                found[part] = measure_streaming(Path(folder), told.videos, told.dim, told.rounds)
            else:
                found[part] = [measure_sweep(cache, Path(folder), told.trials, jobs) for jobs in told.jobs]
    print(json.dumps(found, indent=1))


def measure_epoch(cache: Path, rounds: int) -> dict[str, Any]:
    """An epoch from the cache against the same head on the same batches in memory; and against the backbone's."""
    with open_clip_data(cache) as data:
        fit, val = start_fit(data)
        batches = list(read_epoch(fit))
        held = list(fit.reader.read_in_order(data.list_clips(val), fit.reader.fit_clips(BATCH_ROWS)))

        def run_whole() -> float:
            return measure(lambda: fit.validate(Epoch(number=1, train_loss=fit.train_epoch(1))))[0]

        def run_head() -> float:
            return measure(lambda: run_batches(fit, batches, held))[0]

        taken = take_turns({"epoch": run_whole, "head": run_head}, rounds)
    epoch_s, head_s = (statistics.median(taken[name]) for name in ("epoch", "head"))
    crops_per_s = measure_backbone()
    backbone_s = len(data.labels) * FRAMES / crops_per_s
    return {
        "head": HeadConfig.of(HeadShape(), data.rows.dim).model_dump(),
        "bf16": bool(fit.autocast._enabled),
        "epoch_s": epoch_s,
        "head_alone_s": head_s,
        "outside_head": statistics.median(1 - b / a for a, b in zip(taken["epoch"], taken["head"], strict=True)),
        "backbone_crops_per_s": crops_per_s,
        "backbone_epoch_s": backbone_s,
        "ratio": backbone_s / epoch_s,
    }


def start_fit(data: ClipData) -> tuple[Fit, np.ndarray[Any, np.dtype[np.int64]]]:
    """The default head on the training part of a grouped split, and the validation videos."""
    assignment = assign_splits([""] * len(data.labels), data.labels, data.groups, seed=0)
    val = assignment.select("val")
    return Fit(data, assignment.select("train"), val, FitPlan(FitConfig())), val


def read_epoch(fit: Fit) -> Any:
    """The batches of one epoch."""
    config = fit.plan.config
    return fit.reader.read_shuffled(fit.clips, fit.size, fit.sampler, config.augment, fit.shuffler)


def run_batches(fit: Fit, batches: list[Any], held: list[Any]) -> None:
    """What the head itself does in an epoch: a step with every batch, and the logits of validation."""
    fit.head.train()
    for batch in batches:
        fit.step(batch)
    fit.head.eval()
    with torch.inference_mode():
        for batch in held:
            fit.head(batch.features, batch.lengths)


def measure_backbone() -> float:
    """Crops a second through ResNeXt-50 (random weights) in ONNX Runtime, the median of five batches."""
    from extract.backbone_files import make_backbone  # here, as a process that trains loads none of this
    from extract.backbones import Backbone
    from extract.synthetic import make_crops

    with TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        make_backbone("resnext50_32x4d", "random:0", path)
        backbone = Backbone(path)
        crops = make_crops(backbone.batch, backbone.spec.crop_px, seed=0)
        backbone.embed(crops)
        return backbone.batch / statistics.median(measure(lambda: backbone.embed(crops))[0] for _ in range(5))


def measure_streaming(folder: Path, videos: int, dim: int, rounds: int) -> dict[str, Any]:
    """The same epochs in a process that may take a quarter of the cache, and in one that may take all of it."""
    large = write_synthetic_cache(folder / "large.h5", LARGER * videos, dim)
    limit = large.stat().st_size // 4
    taken = take_turns(
        {"limited": lambda: run_limited(large, limit), "memory": lambda: run_limited(large, None)}, max(1, rounds // 2)
    )
    large.unlink()
    speed = statistics.median(
        b["epoch_s"] / a["epoch_s"] for a, b in zip(taken["limited"], taken["memory"], strict=True)
    )
    return {
        "videos": LARGER * videos,
        "limit_mb": limit / MB,
        "most_resident_mb": max(one["most_resident_mb"] for one in taken["limited"]),
        "epoch_s": statistics.median(one["epoch_s"] for one in taken["limited"]),
        "epoch_in_memory_s": statistics.median(one["epoch_s"] for one in taken["memory"]),
        "resident_in_memory_mb": max(one["most_resident_mb"] for one in taken["memory"]),
        "speed": speed,
    }


def run_limited(cache: Path, limit: int | None) -> dict[str, float]:
    """Three epochs in a process of their own; the median of their seconds, and what it took at most."""
    code = f"import bench.sweep as b; b.run_epochs({str(cache)!r}, {limit})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run_epochs(cache: str, limit: int | None) -> None:
    """What such a process does."""
    with open_clip_data(Path(cache), limit) as data:
        fit, _ = start_fit(data)
        fit.train_epoch(1)
        taken = [measure(lambda: fit.train_epoch(2))[0] for _ in range(3)]
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"epoch_s": statistics.median(taken), "most_resident_mb": int(peak.split()[1]) / 1024}))


def measure_sweep(cache: Path, folder: Path, trials: int, jobs: int) -> dict[str, Any]:
    """A whole sweep by the command line, and the memory of all its processes, each page once."""
    out = folder / f"sweep{jobs}"
    command = [sys.executable, "-m", "unmask", "sweep", str(cache), "--out", str(out), "--trials", str(trials)]
    begun = time.perf_counter()
    most = {"trials": 0, "refit": 0}
    with subprocess.Popen([*command, "--jobs", str(jobs), "--json"], stdout=subprocess.PIPE, text=True) as sweep:
        while sweep.poll() is None:
            phase = "refit" if any(out.glob(".best*")) else "trials"
            most[phase] = max(most[phase], sum_memory(sweep.pid))
            time.sleep(POLL_S)
        printed = sweep.stdout.read() if sweep.stdout else ""
    if sweep.returncode:
        raise SystemExit(f"the sweep ended with {sweep.returncode}")
    memory = {f"most_memory_{phase}_mb": size / MB for phase, size in most.items()}
    return {"jobs": jobs, "wall_s": time.perf_counter() - begun, **memory, **json.loads(printed)}


if __name__ == "__main__":
    main()
