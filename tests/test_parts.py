"""Parts of an extraction: whatever the order, the cuts and the kills, they assemble to one content."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.cache import VideoResult, open_cache, read_cache
from extract.errors import DiskError, MismatchError, UnmaskError
from extract.lock import Lock
from extract.parts import FileState, FinishedVideo, PartStore
from tests.cache_data import SOFTWARE, as_manifest, hash_of, make_result, make_results, save
from tests.fakes import make_fingerprint

ROOT = Path(__file__).parent.parent


def open_store(out: Path, part_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> PartStore:
    return PartStore(out, make_fingerprint(), SOFTWARE, part_s, clock)


def assemble(out: Path, results: list[VideoResult], part_videos: int = 3) -> Path:
    """Results in the order they come, `part_videos` a part."""
    clock = count()  # a second for each look at it
    with open_store(out, part_videos, lambda: next(clock)) as store:
        for result in results:
            store.add(result)
        store.assemble(as_manifest(results))
    return out


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_parts_assemble_to_the_same_content_in_whatever_order_and_wherever_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("p")
    results = [make_result(f"{i:02}", [4] * (i % 4), "test" if i % 7 == 0 else "train", seed=i) for i in range(24)]
    mixed = data.draw(st.permutations(results))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.cache_merge.BLOCK_BYTES", data.draw(st.integers(1, 5000)))
        patch.setattr("extract.cache_merge.OPEN_FILES", data.draw(st.integers(1, 4)))
        assemble(folder / "f.h5", mixed, data.draw(st.integers(4, 12)))
    assert hash_of(folder / "f.h5") == hash_of(save(folder / "whole.h5", results))
    with open_cache(folder / "f.h5") as cache:
        assert cache.content_sha256 == hash_of(folder / "whole.h5")
    assert sorted(p.name for p in folder.iterdir()) == ["f.h5", "whole.h5"]


def test_a_video_done_again_replaces_its_older_result(tmp_path: Path) -> None:
    results = make_results(6)
    assemble(tmp_path / "f.h5", results)
    again = [make_result("004", [9], seed=100), make_result("001", [], seed=101), make_result("004", [7], seed=102)]
    with open_store(tmp_path / "f.h5", part_s=0) as store:
        for result in again:
            store.add(result)
        store.assemble(as_manifest(results))
    newest = {r.record.id: r for r in [*results, *again]}
    assert hash_of(tmp_path / "f.h5") == hash_of(save(tmp_path / "whole.h5", list(newest.values())))


def test_a_video_done_twice_in_one_part_counts_once(tmp_path: Path) -> None:
    first, second = make_result("a", [9]), make_result("a", [5], seed=1)
    assemble(tmp_path / "f.h5", [first, second], part_videos=100)
    assert hash_of(tmp_path / "f.h5") == hash_of(save(tmp_path / "whole.h5", [second]))


def test_finished_videos_are_known_with_file_content_and_status(tmp_path: Path) -> None:
    save(tmp_path / "f.h5", [make_result("a", [5]), make_result("b", [5])])
    with open_store(tmp_path / "f.h5") as store:
        later = make_result("b", [])
        store.add(replace(later, record=replace(later.record, size=8, mtime_ns=10, sha256="cd")))
        store.flush()
        assert store.find_finished() == {
            "a": FinishedVideo(FileState(7, 9), "ab", "OK"),
            "b": FinishedVideo(FileState(8, 10), "cd", "NO_FACE"),
        }


def test_a_cache_is_complete_when_it_says_what_the_manifest_says(tmp_path: Path) -> None:
    results = make_results(3)
    manifest = as_manifest(results)
    assemble(tmp_path / "f.h5", results)
    with open_store(tmp_path / "f.h5") as store:
        assert store.is_complete(manifest[::-1])
        assert not store.is_complete(manifest[:2])
        assert not store.is_complete([*manifest, replace(manifest[0], id="new")])
        for change in ({"split": "val"}, {"label": "real"}, {"path": Path("/elsewhere")}, {"protocol": "official"}):
            assert not store.is_complete([replace(manifest[0], **change), *manifest[1:]])
        store.add(make_result("001", [6]))
        assert not store.is_complete(manifest)
        store.flush()
        assert not store.is_complete(manifest)


def test_samples_of_videos_that_became_test_videos_are_dropped(tmp_path: Path) -> None:
    results = make_results(4)
    assemble(tmp_path / "f.h5", results)
    manifest = [replace(v, split="test" if v.id < "002" else "train") for v in as_manifest(results)]
    with open_store(tmp_path / "f.h5") as store:
        store.assemble(manifest)
    with open_cache(tmp_path / "f.h5") as cache:
        assert set(cache.samples.video.tolist()) == {2, 3}


def test_assembling_reads_no_crop_that_will_not_be_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr("extract.cache.CacheFile._read_sample", spy(read))
    assemble(tmp_path / "f.h5", make_results(40), part_videos=4)
    assert len(read) == 64  # of 160 that the parts hold


def spy(calls: list[int]) -> Callable[..., object]:
    from extract.cache import CacheFile

    original = CacheFile._read_sample

    def read(cache: CacheFile, number: int) -> object:
        calls.append(number)
        return original(cache, number)

    return read


def test_a_killed_removal_of_parts_never_brings_an_older_result_back(tmp_path: Path) -> None:
    store = open_store(tmp_path / "f.h5", part_s=0)
    for seed in range(3):
        store.add(make_result("a", [5], seed=seed))
    parts = sorted((tmp_path / "f.h5.parts").glob("*.h5"))
    removed = []

    def unlink(path: Path) -> None:
        removed.append(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        store.discard_parts()
    assert removed == parts  # the oldest first


def test_a_cache_of_another_backbone_is_refused_naming_the_field(tmp_path: Path) -> None:
    save(tmp_path / "f.h5", [make_result("a", [5])], trained=True)
    with pytest.raises(MismatchError, match=r"backbone.trained: found True, expected False"):
        PartStore(tmp_path / "f.h5", make_fingerprint(trained=False), SOFTWARE)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot write"):
        open_store(tmp_path / "file" / "f.h5")


def test_a_cache_with_videos_the_manifest_lacks_is_refused(tmp_path: Path) -> None:
    results = make_results(2)
    save(tmp_path / "f.h5", results)
    with (
        open_store(tmp_path / "f.h5") as store,
        pytest.raises(MismatchError, match=r"1 videos that are not to be done \(first: 001\)"),
    ):
        store.assemble(as_manifest(results[:1]))


def test_a_second_run_on_one_output_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with open_store(tmp_path / "f.h5"):
        with pytest.raises(UnmaskError, match=rf"another run \(process {os.getpid()}\) fills .*f\.h5; let it finish"):
            open_store(tmp_path / "f.h5")
        open_store(tmp_path / "g.h5").close()
    open_store(tmp_path / "f.h5").close()


def test_a_lock_whose_file_was_removed_keeps_nobody_out(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock", "fills it")
    (tmp_path / "lock").unlink()
    second = Lock(tmp_path / "lock", "fills it")
    with pytest.raises(UnmaskError, match="another run"):
        Lock(tmp_path / "lock", "fills it")
    second.release()
    first.release()


def test_what_a_dead_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead, alive = int(done.stdout), os.getppid()
    (tmp_path / "f.h5.parts").mkdir()
    strays = [tmp_path / f".f.h5.{dead}.tmp", tmp_path / "f.h5.parts" / f".000001.h5.{dead}.tmp"]
    others = [tmp_path / f".f.h5.{alive}.tmp", tmp_path / f".g.h5.{dead}.tmp", tmp_path / ".f.h5.mine.tmp"]
    for path in (*strays, *others):
        path.touch()
    open_store(tmp_path / "f.h5").close()
    assert not any(path.exists() for path in strays)
    assert all(path.exists() for path in others)


ENDLESS_RUN = """
import sys
from pathlib import Path
from extract.parts import PartStore
from tests.cache_data import SOFTWARE, as_manifest, make_results
from tests.fakes import make_fingerprint
results = make_results(40)
print("begun", flush=True)
while True:
    with PartStore(Path(sys.argv[1]), make_fingerprint(), SOFTWARE, part_s=0) as store:
        finished = store.find_finished()
        for result in [r for r in results if r.record.id not in finished] or results[:3]:
            store.add(result)
        store.assemble(as_manifest(results))
"""


def test_a_run_killed_at_any_moment_is_continued_by_the_next(tmp_path: Path) -> None:
    out, results = tmp_path / "f.h5", make_results(40)
    rng = np.random.default_rng(len(str(tmp_path)))
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS_RUN, str(out)], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(rng.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
    with open_store(out) as store:
        finished = store.find_finished()
        for result in results:
            if result.record.id not in finished:
                store.add(result)
        store.assemble(as_manifest(results))
    assert hash_of(out) == hash_of(save(tmp_path / "whole.h5", results))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "whole.h5"]


def test_what_was_assembled_is_read_whole(tmp_path: Path) -> None:
    assemble(tmp_path / "f.h5", make_results(5)[::-1])
    assert [record.id for record in read_cache(tmp_path / "f.h5").videos] == ["000", "001", "002", "003", "004"]


def test_results_that_come_slowly_are_written_at_once(tmp_path: Path) -> None:
    times = iter([0.0, 1.0, 2.0, 40.0])
    results = make_results(3)
    with PartStore(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, 60.0, lambda: next(times, 41.0)) as store:
        for result in results:
            store.add(result)
        assert set(store.find_finished()) == {result.record.id for result in results}
