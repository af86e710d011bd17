"""Which videos an evaluation judges, and what the heads of a run say of them.

A run's own data is its test split, or, with folds, every video by the head of the fold that held it out. Any other
cache is judged wholly by the saved head, but for what that head has seen. What it has seen goes by content, under
whatever name, and a file that stands under several is judged once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from extract.audit.report import count_noun
from extract.cache import OK, VideoRecord, open_cache, read_fingerprint, require_fingerprint
from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from extract.files import hash_file
from extract.session import Device
from extract.specs import Spec
from extract.splits import recall_identities
from train.checkpoint import CacheSource, PredictionRow, Run, load_head

Kind = Literal["test", "out-of-fold", "whole"]
Role = Literal["train", "val", "test", "out-of-fold", "new"]
SEEN: tuple[Role, ...] = ("train", "val")
UNNAMED = "(not named)"  # a method or dataset


class Unscorable(Spec):
    """Videos without a score; of those that are `unknown` the label, or whether they belong here, cannot be told.

    `by_method` counts fakes, `by_dataset` both classes; the unknown ones are in neither.
    """

    fake: int = 0
    real: int = 0
    unknown: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)
    by_method: dict[str, int] = Field(default_factory=dict)
    by_dataset: dict[str, int] = Field(default_factory=dict)

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
    left_out: dict[str, int]  # videos that training, validation or another fold has seen, which are not judged
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) 1 = fake."""
        return np.array([video.label == "fake" for video in self.videos], dtype=np.int64)


def gather_judged(
    run: Run, rows: Sequence[PredictionRow], features: Path | None, include_train: bool, device: Device = "auto"
) -> Judged:
    """The videos to judge: the run's own where no cache, or its own one, is given; else the whole cache."""
    cache = _find_cache(run, features, include_train)
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
    """The judged videos that show a person whom the head was made with, in another video.

    Persons go by dataset, and by the names of face swaps too, which show two. A head of a fold was made with the
    other folds.
    """
    places: dict[tuple[str, str], set[tuple[str, int | None]]] = {}
    for row in rows:
        for person in list_persons(row) if row.split in SEEN else ():
            places.setdefault(person, set()).add((row.sha256, row.fold))
    folds = [None] * len(judged.videos) if judged.fold is None else judged.fold[0].tolist()
    return sum(
        any(
            sha256 != video.sha256 and (own is None or fold != own)
            for person in list_persons(video)
            for sha256, fold in places.get(person, ())
        )
        for video, own in zip(judged.videos, folds, strict=True)
    )


def list_persons(video: JudgedVideo | PredictionRow) -> list[tuple[str, str]]:
    """Whom a video shows, as far as its group and its name tell: dataset and identity of each."""
    return [(video.dataset, identity) for identity in recall_identities(video)]


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
    """A cache file; `own` says whether the run was trained on these very bytes, `sha256` is null without a file.

    `replaced`: it lies where the run's cache lay, and is another.
    """

    path: Path
    sha256: str | None
    own: bool
    replaced: bool

    def describe_loss(self) -> str:
        """What became of a run's cache that is not there."""
        return f"the run's cache {self.path} " + ("is gone" if self.sha256 is None else "has changed since training")


def _find_cache(run: Run, features: Path | None, include_train: bool) -> _Cache:
    """The cache to judge; one that is read, other bytes than the run's among them, must fit the head."""
    expected = run.document.cache
    path = features or Path(expected.path)
    sha256 = hash_file(path) if path.is_file() else None
    own = sha256 is not None and sha256 == expected.sha256
    if features is not None or (include_train and sha256 is not None):
        remedy = f"extract it with the backbone, detector and options of the cache of {run.path}"
        require_fingerprint(read_fingerprint(path), run.document.fingerprint, path, remedy)
    lies_there = sha256 is not None and path.resolve() == Path(expected.path).resolve()
    return _Cache(path, sha256, own, lies_there and not own)


