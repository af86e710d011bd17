"""Extraction on a Ray cluster: workers that each hold the networks and a pipeline, videos dealt out in small hands.

The results come back to the one who started the run, who writes the parts as for a run on one machine. A worker that
dies costs the videos it had not finished; they go to another.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from extract.backbones import Backbone
from extract.detectors import open_detector_of_spec
from extract.errors import Reason, UnmaskError
from extract.manifest import ManifestVideo
from extract.parts import FileState, label_record
from extract.pipeline import Extractor, Pipeline, StageTimes
from extract.results import VideoRecord, VideoResult
from extract.session import Device
from extract.specs import DetectorSpec, SamplingSpec, TrackSpec

MOST_IN_HAND = 16  # videos dealt to a worker at once
TRIES = 3  # workers that a video may take with it


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to make an extractor equal to ours, wherever it runs; the videos it must reach itself."""

    backbone: bytes
    detector: bytes | None
    detector_spec: DetectorSpec
    sampling: SamplingSpec
    tracks: TrackSpec
    decode_limit_s: float
    device: Device

    @classmethod
    def of(cls, extractor: Extractor, device: Device) -> Recipe:
        """The recipe of an extractor."""
        detector = extractor.detector
        return cls(
            backbone=extractor.backbone.path.read_bytes(),
            detector=None if detector.path is None else detector.path.read_bytes(),
            detector_spec=detector.spec,
            sampling=extractor.sampling,
            tracks=extractor.tracks,
            decode_limit_s=extractor.decode_limit_s,
            device=device,
        )

    def make_extractor(self) -> Extractor:
        """Opens the networks on this machine."""
        folder = Path(mkdtemp(prefix="unmask-"))
        (folder / "backbone.onnx").write_bytes(self.backbone)
        file = None
        if self.detector is not None:
            file = folder / "detector.onnx"
            file.write_bytes(self.detector)
        detector = open_detector_of_spec(self.detector_spec, file, self.device)
        backbone = Backbone(folder / "backbone.onnx", self.device)
        return Extractor(detector, backbone, self.sampling, self.tracks, decode_limit_s=self.decode_limit_s)


class Worker:
    """What runs in a process of the cluster."""

    def __init__(self, recipe: Recipe) -> None:
        self._busy = StageTimes()
        self._pipeline = Pipeline(recipe.make_extractor(), self._busy)

    def extract(self, videos: list[ManifestVideo]) -> Iterator[VideoResult | StageTimes]:
        """The results of some videos, and at last how long the stages have been at work since the beginning."""
        yield from self._pipeline.run(videos)
        yield replace(self._busy)


@dataclass
class _Hand:
    """Videos that a worker was dealt and has not finished."""

    worker: Any
    answers: Any  # Ray's generator of references
    videos: dict[str, ManifestVideo]


class RayRunner:
    """A runner for `extract_manifest`; without an address, Ray runs on this machine for as long as the run lasts."""

    def __init__(self, address: str | None = None, workers: int | None = None, device: Device = "auto") -> None:
        self._address = address
        self._workers = workers
        self._device = device

    def __call__(
        self, videos: Sequence[ManifestVideo], extractor: Extractor, busy: StageTimes
    ) -> Iterator[VideoResult]:
        """The results of all videos, in any order."""
        begun_here = not ray.is_initialized()
        if begun_here:
            self._begin()
        try:
            yield from _Dealer(ray.put(Recipe.of(extractor, self._device)), self._count_workers(), videos, busy).run()
        finally:
            if begun_here:
                ray.shutdown()

    def _begin(self) -> None:
        options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
        try:
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UnmaskError(
                f"no Ray cluster answers at {self._address or 'this machine'}: {error}; start one with `ray start`, "
                "or leave --ray-address out"
            ) from error

    def _count_workers(self) -> int:
        if self._workers is not None:
            return self._workers
        gpus = _count_resource("GPU") if self._device != "cpu" else 0
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return int(gpus) or sum(node["Alive"] for node in nodes)


