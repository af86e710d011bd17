"""Which videos an evaluation judges, and what the heads of a run say of them.

A run's own data is its test split, or, with folds, every video by the head of the fold that held it out. Any other
cache is judged wholly by the saved head, but for what that head has seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from extract.cache import OK, VideoRecord, open_cache, read_fingerprint, require_fingerprint
from extract.errors import FormatError, UnmaskError, UsageError
from extract.files import hash_file
from extract.session import Device
from extract.specs import Spec
from train.checkpoint import CacheSource, PredictionRow, Run, load_head

Kind = Literal["test", "out-of-fold", "whole"]
Role = Literal["train", "val", "test", "out-of-fold", "new"]
SEEN: tuple[Role, ...] = ("train", "val")


class Unscorable(Spec):
    """Videos without a score; `unknown` are those whose label cannot be told any more."""

    fake: int = 0
    real: int = 0
    unknown: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them."""
        return self.fake + self.real + self.unknown


@dataclass(frozen=True)
class JudgedVideo:
    """One video and the part it had in training; `new` had none."""

    id: str
    sha256: str
    label: str
    role: Role
    group: str
    pair: str
    dataset: str
    method: str


@dataclass(frozen=True)
class Frames:
    """The frame logits (F,) of the saved head; `owner` is the place of each among the judged videos."""

    logits: NDArray[np.float64]  # (F,)
    owner: NDArray[np.int64]  # (F,)


@dataclass(frozen=True)
class Judged:
    """V videos and the logits of S heads, one a seed; `fold` is where each held each video out, if it did."""

    kind: Kind
    source: CacheSource
    videos: tuple[JudgedVideo, ...]  # (V,)
    seeds: tuple[int, ...]  # (S,)
    logits: NDArray[np.float64]  # (S, V) uncalibrated
    calibrated: NDArray[np.float64]  # (S, V)
    fold: NDArray[np.int64] | None  # (S, V)
    frames: Frames | None
    unscorable: Unscorable
    left_out: dict[str, int]  # videos that training or validation has seen and that are not judged, by role
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) 1 = fake."""
        return np.array([video.label == "fake" for video in self.videos], dtype=np.int64)


def gather_judged(
    run: Run, rows: Sequence[PredictionRow], features: Path | None, include_train: bool, device: Device = "auto"
) -> Judged:
    """The videos to judge: the run's own where no cache, or its own one, is given; else the whole cache."""
    cache = _find_cache(run, features)
    if (features is not None and not cache.own) or include_train:
        return _judge_whole(run, rows, cache, include_train, device)
    if any(row.split == "test" for row in rows):
        return _judge_test(run, rows, cache, device)
    if any(row.fold is not None for row in rows):
        return _judge_folds(run, rows, cache)
    raise UnmaskError(
        f"{run.path} has neither a test split nor folds, so nothing of its own data is held out; name another cache, "
        "or train with --folds or with test videos in the manifest"
    )


def count_known_persons(judged: Judged, rows: Sequence[PredictionRow]) -> int:
    """The judged videos of a person (dataset and group) that the head was made with, in another video.

    A head of a fold was made with the other folds.
    """
    places: dict[tuple[str, str], set[tuple[str, int | None]]] = {}
    for row in rows:
        if row.group and row.split in SEEN:
            places.setdefault((row.dataset, row.group), set()).add((row.sha256, row.fold))
    folds = [None] * len(judged.videos) if judged.fold is None else judged.fold[0].tolist()
    return sum(
        any(sha256 != video.sha256 and (own is None or fold != own) for sha256, fold in places.get(person, ()))
        for video, own in zip(judged.videos, folds, strict=True)
        for person in [(video.dataset, video.group)]
    )


def stack_rows(rows: Sequence[PredictionRow], field: str) -> NDArray[np.float64]:
    """One field of rows as (S, V): seeds ascending, videos in the order in which they come."""
    seeds, ids = list_seeds(rows), list_ids(rows)
    seed_place = {seed: place for place, seed in enumerate(seeds)}
    video_place = {video_id: place for place, video_id in enumerate(ids)}
    values = np.full((len(seeds), len(ids)), np.nan)
    for row in rows:
        values[seed_place[row.seed], video_place[row.id]] = float(getattr(row, field))
    for seed, video in np.argwhere(np.isnan(values))[:1]:
        raise FormatError(f"the predictions hold no {field} of {ids[video]} for seed {seeds[seed]}; train again")
    return values


def list_seeds(rows: Sequence[PredictionRow]) -> list[int]:
    """The seeds of rows, ascending."""
    return sorted({row.seed for row in rows})


def list_ids(rows: Sequence[PredictionRow]) -> list[str]:
    """The videos of rows, in the order in which they come."""
    return list(dict.fromkeys(row.id for row in rows))


@dataclass(frozen=True)
class _Cache:
    """A cache file; `own` says whether the run was trained on these very bytes, `sha256` is null without a file."""

    path: Path
    sha256: str | None
    own: bool

    def describe_loss(self) -> str:
        """What became of a run's cache that is not there."""
        return f"the run's cache {self.path} " + ("is gone" if self.sha256 is None else "has changed since training")


def _find_cache(run: Run, features: Path | None) -> _Cache:
    expected = run.document.cache
    path = features or Path(expected.path)
    if features is not None:
        remedy = f"extract it with the backbone, detector and options of the cache of {run.path}"
        require_fingerprint(read_fingerprint(path), run.document.fingerprint, path, remedy)
    sha256 = hash_file(path) if path.is_file() else None
    return _Cache(path, sha256, sha256 is not None and sha256 == expected.sha256)


