"""How many videos an official split has, and what a manifest that claims it but has other counts says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from extract.manifest import ManifestVideo

CELEB_DF_V2 = "celeb-df-v2-official"
FFPP = "ffpp-official"
COUNTED = frozenset({CELEB_DF_V2, FFPP})
# Celeb-DF v2, List_of_testing_videos.txt: 518 lines.
CELEB_DF_V2_TEST = {"real": 178, "fake": 340}
# FaceForensics++: 360, 70 and 70 pairs, which are twice as many originals and twice as many fakes of each method.
FFPP_COUNTS = {"train": 720, "val": 140, "test": 140}
FFPP_METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
FFPP_LATER_METHODS = ("FaceShifter",)  # published afterwards: counted where it is listed


@dataclass(frozen=True)
class CountError:
    """A part of an official split that is larger or smaller than it should be; `reading` says what that may mean."""

    protocol: str
    part: str
    splits: tuple[str, ...]
    found: Mapping[str, int]  # by label, or by split
    expected: Mapping[str, int]
    reading: str

    @property
    def difference(self) -> int:
        """How many videos are missing or too many."""
        return sum(abs(count - self.found[name]) for name, count in self.expected.items())

    @property
    def phrase(self) -> str:
        """As `FF++ c23, fakes of FaceSwap: 0 train, ... instead of 720 train, ...`."""
        found, expected = (
            ", ".join(f"{count} {name}" for name, count in counts.items()) for counts in (self.found, self.expected)
        )
        return f"{self.part}: {found} instead of {expected}"


def check_counts(videos: Sequence[ManifestVideo]) -> list[CountError]:
    """Every part of the official splits that a manifest names whose count is not the official one."""
    errors: list[CountError] = []
    celeb = [video for video in videos if video.protocol == CELEB_DF_V2]
    if celeb:
        errors += _check_celeb_df(celeb)
    ffpp = [video for video in videos if video.protocol == FFPP]
    for dataset in sorted({video.dataset for video in ffpp}):
        errors += _check_ffpp(dataset, [video for video in ffpp if video.dataset == dataset])
    return errors


def _check_celeb_df(videos: Sequence[ManifestVideo]) -> Iterator[CountError]:
    """Only the test videos: validation may have been taken out of the others."""
    counts = Counter(video.label for video in videos if video.split == "test")
    found = {label: counts[label] for label in CELEB_DF_V2_TEST}  # type: ignore[index]
    if found == CELEB_DF_V2_TEST:
        return
    if sum(found.values()) == sum(CELEB_DF_V2_TEST.values()) - 1:
        reading = "one too few is a list whose first line was taken for a header, or one video that is not on disk"
    else:
        reading = _read_difference(sum(found.values()) - sum(CELEB_DF_V2_TEST.values()))
    yield CountError(CELEB_DF_V2, "test", ("test",), found, CELEB_DF_V2_TEST, reading)


def _check_ffpp(dataset: str, videos: Sequence[ManifestVideo]) -> Iterator[CountError]:
    """One compression: its originals, and the fakes of each method."""
    counts = Counter((video.label, video.method if video.label == "fake" else "", video.split) for video in videos)
    listed = sorted({method for label, method, _ in counts if label == "fake"})
    methods = [*FFPP_METHODS, *(method for method in listed if method in ("", *FFPP_LATER_METHODS))]
    # One name of a video for all methods leaves as many fakes as one method has.
    collapsed = sum(video.label == "fake" for video in videos) <= sum(FFPP_COUNTS.values())
    for label, method in [("real", ""), *(("fake", method) for method in methods)]:
        found = {split: counts[label, method, split] for split in FFPP_COUNTS}  # type: ignore[index]
        expected = FFPP_COUNTS if label == "real" or method else dict.fromkeys(FFPP_COUNTS, 0)
        if found == expected:
            continue
        part = f"{dataset or 'FF++'}, " + ("originals" if label == "real" else f"fakes of {method or 'no method'}")
        if label == "fake" and collapsed:
            reading = "fakes of several methods were listed once, by the name they share, or methods are not on disk"
        else:
            reading = _read_difference(sum(found.values()) - sum(expected.values()))
        wrong = tuple(split for split in FFPP_COUNTS if found[split] != expected[split])
        yield CountError(FFPP, part, wrong, found, expected, reading)


def _read_difference(surplus: int) -> str:
    if surplus > 0:
        return "videos are listed twice under two names, or others were mixed in"
    if surplus < 0:
        return "a part of the dataset is not on disk, or its list was not read whole"
    return "videos stand in another split, or under another label, than in the official list"
