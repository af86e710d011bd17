"""Self-blended faces: the face of each frame, recoloured and warped a little, blended back over itself.

After Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022: a frame gives both the
"source" (its face shifted in colour, sharpness, scale and shape) and the target it is pasted on, under a soft,
deformed mask. What is left to see is what face swaps leave too: a seam, two colours of skin, two resolutions.
Unlike the paper's still images a clip has one set of parameters that only drifts, so that nothing flickers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # (N, H, W, 3) RGB
Floats = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
DRIFT = 0.15  # how far the strength of a manipulation wanders during a clip


@dataclass(frozen=True)
class Blend:
    """How one clip's face is manipulated. Lengths are in halves of the face box, angles in radians."""

    gain: float  # contrast of the pasted face
    offset: tuple[float, float, float]  # grey levels added to R, G, B
    saturation: float
    detail: float  # below 0: blurred, by that share of the box's width; above 0: sharpened by that amount
    shift: tuple[float, float]
    scale: tuple[float, float]
    angle: float
    waves: tuple[tuple[float, float, float, float, float], ...]  # elastic: push x, y; frequency x, y; phase
    centre: tuple[float, float]
    axes: tuple[float, float]
    lobes: tuple[tuple[float, float], ...]  # outline's deformation of order 2, 3, ...: size, phase
    softness: float  # width of the mask's edge, as a share of its radius
    ratio: float  # how much of the pasted face shows at full mask
    phase: float  # where the drift starts


def draw_blend(rng: np.random.Generator) -> Blend:
    """One random manipulation, strong enough to be learnt from little footage, weak enough to look like a face."""
    # Skin is warm: it bears more warmth than cold before it looks like a corpse's.
    warmth = rng.uniform(9, 18) if rng.random() < 0.6 else -rng.uniform(6, 11)
    sharp = rng.random() < 0.5
    light = _signed(rng, 6, 15)
    return Blend(
        # Less contrast would undo a sharpening.
        gain=1 + (rng.uniform(0.05, 0.15) if sharp else _signed(rng, 0.05, 0.15)),
        offset=(light + warmth, light + rng.uniform(-4, 4), light - warmth),
        saturation=1 + (rng.uniform(0.1, 0.28) if warmth < 0 else _signed(rng, 0.1, 0.28)),
        detail=rng.uniform(1.0, 1.7) if sharp else -rng.uniform(0.012, 0.02),
        shift=(_signed(rng, 0.02, 0.06), _signed(rng, 0.02, 0.06)),
        scale=(1 + _signed(rng, 0.03, 0.08), 1 + _signed(rng, 0.03, 0.08)),
        angle=_signed(rng, 0.02, 0.07),
        waves=tuple(_draw_wave(rng) for _ in range(3)),
        centre=(rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.1)),
        axes=(rng.uniform(0.9, 1.05), rng.uniform(0.85, 1.0)),
        lobes=tuple((rng.uniform(0, 0.05), rng.uniform(0, math.tau)) for _ in range(3)),
        softness=rng.uniform(0.12, 0.3),
        ratio=rng.uniform(0.8, 1.0),
        phase=rng.uniform(0, math.tau),
    )


def blend_clip(frames: Frames, boxes: Floats, blend: Blend) -> Frames:
    """The manipulated version of a clip; `boxes` (N, 4) are its face in each frame, x0, y0, x1, y1."""
    progress = np.linspace(0.0, 1.0, len(frames))
    return np.stack(
        [blend_frame(frame, box, blend, float(at)) for frame, box, at in zip(frames, boxes, progress, strict=True)]
    )


def blend_frame(frame: NDArray[np.uint8], box: Floats, blend: Blend, progress: float) -> NDArray[np.uint8]:
    """One frame with its face blended over itself; pixels where the mask is 0 stay as they are."""
    drift = math.sin(blend.phase + math.pi * progress)
    u, v = _box_coordinates(frame.shape[:2], box)
    source = _warp(frame, box, (u, v), blend, drift)
    source = _recolour(_change_detail(source, box, blend.detail), blend, 1 + DRIFT * drift)
    weight = blend.ratio * _mask(u, v, blend)[..., None]
    mixed = frame + weight * (source - frame)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def face_mask(shape: tuple[int, int], box: Floats, blend: Blend) -> Floats:
    """(H, W) in [0, 1]: 1 on the face, 0 off it, a deformed ellipse with a soft edge."""
    return _mask(*_box_coordinates(shape, box), blend)


