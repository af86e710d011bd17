"""Which videos an interval draws together: groups, or the persons that names of fakes tell, within a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.train_data import make_record
from train.measures.clusters import FEWEST, choose_clusters


@dataclass(frozen=True)
class Video:
    """What has to be known of a video."""

    id: str
    label: str = "real"
    group: str = ""
    dataset: str = "toy"


def celeb_df(target: str, source: str, clip: int, group: str) -> Video:
    return Video(f"Celeb-synthesis/{target}_{source}_{clip:04d}.mp4", "fake", group, "Celeb-DF v2")


def ffpp(name: str, group: str, label: str = "fake") -> Video:
    return Video(f"Deepfakes/c23/videos/{name}.mp4", label, group, "FF++ c23")


def test_twenty_groups_are_the_clusters() -> None:
    records = [make_record(video, video % 2 == 0, f"person{video % 20}") for video in range(60)]
    clusters = choose_clusters(records)
    assert (clusters.kind, clusters.note) == ("group", "")
    assert len(np.unique(clusters.names)) == 20
    assert clusters.names[0] == clusters.names[20] != clusters.names[1]


def test_few_groups_give_way_to_the_targets_of_their_fakes() -> None:
    videos = [ffpp(f"{target:03d}_{target + 500:03d}", f"circle{target % 3}") for target in range(30)]
    clusters = choose_clusters([*videos, ffpp("007", "circle1", "real")])
    assert clusters.kind == "target id"
    assert clusters.note == "30 target ids are resampled in place of 3 groups"
    assert clusters.names[7] == clusters.names[30]  # the original of 007_507 shows the same person
    assert len(np.unique(clusters.names)) == 30


def test_the_target_of_a_celeb_df_swap_is_the_first_person_of_its_name() -> None:
    videos = [celeb_df("id3", "id7", 1, "id3"), celeb_df("id3", "id9", 1, "id3"), celeb_df("id7", "id3", 1, "id7")]
    clusters = choose_clusters([*videos, Video("Celeb-real/id3_0001.mp4", "real", "id3", "Celeb-DF v2")])
    assert clusters.names[0] == clusters.names[1] == clusters.names[3] != clusters.names[2]
    assert clusters.note == f"2 groups are resampled; with fewer than {FEWEST} the intervals are rough"


def test_few_targets_are_doubted_too() -> None:
    clusters = choose_clusters([ffpp(f"{target:03d}_900", "one") for target in range(5)])
    assert clusters.note == (
        "5 target ids are resampled in place of 1 group; with fewer than 20 the intervals are rough"
    )


def test_a_name_in_two_datasets_means_two_people() -> None:
    clusters = choose_clusters([Video("a", group="id0", dataset="one"), Video("b", group="id0", dataset="two")])
    assert clusters.names[0] != clusters.names[1]


NAME = st.text(st.sampled_from("ab/1"), max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(NAME, NAME), max_size=30))
def test_two_videos_are_one_cluster_when_dataset_and_group_are_and_never_without_a_group(
    named: list[tuple[str, str]],
) -> None:
    videos = [Video(f"v{index}", group=group, dataset=dataset) for index, (dataset, group) in enumerate(named)]
    names = choose_clusters(videos).names
    assert names.shape == (len(videos),)
    for a, first in enumerate(videos):
        for b, second in enumerate(videos):
            alike = bool(first.group) and (first.dataset, first.group) == (second.dataset, second.group)
            assert (names[a] == names[b]) is (a == b or alike)