def _judge_test(run: Run, rows: Sequence[PredictionRow], cache: _Cache, device: Device) -> Judged:
    """The test split: by the saved head on the cache or, without that, as training wrote it down."""
    test, left_out = _leave_out_seen([row for row in rows if row.split == "test"], rows, run.path)
    if cache.own:
        ids = set(list_ids(test))
        judged = _run_head(run, cache, "test", lambda record: "test" if record.id in ids else None, device)
        lost, astray = _find_lost_of_test(run, rows, _read_lost(cache.path))
        return replace(judged, unscorable=_count_unscorable(lost, astray), left_out=left_out)
    test, copies = _drop_copies(test, run.path)
    return Judged(
        kind="test",
        source=run.document.cache,
        videos=_list_videos(test, "test"),
        seeds=tuple(list_seeds(test)),
        logits=stack_rows(test, "logit"),
        calibrated=stack_rows(test, "calibrated"),
        fold=None,
        frames=None,
        unscorable=_recall_unscorable(run, "test"),
        left_out=left_out,
        notes=(
            f"{cache.describe_loss()}: video-level figures come from the run's predictions.csv, frame AUC from its "
            "run.json",
            *_tell_copies(copies),
        ),
    )


def _judge_folds(run: Run, rows: Sequence[PredictionRow], cache: _Cache) -> Judged:
    """Every video of the folds, by the head that never saw it, with the calibration of that fold."""
    held, left_out = _leave_out_seen([row for row in rows if row.fold is not None], rows, run.path)
    held, copies = _drop_copies(held, run.path)
    notes = ["held-out predictions of cross-validation: each video was judged by the head of a fold that never saw it"]
    if cache.own:
        unscorable = _count_unscorable([record for record in _read_lost(cache.path) if record.split != "test"])
    else:
        unscorable = _recall_unscorable(run, "train")
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
        left_out=left_out,
        notes=(*notes, *_tell_copies(copies)),
    )


def _judge_whole(run: Run, rows: Sequence[PredictionRow], cache: _Cache, include_train: bool, device: Device) -> Judged:
    """Every video of a cache by the saved head; what that head has seen only if it is asked for."""
    if cache.sha256 is None:
        raise UsageError(f"{cache.describe_loss()}, and --include-train judges the cache itself; name one")
    # Of a file in two splits the one that the head was made with counts.
    ranked = sorted(rows, key=lambda row: ("test", "val", "train").index(row.split))
    roles: dict[str, Role] = {row.sha256: cast(Role, row.split) for row in ranked if row.sha256}
    left_out: Counter[str] = Counter()

    def assign_role(record: VideoRecord) -> Role | None:
        role = roles.get(record.sha256, "new")
        if role in SEEN and not include_train:
            left_out[role] += 1
            return None
        return role

    judged = _run_head(run, cache, "whole", assign_role, device)
    changed = (cache.describe_loss(),) if cache.replaced else ()
    return replace(judged, left_out=dict(left_out), notes=(*changed, *judged.notes))


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
        roles = {record.id: role for record in data.records if (role := assign_role(record))}
        if not roles:
            raise UnmaskError(
                f"every video of {cache.path} was in the training or validation data of {run.path}; give other "
                "videos, or --include-train to judge them all the same"
            )
        records, copies = _drop_copies([record for record in data.records if record.id in roles], cache.path)
        once = {record.id for record in records}
        chosen = np.array([video for video, record in enumerate(data.records) if record.id in once], dtype=np.int64)
        head, reader = load_head(run).to(place), BatchReader(data, place)
        logits = np.atleast_2d(predict_videos(head, data, reader, chosen))
        frame_logits, owner = predict_frames(head, data, reader, chosen)
        lost = data.lost
    return Judged(
        kind=kind,
        source=CacheSource(name=cache.path.name, path=str(cache.path), sha256=cache.sha256),
        videos=tuple(_name_video(record, roles[record.id]) for record in records),
        seeds=(run.document.fit.seed,),
        logits=logits,
        calibrated=run.document.calibration.scale(logits),
        fold=None,
        frames=Frames(frame_logits, np.searchsorted(chosen, owner)),
        unscorable=_count_unscorable(lost),
        left_out={},
        notes=_tell_copies(copies),
    )


