"""A whole run: statuses, resuming after kills, redoing what changed or failed, shards that merge."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from extract.backbones import Backbone
from extract.cache import hash_content, open_cache, read_cache
from extract.cache_merge import merge_caches
from extract.errors import MismatchError, UsageError
from extract.files import hash_file
from extract.manifest import ManifestVideo, write_manifest
from extract.pipeline import Extractor
from extract.results import VideoRecord
from extract.run import Extraction, Redo, RunConfig, extract_manifest, select_shard
from tests.fakes import FixedDetector, make_tiny_backbone
from tests.media import carphone_frames, numbered_frames, write_video
from unmask import main

ROOT = Path(__file__).parent.parent
FACE = (20.0, 10.0, 44.0, 34.0)


@pytest.fixture
def dataset(tmp_path: Path) -> list[ManifestVideo]:
    videos = []
    for number in range(3):
        path = write_video(tmp_path / f"{number}.mp4", numbered_frames(20 + number)[3:])
        videos.append(ManifestVideo(path.name, path, "fake" if number % 2 else "real"))
    (tmp_path / "broken.mp4").write_text("no video")
    return [*videos, ManifestVideo("broken.mp4", tmp_path / "broken.mp4", "real")]


@pytest.fixture
def extractor(tmp_path: Path) -> Extractor:
    return Extractor(FixedDetector(FACE), Backbone(make_tiny_backbone(tmp_path), "cpu"))


def hash_of(path: Path) -> str:
    with open_cache(path) as cache:
        return hash_content(cache)


class Log:
    """Remembers which videos were done, and can interrupt."""

    def __init__(self, interrupt_at: str = "") -> None:
        self.done: list[str] = []
        self._interrupt_at = interrupt_at

    def begin(self, todo: int, reused: int) -> None:
        self.announced = (todo, reused)

    def add(self, record: VideoRecord) -> None:
        self.done.append(record.id)
        if record.id == self._interrupt_at:
            raise KeyboardInterrupt


def run(videos: list[ManifestVideo], out: Path, extractor: Extractor, redo: Redo | None = None) -> list[str]:
    """The videos that a run did, sorted."""
    log = Log()
    extract_manifest(videos, extractor, out, RunConfig(redo=redo or Redo()), log)
    return sorted(log.done)


def test_a_bad_video_is_a_status_and_the_others_go_on(
    tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor
) -> None:
    log = Log()
    done: Extraction = extract_manifest(dataset, extractor, tmp_path / "features.h5", watcher=log)
    assert done.status_counts == {"DECODE_ERROR": 1, "OK": 3}
    assert log.announced == (4, 0)
    cache = read_cache(tmp_path / "features.h5")
    assert [v.id for v in cache.videos] == ["0.mp4", "1.mp4", "2.mp4", "broken.mp4"]
    assert [video.sha256 for video in cache.videos] == [hash_file(tmp_path / video.id) for video in cache.videos]
    assert cache.clips.length.tolist() == [17, 18, 19]
    with (tmp_path / "failures.csv").open(encoding="utf-8") as file:
        assert [(row["id"], row["status"]) for row in csv.DictReader(file)] == [("broken.mp4", "DECODE_ERROR")]


def test_a_second_run_redoes_only_what_changed(
    tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor
) -> None:
    assert len(run(dataset, tmp_path / "f.h5", extractor)) == 4
    before = (tmp_path / "f.h5").stat().st_mtime_ns
    assert run(dataset, tmp_path / "f.h5", extractor) == []
    assert (tmp_path / "f.h5").stat().st_mtime_ns == before
    write_video(tmp_path / "1.mp4", numbered_frames(30)[3:])
    assert run(dataset, tmp_path / "f.h5", extractor) == ["1.mp4"]
    assert read_cache(tmp_path / "f.h5").clips.length.tolist() == [17, 27, 19]


def test_retry_redoes_videos_of_the_named_reasons_only(
    tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor
) -> None:
    run(dataset, tmp_path / "f.h5", extractor)
    assert run(dataset, tmp_path / "f.h5", extractor, Redo(frozenset({"NO_FACE"}))) == []
    assert run(dataset, tmp_path / "f.h5", extractor, Redo(frozenset({"DECODE_ERROR"}))) == ["broken.mp4"]


def test_rehash_knows_files_by_content(tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor) -> None:
    run(dataset, tmp_path / "f.h5", extractor)
    for video in dataset:
        os.utime(video.path, ns=(1, 1))  # as after copying a dataset to another disk
    assert run(dataset, tmp_path / "f.h5", extractor, Redo(rehash=True)) == []
    assert run(dataset, tmp_path / "f.h5", extractor) == []  # the new times are known now
    content = dataset[0].path.read_bytes()
    dataset[0].path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(dataset[0].path, ns=(1, 1))
    assert run(dataset, tmp_path / "f.h5", extractor) == []
    assert run(dataset, tmp_path / "f.h5", extractor, Redo(rehash=True)) == ["0.mp4"]


def test_rehash_of_a_file_that_cannot_be_read_does_it_again(tmp_path: Path, extractor: Extractor) -> None:
    (tmp_path / "folder.mp4").mkdir()
    videos = [ManifestVideo("folder.mp4", tmp_path / "folder.mp4", "real")]
    run(videos, tmp_path / "f.h5", extractor)
    assert run(videos, tmp_path / "f.h5", extractor, Redo(rehash=True)) == ["folder.mp4"]


def test_an_interrupted_run_keeps_what_it_has(
    tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor
) -> None:
    log = Log(interrupt_at="1.mp4")
    with pytest.raises(KeyboardInterrupt):
        extract_manifest(dataset, extractor, tmp_path / "f.h5", watcher=log)
    assert "1.mp4" in log.done
    assert not set(log.done) & set(run(dataset, tmp_path / "f.h5", extractor))


def test_labels_and_splits_follow_the_manifest_without_new_work(
    tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor
) -> None:
    run(dataset, tmp_path / "f.h5", extractor)
    assert run([replace(v, split="test") for v in dataset], tmp_path / "f.h5", extractor) == []
    assert {v.split for v in read_cache(tmp_path / "f.h5").videos} == {"test"}


def test_videos_that_the_manifest_lacks_are_refused_before_the_work(
    tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor
) -> None:
    run(dataset[:2], tmp_path / "f.h5", extractor)
    log = Log()
    with pytest.raises(MismatchError, match=r"1 videos that are not to be done \(first: 0.mp4\)"):
        extract_manifest(dataset[1:], extractor, tmp_path / "f.h5", watcher=log)
    assert log.done == []


@given(count=st.integers(1, 40), shards=st.integers(1, 9))
def test_shards_hold_every_video_once(count: int, shards: int) -> None:
    videos = [ManifestVideo(f"{n}.mp4", Path(f"{n}.mp4"), "real") for n in range(count)]
    if shards > count:
        with pytest.raises(UsageError, match=r"is empty; take at most"):
            select_shard(videos, f"{shards}/{shards}")
        return
    parts = [select_shard(videos, f"{index}/{shards}") for index in range(1, shards + 1)]
    assert sorted(video.id for part in parts for video in part) == sorted(video.id for video in videos)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write I/N with I from 1 to N"):
        select_shard([], text)


def test_merged_shards_are_the_whole(tmp_path: Path, dataset: list[ManifestVideo], extractor: Extractor) -> None:
    run(dataset, tmp_path / "whole.h5", extractor)
    parts = [tmp_path / f"part{index}.h5" for index in (1, 2, 3)]
    for index, part in enumerate(parts, start=1):
        run(select_shard(dataset, f"{index}/3"), part, extractor)
    merge_caches(parts, tmp_path / "merged.h5")
    assert hash_of(tmp_path / "merged.h5") == hash_of(tmp_path / "whole.h5")


FUZZED_RUN = """
import os, random, signal, sys, time
from pathlib import Path
from extract.backbones import Backbone
from extract.manifest import ManifestVideo
from extract.pipeline import Extractor
from extract.run import RunConfig, extract_manifest
from tests.fakes import FixedDetector
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
videos = [ManifestVideo(p.name, p, "fake") for p in sorted(folder.glob("*.mp4"))]

