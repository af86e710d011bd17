"""The exhibits of a verdict that was just made, or the reason why there are none."""

from __future__ import annotations

from pathlib import Path

from extract.errors import CancelledError, UnmaskError
from extract.isolation import Cancel
from extract.session import CUDA
from serve.examiner import Examiner, Exhibit
from serve.scorer import Scorer
from serve.verdict import Outcome, Verdict


class Evidence:
    """An examiner beside a scorer, on the device that really runs it; files are read by the scorer's decoders."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._examiner = Examiner(scorer.folder, scorer.contract, "cuda" if scorer.provider == CUDA else "cpu")

    def gather(self, verdict: Verdict, path: Path, cancel: Cancel | None = None) -> tuple[tuple[Exhibit, ...], str]:
        """Exhibits of the file at `path`, and nothing; or none, and what kept them from being shown.

        Raises CancelledError soon after `cancel` is set.
        """
        if verdict.outcome is Outcome.NOT_SCORABLE:
            return (), ""
        try:
            with self._scorer.read(path, cancel) as video:
                return self._examiner.examine(path, verdict, video, cancel=cancel), ""
        except CancelledError:
            raise
        except UnmaskError as error:
            return (), str(error)
