"""Who is seen in a video, and a split of face swaps in which nobody stands on two sides.

A swap shows two persons, the target and the source of the face, so the swaps of a dataset link its persons. Where whole
linked components fill the sides, no video is lost; where they cannot, persons are assigned one by one and a swap whose
two persons part is left out. Nothing is drawn at random: the same videos give the same split on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any, Protocol

from extract.errors import UnmaskError
from extract.manifest import LABELS, SPLITS, ManifestVideo, Split

SWAP_NAME = re.compile(r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<clip>\d+)")  # Celeb-DF
FFPP_NAME = re.compile(r"\d{3}(_\d{3})?")  # FaceForensics++: an original, or target_source
PROTOCOL = "identity-disjoint"

SIDES = SPLITS
SHARES = (0.70, 0.15, 0.15)
LOWEST, HIGHEST = 0.10, 0.20  # what validation and test may each hold of the videos that are kept
STARTS = 4  # of each kind


@dataclass(frozen=True)
class IdentitySplit:
    """The videos that are kept, each with its side; and the side of every person."""

    videos: tuple[ManifestVideo, ...]
    sides: Mapping[str, Split]
    swapped: frozenset[str]  # the persons who are in a swap; the others could be put anywhere
    dropped: int  # swaps whose two persons stand on different sides

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical assignment: a line `person,side` for each, sorted, each ended by a line feed."""
        lines = sorted(f"{identity},{side}\n" for identity, side in self.sides.items())
        return _hash("".join(lines))

    def summarise(self) -> dict[str, Any]:
        """Who is where, as a JSON document."""
        return {
            "swapped_people": _count_sides(side for name, side in self.sides.items() if name in self.swapped),
            "other_people": _count_sides(side for name, side in self.sides.items() if name not in self.swapped),
            "dropped_fakes": self.dropped,
            "sha256": self.sha256,
            "sides": dict(self.sides),
        }


def _count_sides(sides: Iterable[Split]) -> dict[str, int]:
    counts = Counter(sides)
    return {side: counts[side] for side in SIDES}


class Named(Protocol):
    """What persons are read from: a record of a cache has it."""

    @property
    def id(self) -> str:
        """The path in the manifest, the same on any machine."""

    @property
    def label(self) -> str:
        """Is it real or fake."""

    @property
    def group(self) -> str:
        """The person or source that the manifest names, if any."""

    @property
    def dataset(self) -> str:
        """Where names of groups mean what they mean."""


def list_identities(video: ManifestVideo) -> tuple[str, ...]:
    """Every person or source that a video shows, as far as its group and the names of its dataset tell."""
    return _read_identities(video.path.stem, video)


def recall_identities(video: Named) -> tuple[str, ...]:
    """The same for a video of which only what the manifest said is left."""
    return _read_identities(PurePosixPath(video.id).stem, video)


def _read_identities(stem: str, video: Named) -> tuple[str, ...]:
    swap = SWAP_NAME.fullmatch(stem)
    if video.label == "fake" and swap and swap["target"] == video.group:
        return tuple(dict.fromkeys((swap["target"], swap["source"])))
    if video.dataset.startswith("FF++") and FFPP_NAME.fullmatch(stem):
        return tuple(stem.split("_"))
    return (video.group,) if video.group else ()


