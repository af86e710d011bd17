"""Trees of empty files, laid out and named as the datasets are, with lists of the official sizes made up here."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations, product
from pathlib import Path

PEOPLE = [f"id{number}" for number in range(62) if number not in (14, 15, 18)]  # Celeb-DF v2 has 59
FFPP_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


def lay(root: Path, names: Collection[str]) -> Path:
    for folder in {root, *((root / name).parent for name in names)}:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).touch()
    return root


def lay_celeb_df(root: Path, videos: Sequence[str], tests: Sequence[str]) -> Path:
    lines = [f"{int('synthesis' not in name)} {name}" for name in tests]
    (lay(root, videos) / "List_of_testing_videos.txt").write_text("\n".join(lines))
    return root


def name_celeb_df(people: Sequence[str], real: int, youtube: int, fake: int) -> tuple[list[str], list[str], list[str]]:
    """Names in Celeb-real, YouTube-real and Celeb-synthesis."""
    clips = range(20)
    reals = [f"Celeb-real/{person}_{clip:04d}.mp4" for clip, person in product(clips, people)][:real]
    swaps = [f"Celeb-synthesis/{a}_{b}_{clip:04d}.mp4" for clip, (a, b) in product(clips, permutations(people, 2))]
    return reals, [f"YouTube-real/{number:05d}.mp4" for number in range(youtube)], swaps[:fake]


def lay_celeb_df_v2(root: Path) -> Path:
    """6,529 videos, of which the list names 340 fake and 178 real, a YouTube video on its first line."""
    real, youtube, fake = name_celeb_df(PEOPLE, 590, 300, 5639)
    return lay_celeb_df(root, [*real, *youtube, *fake], [*youtube[-70:], *real[:108], *fake[::16][:340]])


def lay_celeb_df_v1(root: Path) -> Path:
    """1,203 videos of 13 people, of which the list names 62 fake and 38 real."""
    real, youtube, fake = name_celeb_df(PEOPLE[:13], 158, 250, 795)
    return lay_celeb_df(root, [*real, *youtube, *fake], [*youtube[:20], *real[:18], *fake[:62]])


def pair_ffpp(pairs: int = 500) -> list[tuple[str, str]]:
    """Pairs as the official lists hold them: of numbers in no order."""
    return [
        (f"{2 * n + 1:03d}", f"{2 * n:03d}") if n % 2 else (f"{2 * n:03d}", f"{2 * n + 1:03d}") for n in range(pairs)
    ]


def lay_ffpp(root: Path, pairs: Sequence[tuple[str, str]], shares: tuple[int, int, int] = (360, 70, 70)) -> Path:
    """Originals and four methods in c23, with the lists."""
    names = [f"original_sequences/youtube/c23/videos/{number}.mp4" for pair in pairs for number in pair]
    for method, (a, b) in product(FFPP_METHODS, pairs):
        names += [f"manipulated_sequences/{method}/c23/videos/{name}.mp4" for name in (f"{a}_{b}", f"{b}_{a}")]
    lay(root, names)
    begin = 0
    for split, count in zip(("train", "val", "test"), shares, strict=True):
        (root / f"{split}.json").write_text(json.dumps(pairs[begin : begin + count]))
        begin += count
    return root


def lay_dfdc(part: Path, entries: Mapping[str, object]) -> Path:
    (lay(part, entries) / "metadata.json").write_text(json.dumps(entries))
    return part