def _leave_out_seen(
    held: list[PredictionRow], rows: Sequence[PredictionRow], path: Path
) -> tuple[list[PredictionRow], dict[str, int]]:
    """Rows that were held out, without the videos whose content the head that judges them has seen; and their count."""
    homes: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        homes.setdefault((row.sha256, row.seed), set()).add(_name_home(row))
    seen: dict[str, str] = {}
    for row in held:
        others = homes[row.sha256, row.seed] - {_name_home(row), "test"} if row.sha256 else set()
        # A test video is judged by the saved head, which has seen all folds.
        for other in sorted(others)[:1]:
            seen[row.id] = other if other in SEEN else "train" if row.fold is None else "another fold"
    kept = [row for row in held if row.id not in seen]
    if not kept:
        raise UnmaskError(
            f"every video that {path} held out is, under another name, one that its head has learned from; correct "
            "the manifest, then train again"
        )
    return kept, dict(Counter(seen.values()))


def _name_home(row: PredictionRow) -> str:
    return row.split if row.fold is None else f"fold {row.fold}"


Named = TypeVar("Named", VideoRecord, PredictionRow)


def _drop_copies(videos: Sequence[Named], path: Path) -> tuple[list[Named], int]:
    """The videos without those that are an earlier one's file under another id, and how many these were."""
    first: dict[str, Named] = {}
    for video in videos:
        known = first.setdefault(video.sha256 or video.id, video)
        if known.label != video.label:
            raise MismatchError(
                f"{path} calls {known.id} {known.label} and {video.id}, which is the same file, {video.label}; correct "
                "the manifest, then extract and train again"
            )
    kept = [video for video in videos if first[video.sha256 or video.id].id == video.id]
    return kept, len({video.id for video in videos}) - len(first)


def _tell_copies(copies: int) -> tuple[str, ...]:
    if not copies:
        return ()
    return (f"{count_noun(copies, 'video')} not judged, for the same file stands under another id and is judged once",)


def _name_video(video: VideoRecord | PredictionRow, role: Role) -> JudgedVideo:
    names = [field.name for field in fields(JudgedVideo) if field.name != "role"]
    return JudgedVideo(role=role, **{name: getattr(video, name) for name in names})


def _list_videos(rows: Sequence[PredictionRow], role: Role) -> tuple[JudgedVideo, ...]:
    return tuple({row.id: _name_video(row, role) for row in rows}.values())


def _read_lost(path: Path) -> list[VideoRecord]:
    with open_cache(path) as cache:
        return [record for record in cache.videos if record.status != OK]


def _find_lost_of_test(
    run: Run, rows: Sequence[PredictionRow], lost: Sequence[VideoRecord]
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Of videos without features those of the test split, and those of which no split is known.

    Where the manifest names none, a video would have gone with its group. Folds leave no such video to the test split.
    """
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.group:
            splits.setdefault(row.group, set()).add(row.split)
    inside = [record for record in lost if record.split == "test"]
    astray: list[VideoRecord] = []
    for record in lost if run.document.split.folds is None else ():
        homes = splits.get(record.group, set())
        if record.split or (homes and "test" not in homes):
            continue
        (inside if homes == {"test"} else astray).append(record)
    return inside, astray


def _recall_unscorable(run: Run, split: str) -> Unscorable:
    """What a run still knows of the videos without features, where its cache is gone: not which they were."""
    document = run.document
    count = sum(document.excluded.values())
    known = {name: found.excluded for name, found in document.split.counts.items()}
    # Videos that name no split went to the folds, or may have gone to the test split.
    others = sum(number for name, number in known.items() if name != split)
    if document.split.folds is not None:
        others = known["test"] if split == "train" else count - known["test"]
    unknown = count - others
    return Unscorable(unknown=unknown, reasons=document.excluded if unknown == count else {})


def _count_unscorable(lost: Sequence[VideoRecord], astray: Sequence[VideoRecord] = ()) -> Unscorable:
    labels = Counter(record.label for record in lost)
    reasons = Counter(record.status for record in (*lost, *astray))
    methods = Counter(record.method or UNNAMED for record in lost if record.label == "fake")
    datasets = Counter(record.dataset or UNNAMED for record in lost)
    return Unscorable(
        fake=labels["fake"],
        real=labels["real"],
        unknown=len(astray),
        reasons=dict(sorted(reasons.items())),
        by_method=dict(sorted(methods.items())),
        by_dataset=dict(sorted(datasets.items())),
    )