def _judge_test(run: Run, rows: Sequence[PredictionRow], cache: _Cache, device: Device) -> Judged:
    """The test split: by the saved head on the cache or, without that, as training wrote it down."""
    test = [row for row in rows if row.split == "test"]
    if cache.own:
        ids = set(list_ids(test))
        return _run_head(run, cache, "test", lambda record: "test" if record.id in ids else None, device)
    return Judged(
        kind="test",
        source=run.document.cache,
        videos=_list_videos(test, "test"),
        seeds=tuple(list_seeds(test)),
        logits=stack_rows(test, "logit"),
        calibrated=stack_rows(test, "calibrated"),
        fold=None,
        frames=None,
        unscorable=Unscorable(unknown=run.document.split.counts["test"].excluded),
        left_out={},
        notes=(
            f"{cache.describe_loss()}: video-level figures come from the run's predictions.csv, frame AUC from its "
            "run.json",
        ),
    )


def _judge_folds(run: Run, rows: Sequence[PredictionRow], cache: _Cache) -> Judged:
    """Every video of the folds, by the head that never saw it, with the calibration of that fold."""
    held = [row for row in rows if row.fold is not None]
    notes = ["held-out predictions of cross-validation: each video was judged by the head of a fold that never saw it"]
    unscorable = Unscorable(unknown=sum(run.document.excluded.values()))
    if cache.own:
        unscorable = _count_unscorable(record for record in _read_lost(cache.path) if record.split != "test")
    else:
        notes.append(f"{cache.describe_loss()}: the labels of videos without features are not known")
    return Judged(
        kind="out-of-fold",
        source=run.document.cache,
        videos=_list_videos(held, "out-of-fold"),
        seeds=tuple(list_seeds(held)),
        logits=stack_rows(held, "logit"),
        calibrated=stack_rows(held, "calibrated"),
        fold=stack_rows(held, "fold").astype(np.int64),
        frames=None,
        unscorable=unscorable,
        left_out={},
        notes=tuple(notes),
    )


def _judge_whole(run: Run, rows: Sequence[PredictionRow], cache: _Cache, include_train: bool, device: Device) -> Judged:
    """Every video of a cache by the saved head; what that head has seen only if it is asked for."""
    if cache.sha256 is None:
        raise UsageError(f"{cache.describe_loss()}, and --include-train judges the cache itself; name one")
    roles: dict[str, Role] = {row.sha256: cast(Role, row.split) for row in rows if row.sha256}
    left_out: Counter[str] = Counter()

    def assign_role(record: VideoRecord) -> Role | None:
        role = roles.get(record.sha256, "new")
        if role in SEEN and not include_train:
            left_out[role] += 1
            return None
        return role

    judged = _run_head(run, cache, "whole", assign_role, device)
    return replace(judged, left_out=dict(left_out))


def _run_head(
    run: Run, cache: _Cache, kind: Kind, assign_role: Callable[[VideoRecord], Role | None], device: Device
) -> Judged:
    """The saved head on every video of a cache that is given a role."""
    from train.batches import BatchReader
    from train.dataset import open_clip_data
    from train.fit import choose_device
    from train.predict import predict_frames, predict_videos

    place = choose_device(device)
    with open_clip_data(cache.path) as data:
        roles = [assign_role(record) for record in data.records]
        chosen = np.array([video for video, role in enumerate(roles) if role], dtype=np.int64)
        if not chosen.size:
            raise UnmaskError(
                f"every video of {cache.path} was in the training or validation data of {run.path}; give other "
                "videos, or --include-train to judge them all the same"
            )
        head, reader = load_head(run).to(place), BatchReader(data, place)
        logits = np.atleast_2d(predict_videos(head, data, reader, chosen))
        frame_logits, owner = predict_frames(head, data, reader, chosen)
        videos = tuple(_name_video(data.records[video], cast(Role, roles[video])) for video in chosen)
        lost = [record for record in data.lost if kind != "test" or record.split == "test"]
        astray = sum(not record.split for record in data.lost) if kind == "test" else 0
    note = f"of the cache's videos in no split, {astray} without features"
    return Judged(
        kind=kind,
        source=CacheSource(name=cache.path.name, path=str(cache.path), sha256=cache.sha256),
        videos=videos,
        seeds=(run.document.fit.seed,),
        logits=logits,
        calibrated=run.document.calibration.scale(logits),
        fold=None,
        frames=Frames(frame_logits, np.searchsorted(chosen, owner)),
        unscorable=_count_unscorable(lost),
        left_out={},
        notes=(note,) if astray else (),
    )


def _name_video(video: VideoRecord | PredictionRow, role: Role) -> JudgedVideo:
    names = [field.name for field in fields(JudgedVideo) if field.name != "role"]
    return JudgedVideo(role=role, **{name: getattr(video, name) for name in names})


def _list_videos(rows: Sequence[PredictionRow], role: Role) -> tuple[JudgedVideo, ...]:
    return tuple({row.id: _name_video(row, role) for row in rows}.values())


def _read_lost(path: Path) -> list[VideoRecord]:
    with open_cache(path) as cache:
        return [record for record in cache.videos if record.status != OK]


def _count_unscorable(lost: Iterable[VideoRecord]) -> Unscorable:
    labels, reasons = Counter[str](), Counter[str]()
    for record in lost:
        labels[record.label] += 1
        reasons[record.status] += 1
    return Unscorable(fake=labels["fake"], real=labels["real"], reasons=dict(sorted(reasons.items())))
