"""Where reports are written: one page at the path that was named, or a folder with a page for each file."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from extract.errors import UsageError
from serve.evidence import Evidence
from serve.report import write_report
from serve.scorer import Scorer
from serve.verdict import Verdict

PAGE = ".html"
MOST_STEM_BYTES = 120  # a name may have 255, and is longer while it is written
DIGITS = 8  # of a hash, to tell files of one name apart


class ReportFiles:
    """Writes a page for each verdict of a batch."""

    def __init__(self, target: Path, scorer: Scorer, model: Path, files: int) -> None:
        """`model` is how the user calls its folder; refuses a target that `files` pages cannot go to."""
        self._alone = target.suffix.lower() in (PAGE, ".htm")
        if self._alone and files != 1:
            raise UsageError(f"{target} is one page, and there are {files} files; name a folder for their reports")
        if not self._alone and target.exists() and not target.is_dir():
            raise UsageError(f"{target} is no folder; name a page that ends in {PAGE}, or a folder")
        self._target = target
        self._model = str(model)
        self._evidence = Evidence(scorer)

    def write(self, verdict: Verdict) -> Path:
        """The page for a verdict that was just made; what keeps exhibits from being shown is said on it."""
        exhibits, missing = self._evidence.gather(verdict, Path(verdict.path))
        page = self._target if self._alone else self._target / _name_page(verdict)
        write_report(page, verdict, exhibits, datetime.now(UTC), self._model, missing)
        return page


def _name_page(verdict: Verdict) -> str:
    """The file's name, without signs that a folder or a link might stumble over, and the beginning of its hash."""
    path = Path(verdict.path)
    stem = re.sub(r"[^\w.-]+", "_", path.stem).strip("._") or "video"
    short = stem.encode()[:MOST_STEM_BYTES].decode(errors="ignore")
    # Of content and path: two files may have one content, and one that could not be read has no hash of its own.
    digest = sha256(f"{verdict.sha256} {verdict.path}".encode(errors="surrogateescape")).hexdigest()
    return f"{short}-{digest[:DIGITS]}{PAGE}"
