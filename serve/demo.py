"""The demonstration: footage that installed packages carry goes through every stage and comes out as verdicts."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from extract.backbones import Backbone
from extract.demo_clips import DemoClip, make_demo_clips
from extract.detectors import Detector, open_detector
from extract.errors import MissingPackageError, UsageError
from extract.files import write_text
from extract.manifest import LABELS, ManifestVideo, read_manifest, write_manifest
from extract.pipeline import Extractor
from extract.results import VideoRecord
from extract.run import extract_manifest
from extract.specs import BackboneSpec, TrackSpec
from serve.scorer import Scorer
from serve.verdict import DEMONSTRATION, Verdict

if TYPE_CHECKING:
    from train.measures.metrics import Metrics

T = TypeVar("T")

BACKBONES = ("resnext50_32x4d", "efficientnet_lite0")
DETECTORS = ("retinaface-mobile", "mtcnn")
CLIPS, MANIFEST, FEATURES, RUN, MODEL = "clips", "videos.csv", "features.h5", "run", "model"
MARK = "DEMONSTRATION.txt"


class Stages:
    """The stages one after the other: a bar each while it runs, a line when it is done, and how long it took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def run(self, name: str) -> Iterator[Stage]:
        """Times one stage."""
        begun = time.perf_counter()
        task = self._progress.add_task(name, total=None)
        yield Stage(name, task, self._progress)
        self._progress.remove_task(task)
        self.seconds[name] = time.perf_counter() - begun