class _Dealer:
    """Keeps every worker busy, and replaces those that die."""

    def __init__(self, recipe: Any, workers: int, videos: Sequence[ManifestVideo], busy: StageTimes) -> None:
        self._recipe = recipe
        self._workers = min(workers, len(videos))
        self._waiting = deque(replace(video, path=video.path.resolve()) for video in videos)
        self._hand_size = max(1, min(MOST_IN_HAND, len(videos) // (4 * workers)))
        self._lost: Counter[str] = Counter()  # workers that died with a video in hand
        self._deaths = 0  # in a row, without a result between them
        self._busy = busy
        self._times: dict[Any, StageTimes] = {}
        self._options = _share_resources(workers)

    def run(self) -> Iterator[VideoResult]:
        """The results as they come."""
        hands = [self._deal(self._hire()) for _ in range(self._workers)]
        while hands:
            ready, _ = ray.wait([hand.answers for hand in hands])
            hand = next(hand for hand in hands if hand.answers is ready[0])
            answer = self._hear(hand)
            if isinstance(answer, VideoResult):
                yield answer
                continue
            hands.remove(hand)
            if answer is not None:
                yield from self._put_back(hand, answer)
            if self._waiting:
                hands.append(self._deal(hand.worker if answer is None else self._hire()))
        for times in self._times.values():
            self._busy.add(times)

    def _hire(self) -> Any:
        return ray.remote(Worker).options(**self._options).remote(self._recipe)

    def _deal(self, worker: Any) -> _Hand:
        """Gives a worker some videos; one that others died with is dealt alone."""
        videos = [self._waiting.popleft()]
        alone = self._lost[videos[0].id] > 0
        while self._waiting and not alone and len(videos) < self._hand_size and not self._lost[self._waiting[0].id]:
            videos.append(self._waiting.popleft())
        answers = worker.extract.options(num_returns="streaming").remote(videos)
        return _Hand(worker, answers, {video.id: video for video in videos})

    def _hear(self, hand: _Hand) -> VideoResult | RayActorError | None:
        """The next result of a hand, or the worker's death, or nothing where the hand is finished."""
        while True:
            try:
                answer = ray.get(next(hand.answers))
            except StopIteration:
                return None
            except RayActorError as error:
                return error
            except RayTaskError as error:
                if isinstance(error.cause, UnmaskError):
                    raise error.cause from error
                raise UnmaskError(f"a Ray worker failed: {error.cause!r}") from error
            self._deaths = 0
            if isinstance(answer, VideoResult):
                del hand.videos[answer.record.id]
                return answer
            self._times[hand.worker] = answer

    def _put_back(self, hand: _Hand, death: RayActorError) -> Iterator[VideoResult]:
        """Queues what a dead worker had not finished; a video that took several workers with it is given up."""
        self._deaths += 1
        if self._deaths > self._workers + TRIES:
            raise UnmaskError(
                f"{self._deaths} Ray workers died one after the other; the last: {' '.join(str(death).split())[-300:]}"
            )
        for video in hand.videos.values():
            self._lost[video.id] += 1
            if self._lost[video.id] < TRIES:
                self._waiting.append(video)
            else:
                yield _give_up(video)


def _give_up(video: ManifestVideo) -> VideoResult:
    state = FileState.read(video.path)
    record = VideoRecord(
        id=video.id, size=state.size, mtime_ns=state.mtime_ns, sha256="", status=str(Reason.WORKER_DIED),
        detail=f"{TRIES} workers died while they had {video.path} in hand",
        path="", label="", group="", pair="", dataset="", method="", split="", protocol="",
    )  # fmt: skip
    return VideoResult(label_record(record, video))


def _share_resources(workers: int) -> dict[str, float]:
    """What each worker asks of the cluster: its share of the processors, and a GPU where there are enough."""
    # A little less than the whole: what Ray itself has reserved must not keep the last worker waiting for ever.
    return {
        "num_cpus": round(0.9 * _count_resource("CPU") / workers, 2),
        "num_gpus": min(1, int(_count_resource("GPU") / workers)),
    }


def _count_resource(name: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(name, 0.0)