class Log:
    def begin(self, todo, reused):
        pass
    def add(self, record):
        with (folder / "log.txt").open("a") as file:
            file.write(record.id + chr(10))
        time.sleep(0.02)

def run():
    extractor = Extractor(FixedDetector((20.0, 10.0, 44.0, 34.0)), Backbone(folder / "backbone.onnx", "cpu"))
    extract_manifest(videos, extractor, folder / "f.h5", RunConfig(part_s=0), Log())

rng = random.Random(0)
hit = 0
for _ in range(kills):
    child = os.fork()  # of a process that has loaded everything and started nothing
    if not child:
        run()
        os._exit(0)
    time.sleep(rng.uniform(0.1, 1.2))
    os.kill(child, signal.SIGKILL)
    hit += os.waitpid(child, 0)[1] == signal.SIGKILL
run()
print(hit)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_run_killed_at_20_random_moments_ends_like_an_unbroken_one_and_redoes_nothing(tmp_path: Path) -> None:
    make_tiny_backbone(tmp_path).rename(tmp_path / "backbone.onnx")
    first = write_video(tmp_path / "000.mp4", numbered_frames(12)[3:])
    for number in range(1, 100):
        shutil.copyfile(first, tmp_path / f"{number:03}.mp4")
    hits = fuzz(tmp_path, kills=20)
    assert hits >= 15  # else the moments lie after the end
    done = (tmp_path / "log.txt").read_text(encoding="utf-8").split()
    assert max(Counter(done).values()) == 1
    broken = hash_of(tmp_path / "f.h5")
    assert sorted(path.name for path in tmp_path.glob("*f.h5*")) == ["f.h5"]
    (tmp_path / "f.h5").unlink()
    fuzz(tmp_path, kills=0)
    assert hash_of(tmp_path / "f.h5") == broken


