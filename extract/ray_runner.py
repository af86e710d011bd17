"""Extraction on a Ray cluster: workers that each hold the networks and a pipeline, videos dealt out in small hands.

The results come back to the one who started the run, who writes the parts as for a run on one machine. A worker that
dies costs the videos it had not finished; they go to another.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from extract.backbones import Backbone
from extract.detectors import open_detector_of_spec
from extract.errors import Reason, UnmaskError
from extract.manifest import ManifestVideo
from extract.parts import FileState, make_record
from extract.pipeline import Extractor, Pipeline, StageTimes
from extract.results import VideoResult
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
    decoders: int | None

    @classmethod
    def of(cls, extractor: Extractor, device: Device, decoders: int | None) -> Recipe:
        """The recipe of an extractor; without a number of decoders, each worker has one for every two processors."""
        detector = extractor.detector
        return cls(
            backbone=extractor.backbone.path.read_bytes(),
            detector=None if detector.path is None else detector.path.read_bytes(),
            detector_spec=detector.spec,
            sampling=extractor.sampling,
            tracks=extractor.tracks,
            decode_limit_s=extractor.decode_limit_s,
            device=device,
            decoders=decoders,
        )

    def make_extractor(self, processors: int) -> Extractor:
        """Opens the networks on this machine, of which a worker has so many processors."""
        with TemporaryDirectory(prefix="unmask-") as name:  # the files are in memory once they are open
            folder = Path(name)
            (folder / "backbone.onnx").write_bytes(self.backbone)
            file = None
            if self.detector is not None:
                file = folder / "detector.onnx"
                file.write_bytes(self.detector)
            detector = open_detector_of_spec(self.detector_spec, file, self.device)
            backbone = Backbone(folder / "backbone.onnx", self.device)
        decoders = self.decoders or max(1, processors // 2)
        return Extractor(detector, backbone, self.sampling, self.tracks, decoders, self.decode_limit_s)


class Worker:
    """What runs in a process of the cluster."""

    def __init__(self, recipe: Recipe) -> None:
        self._busy = StageTimes()
        resources: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        share = resources.get("CPU", 1.0)
        self._pipeline = Pipeline(recipe.make_extractor(math.ceil(share)), self._busy)

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

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        device: Device = "auto",
        decoders: int | None = None,
    ) -> None:
        self._address = address
        self._workers = workers
        self._device = device
        self._decoders = decoders

    def __call__(
        self, videos: Sequence[ManifestVideo], extractor: Extractor, busy: StageTimes
    ) -> Iterator[VideoResult]:
        """The results of all videos, in any order."""
        begun_here = not ray.is_initialized()
        if begun_here:
            self._begin()
        try:
            recipe = ray.put(Recipe.of(extractor, self._device, self._decoders))
            cpus, gpus = _list_resource("CPU"), _list_resource("GPU") if self._device != "cpu" else []
            workers = self._workers or int(sum(gpus)) or len(cpus)
            yield from _Dealer(recipe, workers, _share_resources(cpus, gpus, workers), videos, busy).run()
        finally:
            if begun_here:
                ray.shutdown()

    def _begin(self) -> None:
        options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
        try:
            ray.init(self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UnmaskError(
                f"no Ray cluster answers at {self._address or 'this machine'}: {error}; start one with `ray start`, "
                "or leave --ray-address out"
            ) from error


class _Dealer:
    """Keeps every worker busy, and replaces those that die."""

    def __init__(
        self, recipe: Any, workers: int, share: dict[str, float], videos: Sequence[ManifestVideo], busy: StageTimes
    ) -> None:
        self._recipe = recipe
        self._workers = min(workers, len(videos))
        self._waiting = deque(replace(video, path=video.path.resolve()) for video in videos)
        self._hand_size = max(1, min(MOST_IN_HAND, len(videos) // (4 * workers)))
        self._lost: Counter[str] = Counter()  # workers that died with a video in hand
        self._deaths = 0  # in a row, without a result between them
        self._busy = busy
        self._times: dict[Any, StageTimes] = {}
        self._share = share

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
        return ray.remote(Worker).options(**self._share).remote(self._recipe)

    def _deal(self, worker: Any) -> _Hand:
        """Gives a worker some videos; one that others died with is dealt alone."""
        videos = [self._waiting.popleft()]
        alone = self._lost[videos[0].id] > 0
        while self._waiting and not alone and len(videos) < self._hand_size and not self._lost[self._waiting[0].id]:
            videos.append(self._waiting.popleft())
        answers = worker.extract.options(num_returns="streaming").remote(videos)
        return _Hand(worker, answers, {video.id: video for video in videos})

    def _hear(self, hand: _Hand) -> VideoResult | RayError | None:
        """The next result of a hand, or the loss of its worker, or nothing where the hand is finished."""
        while True:
            try:
                answer = ray.get(next(hand.answers))
            except StopIteration:
                return None
            except RayTaskError as error:
                if isinstance(error.cause, UnmaskError):
                    raise error.cause from error
                raise UnmaskError(f"a Ray worker failed: {error.cause!r}") from error
            except RayError as error:  # it died, or its node did, or Ray ended it for want of memory
                return error
            self._deaths = 0
            if isinstance(answer, VideoResult):
                del hand.videos[answer.record.id]
                return answer
            self._times[hand.worker] = answer

    def _put_back(self, hand: _Hand, loss: RayError) -> Iterator[VideoResult]:
        """Queues what a lost worker had not finished; a video that took several workers with it is given up."""
        reason = " ".join(str(loss).split())[-300:]
        if getattr(loss, "actor_init_failed", False):
            raise UnmaskError(f"a Ray worker does not start: {reason}")
        self._deaths += 1
        if self._deaths > self._workers + TRIES:
            raise UnmaskError(f"{self._deaths} Ray workers died one after the other; the last: {reason}")
        ray.kill(hand.worker)  # where only the way to it is lost, it would keep its processors
        for video in hand.videos.values():
            self._lost[video.id] += 1
            if self._lost[video.id] < TRIES:
                self._waiting.append(video)
            else:
                yield _give_up(video)


def _give_up(video: ManifestVideo) -> VideoResult:
    detail = f"{TRIES} workers died while they had {video.path} in hand"
    return VideoResult(make_record(video, FileState.read(video.path), "", str(Reason.WORKER_DIED), detail))


def _share_resources(cpus: Sequence[float], gpus: Sequence[float], workers: int) -> dict[str, float]:
    """What each worker asks of the cluster, from the amounts of its nodes: equal shares that all fit."""
    return {
        # A little less than the whole: what Ray itself has reserved must not keep a worker waiting for ever.
        "num_cpus": round(0.9 * fit_share(cpus, workers), 2),
        "num_gpus": math.floor(1e4 * min(1.0, fit_share(gpus, workers))) / 1e4,
    }


def fit_share(amounts: Sequence[float], workers: int) -> float:
    """The largest amount of which so many fit on nodes with these amounts, none across two; 0 without any."""
    shares = {amount / count for amount in amounts for count in range(1, workers + 1)}
    fitting = (share for share in shares if sum(int(a / share + 1e-9) for a in amounts) >= workers)
    return max(fitting, default=0.0)


def _list_resource(name: str) -> list[float]:
    """How much of it each node of the cluster has, of those that have any."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    amounts = (node["Resources"].get(name, 0.0) for node in nodes if node["Alive"])
    return [amount for amount in amounts if amount]
