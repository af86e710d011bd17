"""Nobody stands on two sides: who is seen in a video, and the split of Celeb-DF by persons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import permutations
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.datasets.layouts import make_manifest
from extract.datasets.listing import Choice
from extract.errors import UnmaskError
from extract.manifest import ManifestVideo, read_manifest
from extract.splits import SIDES, IdentitySplit, join_linked, list_identities, split_identities
from tests.dataset_trees import PEOPLE, lay, lay_celeb_df, name_celeb_df
from unmask import main

DISJOINT = Choice(split="identity-disjoint")


def real(person: str, clip: int = 0) -> ManifestVideo:
    name = f"Celeb-real/{person}_{clip:04d}.mp4"
    return ManifestVideo(name, Path(name), "real", group=person, dataset="Celeb-DF v2")


def fake(target: str, source: str, clip: int = 0) -> ManifestVideo:
    name = f"Celeb-synthesis/{target}_{source}_{clip:04d}.mp4"
    return ManifestVideo(name, Path(name), "fake", group=target, dataset="Celeb-DF v2")


def youtube(number: int) -> ManifestVideo:
    name = f"YouTube-real/{number:05d}.mp4"
    return ManifestVideo(name, Path(name), "real", group=f"youtube_{number:05d}", dataset="Celeb-DF v2")


def find_divided(videos: Iterable[ManifestVideo]) -> set[str]:
    """The persons who are seen in more than one split, read from the names alone."""
    splits: dict[str, set[str]] = {}
    for video in videos:
        people = [part for part in video.path.stem.split("_") if part.startswith("id")] or [video.path.stem]
        for person in people:
            splits.setdefault(person, set()).add(video.split)
    return {person for person, found in splits.items() if len(found) > 1}


def measure(divided: IdentitySplit) -> dict[str, float]:
    """The share of the kept videos that each side holds."""
    return {side: sum(v.split == side for v in divided.videos) / len(divided.videos) for side in SIDES}


# Three pairs make a split possible; what else is there may link all of them.
CORE = [(f"id{n}", f"id{n + 1}") for n in (0, 2, 4)]
PERSON = st.integers(0, 11).map("id{}".format)
SWAPS = st.lists(st.tuples(PERSON, PERSON, st.integers(1, 3)).filter(lambda swap: swap[0] != swap[1]), unique=True)


@st.composite
def trees(draw: st.DrawFn) -> list[ManifestVideo]:
    swaps = [*((a, b, 0) for a, b in CORE), *draw(SWAPS)]
    people = sorted({target for target, _, _ in swaps} | draw(st.sets(PERSON)))
    numbers = range(draw(st.integers(0, 20)))
    return draw(st.permutations([*(fake(*s) for s in swaps), *map(real, people), *map(youtube, numbers)]))


@settings(max_examples=60, deadline=None)
@given(videos=trees())
def test_nobody_stands_on_two_sides_and_only_swaps_across_are_lost(videos: list[ManifestVideo]) -> None:
    divided = split_identities(videos)
    kept = {video.id for video in divided.videos}
    assert not find_divided(divided.videos)
    assert {(v.split, v.label) for v in divided.videos} == {(s, label) for s in SIDES for label in ("real", "fake")}
    assert divided.dropped == len(videos) - len(kept)
    for video in videos:
        sides = {divided.sides[person] for person in list_identities(video)}
        assert (video.id in kept) == (len(sides) == 1)


@settings(max_examples=30, deadline=None)
@given(videos=trees(), data=st.data())
def test_the_split_does_not_depend_on_the_order_of_the_videos(videos: list[ManifestVideo], data: st.DataObject) -> None:
    once, again = split_identities(videos), split_identities(data.draw(st.permutations(videos)))
    assert (again.sides, again.sha256) == (once.sides, once.sha256)


def test_components_that_fill_the_sides_are_kept_whole() -> None:
    components = [[f"id{10 * c + n}" for n in range(size)] for c, size in enumerate((9, 4, 4))]
    videos = [v for people in components for p in people for v in (real(p), *(fake(p, o) for o in people if o != p))]
    divided = split_identities([*videos, *map(youtube, range(20))])
    assert divided.dropped == 0
    assert {len({divided.sides[person] for person in people}) for people in components} == {1}
    shares = measure(divided)
    assert 0.10 <= shares["val"] <= 0.20
    assert 0.10 <= shares["test"] <= 0.20


def test_one_component_is_cut_where_few_swaps_are_lost() -> None:
    """Three circles of friends with one swap between each two of them."""
    circles = [[f"id{10 * c + n}" for n in range(size)] for c, size in enumerate((9, 5, 5))]
    videos = [v for people in circles for p in people for v in (real(p), *(fake(p, o) for o in people if o != p))]
    bridges = [fake("id0", "id10", 7), fake("id10", "id20", 7), fake("id20", "id0", 7)]
    divided = split_identities([*videos, *bridges])
    assert divided.dropped == 3
    assert {video.id for video in bridges}.isdisjoint(video.id for video in divided.videos)


def test_the_whole_of_a_dense_celeb_df_is_divided_within_bounds() -> None:
    """Everybody swapped with everybody: many swaps must go, but no more than chance would cost."""
    _, _, swaps = name_celeb_df(PEOPLE, 0, 0, 5639)
    parts = [Path(name).stem.split("_") for name in swaps]
    videos = [*(fake(a, b, int(n)) for a, b, n in parts), *(real(p, n) for p in PEOPLE for n in range(10))]
    divided = split_identities([*videos, *map(youtube, range(300))])
    shares = measure(divided)
    assert not find_divided(divided.videos)
    assert 0.10 <= shares["val"] <= 0.20
    assert 0.10 <= shares["test"] <= 0.20
    # Shares of 0.52, 0.24, 0.24 of the persons give 70:15:15 by videos and keep 0.52^2 + 2 * 0.24^2 of the swaps.
    assert sum(video.label == "fake" for video in divided.videos) > 0.385 * 5639


def test_youtube_videos_are_spread_by_the_same_shares() -> None:
    videos = [v for a, b in CORE for v in (real(a), real(b), fake(a, b))]
    divided = split_identities([*videos, *map(youtube, range(300))])
    found = [sum(v.split == side and v.id.startswith("YouTube") for v in divided.videos) for side in SIDES]
    assert found == [210, 45, 45]


def test_the_hash_is_that_of_a_line_for_each_person() -> None:
    divided = split_identities([v for a, b in CORE for v in (real(a), fake(a, b))])
    lines = "".join(f"{person},{divided.sides[person]}\n" for person in sorted(divided.sides))
    assert len(divided.sides) == 6
    assert divided.sha256 == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("swaps", [[("id0", "id1")], list(permutations(["id0", "id1", "id2"], 2))])
def test_too_few_people_for_three_sides_are_refused(swaps: Sequence[tuple[str, str]]) -> None:
    with pytest.raises(UnmaskError, match=r"persons cannot be divided .*no fake video in .*add videos of more people"):
        split_identities([*(fake(a, b) for a, b in swaps), *map(youtube, range(20))])


def test_videos_that_do_not_tell_who_is_seen_are_refused() -> None:
    with pytest.raises(UnmaskError, match=r"nothing tells who is seen in x.mp4 and 0 others"):
        split_identities([fake("id0", "id1"), ManifestVideo("x.mp4", Path("x.mp4"), "real")])


def lay_names_of_a_list(root: Path) -> list[str]:
    """A tree of exactly the videos that a list in the official format names, and the list."""
    reals, numbers, _ = name_celeb_df(PEOPLE, 108, 70, 0)
    blocks = [PEOPLE[:35], PEOPLE[35:47], PEOPLE[47:]]
    swaps = [f"Celeb-synthesis/{a}_{b}_0000.mp4" for block in blocks for a, b in permutations(block, 2)]
    names = [*numbers, *reals, *swaps[::5], "Celeb-synthesis/id0_id61_0003.mp4", "Celeb-synthesis/id0_id44_0003.mp4"]
    lay_celeb_df(root, [], names)
    listed = [line.split()[1] for line in (root / "List_of_testing_videos.txt").read_text().splitlines()]
    lay(root, listed)
    return listed


def test_a_tree_of_the_names_in_a_test_list_is_divided_by_persons(tmp_path: Path) -> None:
    names = lay_names_of_a_list(tmp_path)
    listing = make_manifest(tmp_path, choice=DISJOINT)
    assert listing.identities is not None
    assert not find_divided(listing.videos)
    assert len(listing.videos) + listing.identities.dropped == len(set(names))
    assert {video.protocol for video in listing.videos} == {"identity-disjoint"}


def test_the_command_prints_counts_people_and_the_hash(tmp_path: Path) -> None:
    names = lay_names_of_a_list(tmp_path / "set")
    (tmp_path / "set/List_of_testing_videos.txt").unlink()
    out = tmp_path / "v.csv"
    arguments = ["manifest", str(tmp_path / "set"), "--split", "identity-disjoint", "--out", str(out)]
    document = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    text = CliRunner().invoke(main, arguments).stdout
    people = document["identities"]
    assert people["sha256"] in text
    assert f"{people['dropped_fakes']} fakes between people of two sides left out" in text
    assert document["videos"] + people["dropped_fakes"] == len(set(names))
    assert sum(people["swapped_people"].values()) + sum(people["other_people"].values()) == len(people["sides"])
    assert not find_divided(read_manifest(out))


@pytest.mark.parametrize(
    ("video", "people"),
    [
        (fake("id3", "id17"), ("id3", "id17")),
        (real("id3"), ("id3",)),
        (youtube(7), ("youtube_00007",)),
        (ManifestVideo("id3_id7_0004.mp4", Path("Fake/id3_id7_0004.mp4"), "fake", group="id3"), ("id3", "id7")),
        (ManifestVideo("a", Path("id3_id7_0004.mp4"), "fake", group="anna"), ("anna",)),
        (ManifestVideo("a", Path("953_974.mp4"), "fake", group="953_974", dataset="FF++ c23"), ("953", "974")),
        (ManifestVideo("a", Path("953.mp4"), "real", group="953_974", dataset="FF++ c23"), ("953",)),
        (ManifestVideo("a", Path("953_974.mp4"), "fake", group="bert", dataset="mine"), ("bert",)),
        (ManifestVideo("a", Path("a.mp4"), "fake"), ()),
    ],
)
def test_a_video_shows_its_target_and_its_source(video: ManifestVideo, people: tuple[str, ...]) -> None:
    assert list_identities(video) == people


@given(links=st.lists(st.tuples(PERSON, PERSON)))
def test_linked_names_are_joined_and_others_are_not(links: list[tuple[str, str]]) -> None:
    joined = join_linked(links)
    assert all(joined[a] == joined[b] and {a, b} <= set(joined[a]) for a, b in links)
    assert sum(len(members) for members in set(joined.values())) == len(joined)
    for members in set(joined.values()):
        inside = [link for link in links if set(link) & set(members)]
        assert all(set(link) <= set(members) for link in inside)
        assert len(members) <= len(set(inside)) + 1  # a component of n names needs at least n - 1 links