def fuzz(folder: Path, kills: int) -> int:
    command = [sys.executable, "-c", FUZZED_RUN, str(folder), str(kills)]
    return int(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_reports_counts_and_where_time_went(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", carphone_frames(12))
    write_manifest(tmp_path / "v.csv", [ManifestVideo("a.mp4", video, "real")])
    backbone = make_tiny_backbone(tmp_path)
    out = tmp_path / "features.h5"
    common = ("extract", tmp_path / "v.csv", "--backbone", backbone, "--detector", "mtcnn", "--out", out)
    document = json.loads(invoke(*common, "--tracks", "all", "--json").stdout)
    assert document["status_counts"] == {"OK": 1}
    assert set(document["busy_s"]) == {"decode", "detect", "crop", "backbone", "write"}
    again = invoke(*common)
    assert again.exit_code == 1
    assert "tracks.keep: found 'all', expected 'main'" in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--retry", "NO_FACES"), "--retry NO_FACES is no reason; known are NO_FACE, TOO_SHORT"),
        (("--workers", "2"), "--ray-address and --workers go with --runner ray"),
        (("--shard", "2/1"), "write I/N with I from 1 to N"),
    ],
)
def test_options_that_cannot_be_are_misuse(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    write_manifest(tmp_path / "v.csv", [ManifestVideo("a.mp4", tmp_path / "a.mp4", "real")])
    backbone = make_tiny_backbone(tmp_path)
    result = invoke("extract", tmp_path / "v.csv", "--backbone", backbone, "--out", tmp_path / "f.h5", *arguments)
    assert result.exit_code == 2
    assert message in result.output
