"""Memory does not grow with the length of a video: an hour of 1080p."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.clips import repeat_clip, write_clip
from bench.memory import sum_memory
from tests.conftest import Pipeline

ROOT = Path(__file__).parent.parent
MOST_BYTES = 1_500_000_000
CODE = """
import sys
from pathlib import Path
from export.bundle import SCORER, open_model_folder
from export.fused import FusedModel
from serve.scorer import Scorer
from tests.fakes import FixedDetector
model, film = map(Path, sys.argv[1:])
parts = open_model_folder(model), FusedModel(model / SCORER, "cpu"), FixedDetector((500, 100, 1300, 1000))
with Scorer(*parts) as scorer:
    verdict = scorer.score(film)
print(len(verdict.tracks[0].clips), verdict.file.duration_s)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_hour_of_1080p_is_scored_in_bounded_memory(pipeline: Pipeline, tmp_path: Path) -> None:
    film = repeat_clip(write_clip(tmp_path / "hd.mp4", 1080, 10.0), tmp_path / "hour.mp4", 360)
    command = [sys.executable, "-c", CODE, str(pipeline.model), str(film)]
    most = 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            most = max(most, sum_memory(process.pid))
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                continue
        printed = process.stdout.read() if process.stdout else ""
    film.unlink()
    assert printed.split() == ["360", "3600.0"]
    assert 0 < most < MOST_BYTES