@dataclass(frozen=True)
class Stage:
    """A stage while it runs."""

    name: str
    task: TaskID
    progress: Progress

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        self.progress.console.print(f"[bold]{self.name:9}[/bold] {text}", highlight=False, soft_wrap=True)

    def advance(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.progress.update(self.task, completed=done, total=total)


@dataclass(frozen=True)
class Judged:
    """One held-out clip: what it is and what the model says."""

    video: ManifestVideo
    verdict: Verdict


def run_demo(out: Path, detector: str | None, backbone: str | None, seed: int, console: Console) -> list[Judged]:
    """Runs every stage into `out` and prints a table of the held-out verdicts; returns them."""
    _clear(out)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        stages = Stages(progress)
        judged = _run_stages(out, detector, backbone, seed, stages)
    _print_table(console, judged)
    _print_summary(console, judged, stages, out)
    return judged


def _run_stages(out: Path, detector: str | None, backbone: str | None, seed: int, stages: Stages) -> list[Judged]:
    with stages.run("detector") as stage:
        finder = _take_first([detector] if detector else DETECTORS, open_detector, stage)
        stage.say(f"{finder.spec.name} finds the faces")
    with stages.run("clips") as stage:
        videos = _make_clips(out, finder, seed, stage)
        real = sum(video.label == "real" for video in videos)
        stage.say(f"{real} real cuts and {len(videos) - real} self-blended fakes in {out / CLIPS}")
    with stages.run("backbone") as stage:
        spec = _make_backbone(out / "backbone.onnx", [backbone] if backbone else BACKBONES, stage)
        stage.say(f"{spec.name}, weights {spec.weights}, {spec.dim}-d features")
    with stages.run("extract") as stage:
        stage.say(
            _extract(
                videos,
                Extractor(finder, Backbone(out / "backbone.onnx"), tracks=TrackSpec.suit(finder.spec)),
                out,
                stage,
            )
        )
    with stages.run("train") as stage:
        stage.say(_train(out, seed))
    with stages.run("export") as stage:
        stage.say(_export(out))
    with stages.run("score") as stage:
        judged = _score(videos, out, stage)
        stage.say(f"{len(judged)} held-out clips by {judged[0].verdict.provider}")
    return judged


def _clear(out: Path) -> None:
    """Removes what an earlier demonstration left, and refuses a folder with anything else in it."""
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if found and MARK not in found:
        raise UsageError(f"{out} holds something else than a demonstration ({found[0]}); choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    write_text(out / MARK, "This folder was made by `unmask demo`, which deletes all of it when it runs again.\n")


def _take_first(names: Sequence[str], make: Callable[[str], T], stage: Stage) -> T:
    """The first of several that can be had on this machine; what cannot is said."""
    for name in names[:-1]:
        try:
            return make(name)
        except MissingPackageError as error:
            stage.say(f"not {name}: {error}")
    return make(names[-1])


def _make_clips(out: Path, finder: Detector, seed: int, stage: Stage) -> list[ManifestVideo]:
    clips = make_demo_clips(out / CLIPS, finder.detect, seed, progress=stage.advance)
    write_manifest(out / MANIFEST, [_as_video(clip, out / CLIPS) for clip in clips])
    return read_manifest(out / MANIFEST)


def _as_video(clip: DemoClip, folder: Path) -> ManifestVideo:
    return ManifestVideo(
        id=clip.path.as_posix(),
        path=folder / clip.path,
        label=clip.label,
        split=clip.split,
        group=clip.group,
        pair=clip.pair,
        dataset=clip.dataset,
        method=clip.method,
    )


def _make_backbone(path: Path, names: Sequence[str], stage: Stage) -> BackboneSpec:
    from extract.backbone_files import make_backbone

    return _take_first(names, lambda name: make_backbone(name, "imagenet", path), stage)


def _extract(videos: Sequence[ManifestVideo], extractor: Extractor, out: Path, stage: Stage) -> str:
    done = extract_manifest(videos, extractor, out / FEATURES, watcher=_StageWatcher(stage))
    return ", ".join(f"{count} {status}" for status, count in done.status_counts.items())


class _StageWatcher:
    """Moves a stage's bar as videos are done."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._done = self._total = 0

    def begin(self, todo: int, reused: int) -> None:
        self._total = todo

    def add(self, record: VideoRecord) -> None:
        self._done += 1
        self._stage.advance(self._done, self._total)


def _score(videos: Sequence[ManifestVideo], out: Path, stage: Stage) -> list[Judged]:
    held_out = [video for video in videos if video.split == "test"]
    judged = []
    with Scorer.open(out / MODEL) as scorer:
        for video in held_out:
            judged.append(Judged(video, scorer.score(video.path)))
            stage.advance(len(judged), len(held_out))
    return judged


def _train(out: Path, seed: int) -> str:
    from train.config import FitConfig
    from train.run import train_run
    from train.schemes import TrainConfig

    run = train_run(out / FEATURES, out / RUN, TrainConfig(FitConfig(seed=seed), purpose="demo"))
    threshold = run.document.threshold
    return (
        f"best of {len(run.document.curve)} epochs is {run.document.best_epoch}; "
        f"threshold {threshold.value:.3f}, chosen on {threshold.n_fake} fake and {threshold.n_real} real clips"
    )


def _export(out: Path) -> str:
    from export.run import export_run

    done = export_run(out / RUN, out / "backbone.onnx", out / MODEL)
    worst = max(check.prob_error or 0.0 for check in done.certificate.checks)
    return f"scorer.onnx gives the probabilities of backbone and torch head within {worst:.1e}"


def _print_table(console: Console, judged: list[Judged]) -> None:
    table = Table("cut", "real: P(fake)", "verdict", "fake: P(fake)", "verdict", title="Held-out verdicts")
    pairs: dict[str, dict[str, Verdict]] = defaultdict(dict)
    for entry in judged:
        pairs[entry.video.pair][entry.video.label] = entry.verdict
    for pair, verdicts in sorted(pairs.items()):
        cells = [cell for label in LABELS for cell in _describe_verdict(verdicts[label], label)]
        table.add_row(pair, *cells)
    console.print(table)


def _describe_verdict(verdict: Verdict, label: str) -> tuple[str, str]:
    prob = verdict.reason or "" if verdict.p_fake is None else f"{verdict.p_fake:.3f}"
    wrong = verdict.outcome.lower() in LABELS and verdict.outcome.lower() != label
    return prob, f"[red]{verdict.outcome}, wrong[/red]" if wrong else f"{verdict.outcome}"


def _print_summary(console: Console, judged: list[Judged], stages: Stages, out: Path) -> None:
    metrics = measure_verdicts(judged)
    auc = metrics.auc
    interval = "" if auc.low is None or auc.high is None else f", 95 % interval {auc.low:.2f} to {auc.high:.2f} by pair"
    confusion = metrics.confusion
    value = "undefined" if auc.value is None else f"{auc.value:.3f}"
    console.print(f"AUC {value} on {metrics.n_videos} held-out clips{interval}", highlight=False)
    unsure = sum(entry.verdict.outcome == "UNCERTAIN" for entry in judged)
    console.print(
        f"at the threshold alone, fakes found {confusion.tp} of {metrics.n_fake}, reals flagged {confusion.fp} of "
        f"{metrics.n_real}; {unsure} of {len(judged)} verdicts are UNCERTAIN: other validation clips might have turned "
        "them round",
        highlight=False,
        soft_wrap=True,
    )
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    console.print(f"{sum(stages.seconds.values()):.0f} s in all: {times}", highlight=False, soft_wrap=True)
    console.print(
        f"{DEMONSTRATION}. All clips show one person, in training and test alike (no frame is in both), "
        "and its fakes are self-blended faces, so the figures say that the pipeline works, not how well it would "
        f"find deepfakes. Everything lies in {out}; try: unmask score {out / MODEL} VIDEO",
        highlight=False,
        soft_wrap=True,
    )


def measure_verdicts(judged: list[Judged]) -> Metrics:
    """Video-level metrics of scored clips; pairs are resampled, since one person is in all of them."""
    from train.measures.metrics import Predictions, measure

    scored = [entry for entry in judged if entry.verdict.logit is not None]
    return measure(
        Predictions(
            labels=np.array([entry.video.label == "fake" for entry in scored], np.int64),
            logits=np.array([entry.verdict.logit for entry in scored], np.float64),
            flagged=np.array([(entry.verdict.p_fake or 0.0) >= entry.verdict.threshold for entry in scored]),
            groups=np.array([entry.video.pair for entry in scored]),
        )
    )
