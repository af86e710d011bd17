"""`unmask serve`: what its options mean, and what they refuse before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extract.errors import UsageError
from extract.limits import DEFAULT_LIMITS
from serve.service import server
from serve.service.settings import Settings, parse_pixels
from tests.conftest import Pipeline
from unmask import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["serve", *map(str, arguments), "--device", "cpu"])


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of services that would have begun."""
    found: list[Settings] = []
    monkeypatch.setattr(server, "serve", lambda settings, *_: found.append(settings))
    return found


def test_without_options_the_limits_are_those_of_settings_and_of_reading(served: list[Settings]) -> None:
    assert run("model", "--jobs", 1).exit_code == 0
    (settings,) = served
    assert settings.limits.most_pixels == DEFAULT_LIMITS.most_pixels
    assert settings == Settings(Path("data/serve"), choices=settings.choices)
    assert set(settings.choices.values()) == {None}


def test_what_decides_is_chosen_as_on_score(served: list[Settings]) -> None:
    run("model", "--threshold", 0.25, "--prevalence", 0.01, "--tracks", "all")
    assert served[0].choices == {"preset": None, "threshold": 0.25, "prevalence": 0.01, "tracks": "all"}


def test_limits_reach_whoever_reads_videos(served: list[Settings]) -> None:
    run("model", "--max-pixels", "1920x1080", "--max-duration", 60, "--sync-size", "5MB", "--sync-duration", 3)
    (settings,) = served
    assert (settings.limits.most_pixels, settings.limits.most_duration_s) == (1920 * 1080, 60)
    assert (settings.sync_bytes, settings.sync_s) == (5 << 20, 3)


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ((), 100),
        (("--queue", 7), 7),
        (("--queue", 7, "--keys", "keys"), 3),
        (("--queue", 1, "--keys", "keys"), 1),
        (("--queue-each", 5, "--keys", "keys"), 5),
    ],
)
def test_with_keys_nobody_fills_the_queue_alone(served: list[Settings], options: tuple[object, ...], each: int) -> None:
    run("model", *options)
    assert served[0].most_queued_each == each


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--max-pixels", "huge", "write for example 3840x2160 or 8.3MP"),
        ("--sync-size", "5 apples", "write for example 800MB"),
        ("--sync-duration", "0", "sync_s is 0.0; expected more than 0"),
        ("--sync-duration", "nan", "sync_s is nan; expected more than 0"),
        ("--queue-each", "0", "0 is not in the range"),
    ],
)
def test_what_cannot_be_is_misuse(served: list[Settings], option: str, value: str, words: str) -> None:
    result = run("model", option, value)
    assert (result.exit_code, served) == (2, [])
    assert words in result.stderr


def test_a_preset_that_the_model_does_not_have_ends_it_with_those_it_has(pipeline: Pipeline, tmp_path: Path) -> None:
    result = run(pipeline.model, "--data", tmp_path, "--preset", "nosuch")
    assert result.exit_code == 1
    assert "the model has no preset 'nosuch'; it has " in result.stderr


def test_frame_sizes_are_read_by_their_sides_or_in_millions_and_others_refused() -> None:
    assert parse_pixels("3840x2160") == parse_pixels("2160X3840") == 3840 * 2160
    assert parse_pixels("8.3MP") == parse_pixels("8.3 mp") == 8_300_000
    for text in ("", "4K", "0x5", "-3x-3", "99999x99999", "1e3MP", "nanMP", "0MP", "5000MP", "3840x2160x3"):
        with pytest.raises(UsageError):
            parse_pixels(text)
