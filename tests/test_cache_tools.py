"""What is done with whole caches: verify, merge, diff, the list of failures, and their commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.backbones import measure_feature_error
from extract.cache import VideoResult, open_cache, read_cache, write_cache
from extract.cache_diff import diff_caches, measure_deviation
from extract.cache_merge import merge_caches
from extract.cache_verify import verify_cache
from extract.errors import FormatError, MismatchError, UnmaskError, UsageError
from extract.failures import write_failures
from tests.cache_data import SOFTWARE, flip_byte, hash_of, list_datasets, make_result, make_results, save
from tests.fakes import make_fingerprint
from unmask import main

Change = Callable[[VideoResult], VideoResult]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cache", *map(str, arguments)])


def change_record(result: VideoResult, **changes: object) -> VideoResult:
    return replace(result, record=replace(result.record, **changes))  # type: ignore[arg-type]


def change_clip(result: VideoResult, **changes: object) -> VideoResult:
    return replace(result, clips=(replace(result.clips[0], **changes), *result.clips[1:]))  # type: ignore[arg-type]


# verify


def test_a_sound_cache_says_what_was_checked(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", [*make_results(3), make_result("x", [])])
    done = verify_cache(path)
    assert (done.videos, done.clips, done.rows, done.samples) == (4, 6, 27, 12)
    assert done.datasets == len(list_datasets(path))
    assert done.content_sha256 == hash_of(path)


def test_a_changed_byte_in_any_dataset_is_found_and_named(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", make_results(3))
    sound = path.read_bytes()
    names = list_datasets(path)
    assert len(names) == 28
    for name in names:
        with h5py.File(path, "r") as file:
            offset = file[name].id.get_chunk_info(0).byte_offset
        flip_byte(path, offset)
        with pytest.raises(FormatError, match=f"the checksum of {name} does not fit"):
            verify_cache(path)
        path.write_bytes(sound)
    verify_cache(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_changed_byte_anywhere_passes_for_other_content(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = save(tmp_path_factory.mktemp("c") / "f.h5", make_results(3))
    expected = hash_of(path), read_cache(path).videos
    flip_byte(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    try:
        verify_cache(path)
    except FormatError:
        return
    assert (hash_of(path), read_cache(path).videos) == expected  # a byte that HDF5 does not use


def test_a_cache_cut_short_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", make_results(3))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="damaged or not a feature cache"):
        verify_cache(path)


def make_infinite(result: VideoResult) -> VideoResult:
    return change_clip(result, features=np.full((5, 8), np.inf, np.float16))


UNSOUND: dict[str, tuple[Change, str]] = {
    "status": (lambda r: change_record(r, status="BORED"), "000 has the status 'BORED', expected OK or one of NO_FACE"),
    "failed with clips": (lambda r: change_record(r, status="NO_FACE"), "000 has the status NO_FACE and 2 clips"),
    "ok without clips": (lambda r: replace(r, clips=(), samples=()), "000 has the status OK and 0 clips"),
    "short": (
        lambda r: change_record(make_result("000", [3]), id="000"),
        "a clip of 000 has 3 rows, expected at least",
    ),
    "backwards": (lambda r: change_clip(r, end_s=-1.0), r"a clip of 000 lasts from 0.0 s to -1.0 s"),
    "features": (make_infinite, "features of 000, clip 0, are not all finite"),
    "boxes": (lambda r: change_clip(r, boxes=np.full((5, 4), np.nan)), "boxes of 000, clip 0, are not all finite"),
    "crops": (
        lambda r: replace(r, samples=tuple(replace(s, crop=s.crop[:16, :16]) for s in r.samples)),
        r"samples have the shapes \[\(16, 16, 3\)\], expected \(32, 32, 3\)",
    ),
    "one row": (
        lambda r: replace(r, samples=tuple(replace(s, row=0) for s in r.samples)),
        "two samples have one row",
    ),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_contents_that_no_extraction_makes_are_named(tmp_path: Path, what: str) -> None:
    change, message = UNSOUND[what]
    path = save(tmp_path / "f.h5", [change(make_result("000", [5, 4]))])
    with pytest.raises(FormatError, match=message):
        verify_cache(path)


def test_videos_out_of_order_or_twice_are_named(tmp_path: Path) -> None:
    results = make_results(2)
    for order in (results[::-1], [results[0], results[0]]):
        write_cache(tmp_path / "f.h5", make_fingerprint(), SOFTWARE, order)
        with pytest.raises(FormatError, match=f"video 000 follows {order[0].record.id}, expected each id once"):
            verify_cache(tmp_path / "f.h5")


def rewrite(path: Path, name: str, values: object) -> None:
    """Writes other values with checksums that fit."""
    with h5py.File(path, "r+") as file:
        file[name][...] = values


def test_a_number_written_later_does_not_fit_the_content_hash(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", [make_result("a", [5])])
    rewrite(path, "rows/score", 0.5)
    with pytest.raises(FormatError, match="its content hash is"):
        verify_cache(path)


CONTRADICTIONS = {
    "clips/start": ([1, 5], "clips are not consecutive rows of the 9 there are"),
    "clips/length": ([5, 5], "clips are not consecutive rows of the 9 there are"),
    "clips/video": ([0, 7], "clips name videos out of order, or beyond the 1 there are"),
    "samples/row": ([0, 1, 2, 900], "a sample lies outside of the 9 rows"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_tables_that_contradict_each_other_are_refused_by_every_reader(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "f.h5", [make_result("a", [5, 4])])
    values, message = CONTRADICTIONS[name]
    rewrite(path, name, values)
    for reader in (verify_cache, read_cache):
        with pytest.raises(FormatError, match=message):
            reader(path)


def test_columns_of_other_lengths_are_refused(tmp_path: Path) -> None:
    for name, message in (
        ("clips/track", "clips have columns of different lengths"),
        ("rows/score", "rows have columns of different lengths"),
        ("samples/priority", "samples have columns of different lengths"),
        ("features", r"features are \(1, 3\), expected \(1, 8\)"),
    ):
        path = save(tmp_path / "f.h5", [make_result("a", [5, 4])])
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = np.zeros((1, 3) if name == "features" else 1)
            for row in ("rows/time_s", "rows/box", "rows/score") if name == "features" else ():
                file[row].resize(1, axis=0)
        with pytest.raises(FormatError, match=message):
            read_cache(path)


# merge


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_merged_shards_have_the_content_of_one_run_however_videos_are_divided(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("m")
    results = [make_result(f"{i:02}", [4] * (i % 3), "test" if i % 7 == 0 else "train", seed=i) for i in range(36)]
    shards: list[list[VideoResult]] = [[], [], []]
    for result in results:
        for shard in data.draw(st.sets(st.sampled_from(range(3)), min_size=1)):
            shards[shard].append(result)
    paths = [save(folder / f"{i}.h5", shard) for i, shard in enumerate(shards)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.cache_merge.BLOCK_BYTES", data.draw(st.integers(1, 3000)))
        done = merge_caches(paths, folder / "all.h5")
    assert done.content_sha256 == hash_of(folder / "all.h5") == hash_of(save(folder / "whole.h5", results))
    assert done.videos == 36
    assert done.repeated == sum(map(len, shards)) - 36


def test_a_merged_cache_names_its_inputs(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{name}.h5", [make_result(name, [5])]) for name in "ab"]
    result = run("merge", *paths, "--out", tmp_path / "all.h5", "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    with open_cache(tmp_path / "all.h5") as cache:
        inputs = cache.provenance["merged_from"]
        assert printed["content_sha256"] == cache.content_sha256
    assert inputs == [{"name": p.name, "content_sha256": hash_of(p), "provenance": SOFTWARE} for p in paths]
    assert (printed["videos"], printed["inputs"], printed["repeated"]) == (2, 2, 0)


DIFFERENT: dict[str, tuple[Change, str]] = {
    "label": (lambda r: change_record(r, label="real"), "with a different label;"),
    "several fields": (lambda r: change_record(r, sha256="cd", split="val"), "with a different sha256, split;"),
    "scores": (lambda r: change_clip(r, scores=r.clips[0].scores / 2), "with a different rows;"),
    "clips": (lambda r: replace(r, clips=r.clips[:1], samples=()), "with a different rows;"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_two_results_of_one_video_are_refused_naming_it(tmp_path: Path, what: str) -> None:
    change, message = DIFFERENT[what]
    result = make_result("a/b.mp4", [5, 4])
    paths = [save(tmp_path / "a.h5", [result]), save(tmp_path / "b.h5", [change(result)])]
    with pytest.raises(MismatchError, match=rf"a/b.mp4 is in .*a\.h5 and in .*b\.h5 {message}"):
        merge_caches(paths, tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()


def test_where_a_repeated_video_lay_makes_no_difference(tmp_path: Path) -> None:
    result = make_result("a", [5])
    moved = change_record(result, path="/elsewhere", mtime_ns=1, detail="other words")
    merge_caches([save(tmp_path / "a.h5", [result]), save(tmp_path / "b.h5", [moved])], tmp_path / "all.h5")
    assert hash_of(tmp_path / "all.h5") == hash_of(tmp_path / "a.h5")


def test_caches_of_different_backbones_are_not_merged(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{t}.h5", [make_result("a", [5])], trained=t) for t in (True, False)]
    with pytest.raises(
        MismatchError, match=r"False\.h5 was made differently \(backbone.trained: found False, expected"
    ):
        merge_caches(paths, tmp_path / "all.h5")


def test_a_file_that_exists_is_merged_over_only_when_told_so(tmp_path: Path) -> None:
    path, out = save(tmp_path / "a.h5", [make_result("a", [5])]), save(tmp_path / "all.h5", [make_result("b", [5])])
    refused = run("merge", path, "--out", out)
    assert (refused.exit_code, refused.stderr) == (
        2,
        f"unmask: {out} exists already; choose another --out, or add --overwrite\n",
    )
    assert run("merge", path, out, "--out", out, "--overwrite").exit_code == 0
    assert [record.id for record in read_cache(out).videos] == ["a", "b"]


def test_merging_nothing_is_misuse(tmp_path: Path) -> None:
    assert run("merge", "--out", tmp_path / "all.h5").exit_code == 2
    with pytest.raises(UsageError, match="nothing to merge"):
        merge_caches([], tmp_path / "all.h5")


def test_a_damaged_input_is_named_and_not_the_output(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", [make_result("a", [5])])
    with h5py.File(path, "r") as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    flip_byte(path, offset)
    with pytest.raises(UnmaskError, match=r"a\.h5 is damaged in features"):
        merge_caches([path], tmp_path / "all.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


# diff


def test_equal_caches_differ_in_nothing(tmp_path: Path) -> None:
    a, b = (save(tmp_path / name, make_results(3)) for name in ("a.h5", "b.h5"))
    found = diff_caches(a, b)
    assert found.equal
    assert found.describe() == ["3 videos in both: equal within 0"]


def test_videos_and_fields_that_differ_are_listed(tmp_path: Path) -> None:
    a, b, c, d = make_results(4)
    failed = change_record(make_result("001", []), sha256="cd")
    paths = save(tmp_path / "a.h5", [a, b, c]), save(tmp_path / "b.h5", [failed, c, d])
    found = diff_caches(*paths)
    assert (found.only_in_a, found.only_in_b, found.shapes) == (["000"], ["003"], ["001"])
    assert found.fields == {"sha256": ["001"], "status": ["001"]}
    assert not found.equal


SHIFTS = {
    "time_s": lambda r: change_clip(r, times_s=r.clips[0].times_s + 0.25),
    "box_px": lambda r: change_clip(r, boxes=r.clips[0].boxes + np.float32(0.25)),
    "score": lambda r: change_clip(r, scores=r.clips[0].scores + np.float32(0.25)),
}


@pytest.mark.parametrize("quantity", SHIFTS)
def test_the_largest_difference_is_measured_and_let_pass_up_to_the_tolerance(tmp_path: Path, quantity: str) -> None:
    results = make_results(3)
    moved = [results[0], SHIFTS[quantity](results[1]), results[2]]
    paths = save(tmp_path / "a.h5", results), save(tmp_path / "b.h5", moved)
    found = diff_caches(*paths)
    assert found.largest[quantity].value == pytest.approx(0.25, abs=1e-4)  # float32 boxes of up to 99 px
    assert found.largest[quantity].video == "001"
    assert [name for name, largest in found.largest.items() if largest.video] == [quantity]
    assert not found.equal
    assert diff_caches(*paths, tolerance=0.26).equal


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), videos=st.integers(1, 4), scale=st.floats(0.001, 10))
def test_features_are_measured_as_everywhere_in_their_deviations(
    tmp_path_factory: pytest.TempPathFactory, seed: int, videos: int, scale: float
) -> None:
    folder = tmp_path_factory.mktemp("d")
    rng = np.random.default_rng(seed)
    results = [make_result(f"{i}", [5, 4], seed=seed + i) for i in range(videos)]
    noisy = [
        change_clip(r, features=r.clips[0].features + (scale * rng.normal(size=(5, 8))).astype(np.float16))
        for r in results
    ]
    paths = save(folder / "a.h5", results), save(folder / "b.h5", noisy)
    a, b = (read_cache(path).features.astype(np.float32) for path in paths)
    found = diff_caches(*paths).largest["features_deviations"]
    assert found.value == pytest.approx(measure_feature_error(b, a), rel=1e-4)  # one of them works in float32
    rows = np.abs(a - b) / np.maximum(a.std(axis=0), a.std(axis=0).mean() / 100)
    assert found.video == str(int(rows.max(axis=1).argmax()) // 9)


def test_the_deviation_of_blocks_is_that_of_all_rows(tmp_path: Path) -> None:
    results = [change_clip(r, features=r.clips[0].features + np.float16(100)) for r in make_results(5)]
    path = save(tmp_path / "f.h5", results)
    with open_cache(path) as cache:
        found = measure_deviation(cache, range(5))
    assert np.allclose(found, read_cache(path).features.astype(np.float64).std(axis=0), rtol=1e-12)


def test_a_feature_that_is_no_number_differs_beyond_every_tolerance(tmp_path: Path) -> None:
    result = make_result("a", [5])
    paths = save(tmp_path / "a.h5", [result]), save(tmp_path / "b.h5", [make_infinite(result)])
    printed = run("diff", *paths, "--tolerance", 1e6, "--json")
    assert printed.exit_code == 1
    assert "Infinity" not in printed.stdout
    assert json.loads(printed.stdout)["largest"]["features_deviations"]["video"] == "a"


def test_caches_of_other_backbones_are_compared_and_the_fields_said(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{t}.h5", [make_result("a", [5])], trained=t) for t in (True, False)]
    result = run("diff", *paths)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "fingerprint: backbone.trained: A has True, B has False",
        "1 videos in both: equal within 0",
    ]


def test_features_of_another_size_differ_in_shape(tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{dim}.h5", [make_result("a", [5], dim=dim)]) for dim in (8, 16))
    assert diff_caches(a, b).shapes == ["a"]


def test_diff_ends_like_diff(tmp_path: Path) -> None:
    results = make_results(2)
    a, b = save(tmp_path / "a.h5", results), save(tmp_path / "b.h5", [results[0], SHIFTS["box_px"](results[1])])
    assert run("diff", a, a).exit_code == 0
    result = run("diff", a, b)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "box_px: differs by up to 0.25, in 001",
        "2 videos in both: different within 0",
    ]
    assert json.loads(run("diff", a, b, "--json").stdout)["largest"]["box_px"]["video"] == "001"
    assert run("diff", a, b, "--tolerance", -1).exit_code == 2


# commands and failures


def test_info_prints_the_stored_hash_without_reading_a_row(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", make_results(2))
    expected = hash_of(path)
    with h5py.File(path, "r") as file:
        offset = file["features"].id.get_chunk_info(0).byte_offset
    flip_byte(path, offset)
    assert json.loads(run("info", path, "--json").stdout)["content_sha256"] == expected


def test_verify_prints_what_it_checked_and_names_what_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", make_results(2))
    assert "2 videos, 4 clips, 18 rows, 8 samples: consistent, finite" in run("verify", path).stdout
    assert json.loads(run("verify", path, "--json").stdout)["rows"] == 18
    rewrite(path, "rows/time_s", np.nan)
    result = run("verify", path)
    assert result.exit_code == 1
    assert "times of 000, clip 0, are not all finite" in result.stderr


def test_failures_are_listed_beside_the_cache_sorted_by_id(tmp_path: Path) -> None:
    odd = change_record(make_result("b,\n.mp4", []), detail='no "face"', path="/v/caf\udce9.mp4")
    records = [r.record for r in (make_result("z", []), make_result("a", [5]), odd)]
    path = write_failures(tmp_path / "features.h5", records)
    assert path == tmp_path / "failures.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["id", "path", "status", "detail"],
        ["b,\n.mp4", "/v/caf\udce9.mp4", "NO_FACE", 'no "face"'],
        ["z", "/v/z", "NO_FACE", ""],
    ]


def test_where_all_is_well_the_list_of_failures_is_its_header(tmp_path: Path) -> None:
    path = write_failures(tmp_path / "celeb.h5", [make_result("a", [5]).record])
    assert (path.name, path.read_text(encoding="utf-8")) == ("celeb-failures.csv", "id,path,status,detail\n")


def test_a_cache_with_newer_results_in_parts_is_not_merged(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", [make_result("a", [5])])
    (tmp_path / "a.h5.parts").mkdir()
    save(tmp_path / "a.h5.parts" / "000001.h5", [make_result("b", [5])])
    done = run("merge", tmp_path / "a.h5", "--out", tmp_path / "all.h5")
    assert done.exit_code == 2
    assert "has newer results in" in done.output