def join_linked(links: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """For each name, all names that it is linked with directly or through others, itself among them, sorted."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for first, *others in links:
        root = find(first)
        for other in others:
            parent[find(other)] = root
    members: dict[str, list[str]] = {}
    for name in sorted(parent):
        members.setdefault(find(name), []).append(name)
    return {name: tuple(members[find(name)]) for name in parent}


def split_identities(videos: Sequence[ManifestVideo]) -> IdentitySplit:
    """Assigns every person to train, val or test and leaves out the swaps that this divides."""
    seen = {video.id: list_identities(video) for video in videos}
    nobody = [video_id for video_id, identities in seen.items() if not identities]
    if nobody:
        raise UnmaskError(
            f"nothing tells who is seen in {nobody[0]} and {len(nobody) - 1} others; fill in their `group`"
        )
    swapped = {identity for video in videos if video.label == "fake" for identity in seen[video.id]}
    # Who is in no swap binds nobody: these are spread first, and the search works with what they add.
    alone = [video for video in videos if not swapped.intersection(seen[video.id])]
    sides = _spread([identity for video in alone for identity in seen[video.id]])
    base = [sum(sides[seen[video.id][0]] == side for video in alone) for side in SIDES]
    sides |= _assign([(v.label, seen[v.id]) for v in videos if swapped.intersection(seen[v.id])], base)
    kept = [
        replace(video, split=sides[seen[video.id][0]], protocol=PROTOCOL)
        for video in videos
        if len({sides[identity] for identity in seen[video.id]}) == 1
    ]
    _require_classes(kept, len(sides))
    return IdentitySplit(tuple(kept), dict(sorted(sides.items())), frozenset(swapped), len(videos) - len(kept))


def _spread(appearances: Sequence[str]) -> dict[str, Split]:
    """Gives each person to the side that lacks most, in an order that the names' hashes set."""
    sides: dict[str, Split] = {}
    filled = [0] * len(SIDES)
    counts = Counter(appearances)
    for identity in sorted(counts, key=_hash):
        side = _find_emptiest(filled, len(appearances))
        filled[side] += counts[identity]
        sides[identity] = SIDES[side]
    return sides


def _find_emptiest(filled: Sequence[int], total: int) -> int:
    return max(range(len(SIDES)), key=lambda side: SHARES[side] * total - filled[side])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


Appearance = tuple[str, tuple[str, ...]]  # label, persons


@dataclass(frozen=True)
class _Graph:
    """Units that move as one (components, or single persons), and the videos within and between them."""

    units: tuple[tuple[str, ...], ...]
    real: list[int]
    fake: list[int]  # within a unit
    links: list[dict[int, int]]  # swaps between two units

    def weigh(self, unit: int) -> int:
        return self.real[unit] + self.fake[unit] + sum(self.links[unit].values())


def _assign(videos: Sequence[Appearance], base: Sequence[int]) -> dict[str, Split]:
    """Whole components where that is balanced; persons, the components' solution among the starts, where not."""
    linked = join_linked(identities for _, identities in videos)
    if not linked:
        return {}
    components = _build_graph(sorted(set(linked.values())), videos)
    persons = _build_graph([(identity,) for identity in sorted(linked)], videos)
    best = min((_improve(components, base, start) for start in _list_starts(components)), key=lambda a: a.cost)
    if best.cost[:2] > (0, 0.0):
        whole = best.name_sides()
        starts = [[SIDES.index(whole[unit[0]]) for unit in persons.units], *_list_starts(persons)]
        best = min((_improve(persons, base, start) for start in starts), key=lambda a: a.cost)
    return best.name_sides()


def _build_graph(units: Sequence[tuple[str, ...]], videos: Sequence[Appearance]) -> _Graph:
    place = {identity: index for index, unit in enumerate(units) for identity in unit}
    graph = _Graph(tuple(units), [0] * len(units), [0] * len(units), [{} for _ in units])
    for label, identities in videos:
        first, *others = sorted({place[identity] for identity in identities})
        if label == "real":
            graph.real[first] += 1
        elif not others:
            graph.fake[first] += 1
        else:
            for a, b in ((first, others[0]), (others[0], first)):
                graph.links[a][b] = graph.links[a].get(b, 0) + 1
    return graph


def _list_starts(graph: _Graph) -> list[list[int]]:
    """Assignments to improve on: the heaviest units first, orders that hashes set, and circles grown from a seed."""
    indices = range(len(graph.units))
    orders = [sorted(indices, key=lambda unit: (-graph.weigh(unit), graph.units[unit]))]
    for number in range(1, STARTS):
        orders.append(sorted(indices, key=lambda unit: _hash(f"{number}:{graph.units[unit][0]}")))
    return [*(_fill_in_order(graph, order) for order in orders), *_seat_circles(graph)]


def _fill_in_order(graph: _Graph, order: Sequence[int]) -> list[int]:
    sides, filled = [0] * len(graph.units), [0] * len(SIDES)
    total = sum(graph.weigh(unit) for unit in order)
    for unit in order:
        sides[unit] = _find_emptiest(filled, total)
        filled[sides[unit]] += graph.weigh(unit)
    return sides


def _seat_circles(graph: _Graph) -> list[list[int]]:
    """The pairs of separate circles with the fewest swaps across their borders, as validation and test."""
    circles = sorted({_grow_circle(graph, seed) for seed in range(len(graph.units))}, key=sorted)
    cut = {circle: sum(n for unit in circle for to, n in graph.links[unit].items() if to not in circle)
           for circle in circles}  # fmt: skip
    pairs = [(a, b) for a, b in combinations(circles, 2) if not a & b]
    pairs.sort(key=lambda pair: cut[pair[0]] + cut[pair[1]])
    return [[1 if unit in a else 2 if unit in b else 0 for unit in range(len(graph.units))] for a, b in pairs[:STARTS]]


def _grow_circle(graph: _Graph, seed: int) -> frozenset[int]:
    """Units around a seed, each time the one with most of its swaps inside, until they hold a side's share."""
    wanted = SHARES[-1] * (sum(graph.real) + sum(graph.fake) + sum(sum(n.values()) for n in graph.links) / 2)
    circle, ties = {seed}, dict(graph.links[seed])
    held = graph.real[seed] + graph.fake[seed]
    while held < wanted and ties:
        unit = min(ties, key=lambda unit: (-ties[unit] / graph.weigh(unit), unit))
        held += graph.real[unit] + graph.fake[unit] + ties.pop(unit)
        circle.add(unit)
        for other, count in graph.links[unit].items():
            if other not in circle:
                ties[other] = ties.get(other, 0) + count
    return frozenset(circle)


Cost = tuple[int, float, int, float]


class _Assignment:
    """The side of each unit, with the counts of videos that each side keeps."""

    def __init__(self, graph: _Graph, base: Sequence[int], sides: Sequence[int]) -> None:
        self.graph = graph
        self.sides = list(sides)
        self.real = list(base)
        self.fake = [0] * len(SIDES)
        for unit, side in enumerate(sides):
            self.real[side] += graph.real[unit]
            self.fake[side] += graph.fake[unit]
            self.fake[side] += sum(n for other, n in graph.links[unit].items() if other < unit and sides[other] == side)

    def move(self, unit: int, side: int) -> None:
        """Puts a unit on a side; its swaps with units there come back, those with its old side go."""
        for place, sign in ((self.sides[unit], -1), (side, 1)):
            self.real[place] += sign * self.graph.real[unit]
            kept = sum(n for other, n in self.graph.links[unit].items() if self.sides[other] == place)
            self.fake[place] += sign * (self.graph.fake[unit] + kept)
        self.sides[unit] = side

    @property
    def cost(self) -> Cost:
        """Smaller is better: classes missing on a side, sides out of bounds, swaps lost, distance from the shares."""
        counts = [real + fake for real, fake in zip(self.real, self.fake, strict=True)]
        total = max(sum(counts), 1)
        outside = sum(max(0.0, LOWEST - n / total, n / total - HIGHEST) for n in counts[1:])
        distance = sum(abs(n / total - share) for n, share in zip(counts, SHARES, strict=True))
        return self.real.count(0) + self.fake.count(0), outside, -sum(self.fake), distance

    def name_sides(self) -> dict[str, Split]:
        return {
            identity: SIDES[side] for unit, side in zip(self.graph.units, self.sides, strict=True) for identity in unit
        }


def _improve(graph: _Graph, base: Sequence[int], start: Sequence[int]) -> _Assignment:
    """Moves single units, and exchanges two where no single move helps, until nothing helps."""
    assignment = _Assignment(graph, base, start)
    units = range(len(graph.units))
    while _move_one(assignment) or any(_exchange(assignment, a, b) for a in units for b in units[a + 1 :]):
        pass
    return assignment


def _move_one(assignment: _Assignment) -> bool:
    best, improved = assignment.cost, False
    for unit in range(len(assignment.sides)):
        for side in range(len(SIDES)):
            before = assignment.sides[unit]
            if side == before:
                continue
            assignment.move(unit, side)
            if assignment.cost < best:
                best, improved = assignment.cost, True
            else:
                assignment.move(unit, before)
    return improved


def _exchange(assignment: _Assignment, a: int, b: int) -> bool:
    sides = assignment.sides
    if sides[a] == sides[b]:
        return False
    before = assignment.cost
    old = sides[a], sides[b]
    assignment.move(a, old[1])
    assignment.move(b, old[0])
    if assignment.cost < before:
        return True
    assignment.move(a, old[0])
    assignment.move(b, old[1])
    return False


def _require_classes(videos: Sequence[ManifestVideo], people: int) -> None:
    held = {(video.split, video.label) for video in videos}
    missing = [f"no {label} video in {side}" for side in SIDES for label in LABELS if (side, label) not in held]
    if missing:
        raise UnmaskError(
            f"{people} persons cannot be divided into train, val and test with real and fake videos in each "
            f"({', '.join(missing)}); add videos of more people, or use --split official or none"
        )