def smooth_boxes(boxes: Floats, sigma_frames: float = 2.0) -> Floats:
    """Boxes (N, 4) averaged over neighbouring frames with a Gaussian, so that a detector's jitter is not seen."""
    at = np.arange(len(boxes))
    weights = np.exp(-0.5 * ((at[:, None] - at[None, :]) / sigma_frames) ** 2)
    smooth: Floats = (weights @ boxes / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return smooth


def _signed(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high) * rng.choice((-1, 1)))


def _draw_wave(rng: np.random.Generator) -> tuple[float, float, float, float, float]:
    push, direction = rng.uniform(0.02, 0.045), rng.uniform(0, math.tau)
    frequency, heading = rng.uniform(2.0, 4.5), rng.uniform(0, math.tau)
    return (
        push * math.cos(direction),
        push * math.sin(direction),
        frequency * math.cos(heading),
        frequency * math.sin(heading),
        rng.uniform(0, math.tau),
    )


def _box_coordinates(shape: tuple[int, int], box: Floats) -> tuple[Floats, Floats]:
    """x and y of each pixel, as -1..1 across the box."""
    x0, y0, x1, y1 = (float(edge) for edge in box)
    u = (np.arange(shape[1], dtype=np.float32) + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 1.0)
    v = (np.arange(shape[0], dtype=np.float32) + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 1.0)
    grid_u, grid_v = np.meshgrid(u, v)
    return grid_u, grid_v


def _mask(u: Floats, v: Floats, blend: Blend) -> Floats:
    x, y = (u - blend.centre[0]) / blend.axes[0], (v - blend.centre[1]) / blend.axes[1]
    theta = np.arctan2(y, x)
    outline = 1 + sum(size * np.cos(order * theta + phase) for order, (size, phase) in enumerate(blend.lobes, start=2))
    depth = np.clip((outline - np.hypot(x, y)) / blend.softness + 0.5, 0, 1)
    mask: Floats = (depth * depth * (3 - 2 * depth)).astype(np.float32)  # smoothstep
    return mask


def _warp(frame: NDArray[np.uint8], box: Floats, at: tuple[Floats, Floats], blend: Blend, drift: float) -> Floats:
    """The frame with its face moved, turned, stretched and rippled; read backwards, as remap wants it."""
    u, v = at
    cos, sin = math.cos(blend.angle), math.sin(blend.angle)
    from_u = (cos * u + sin * v) / blend.scale[0] - blend.shift[0]
    from_v = (cos * v - sin * u) / blend.scale[1] - blend.shift[1]
    for push_x, push_y, along_x, along_y, phase in blend.waves:
        wave = np.sin(along_x * u + along_y * v + phase + DRIFT * drift)
        from_u, from_v = from_u + push_x * wave, from_v + push_y * wave
    half_w, half_h = float(box[2] - box[0]) / 2, float(box[3] - box[1]) / 2
    map_x = (from_u * half_w + float(box[0] + box[2]) / 2 - 0.5).astype(np.float32)
    map_y = (from_v * half_h + float(box[1] + box[3]) / 2 - 0.5).astype(np.float32)
    picture = frame.astype(np.float32)
    warped = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped.astype(np.float32, copy=False)


def _change_detail(image: Floats, box: Floats, detail: float) -> Floats:
    width = float(box[2] - box[0])
    if detail < 0:
        return _blur(image, max(-detail * width, 0.3))
    sharp: Floats = image + detail * (image - _blur(image, max(0.02 * width, 0.5)))
    return sharp


def _blur(image: Floats, sigma_px: float) -> Floats:
    return cv2.GaussianBlur(image, (0, 0), sigma_px).astype(np.float32)


def _recolour(image: Floats, blend: Blend, strength: float) -> Floats:
    grey = (image @ LUMA)[..., None]
    coloured = grey + (1 + strength * (blend.saturation - 1)) * (image - grey)
    contrasted = 128 + (1 + strength * (blend.gain - 1)) * (coloured - 128)
    shifted: Floats = contrasted + strength * np.asarray(blend.offset, np.float32)
    return np.clip(shifted, 0, 255)
