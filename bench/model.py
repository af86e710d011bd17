"""A model to time: a given one, or one with random weights, which take the same time as trained ones."""

from __future__ import annotations

from pathlib import Path

from bench.synthetic import write_synthetic_cache
from export.run import export_run
from extract.backbone_files import make_backbone
from extract.detectors import open_detector
from extract.specs import CropSpec, Fingerprint, SamplingSpec, TrackSpec
from train.config import FitConfig
from train.run import train_run
from train.schemes import TrainConfig

VIDEOS = 200


def make_model(folder: Path, network: str, detector: str, sampling: str = "even:32") -> Path:
    """A model folder of `network` with random weights and a head fitted for an epoch on made-up features."""
    backbone = make_backbone(network, "random:0", folder / "backbone.onnx")
    finder = open_detector(detector, "cpu")
    fingerprint = Fingerprint(
        backbone=backbone,
        detector=finder.spec,
        sampling=SamplingSpec.parse(sampling),
        crop=CropSpec(size_px=backbone.crop_px),
        tracks=TrackSpec.suit(finder.spec),
    )
    cache = write_synthetic_cache(folder / "features.h5", VIDEOS, backbone.dim, fingerprint)
    train_run(cache, folder / "run", TrainConfig(FitConfig(epochs=1)))
    export_run(folder / "run", folder / "backbone.onnx", folder / "model")
    return folder / "model"
