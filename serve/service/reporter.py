"""Reports of jobs: pages with the evidence for a stored verdict, made when there is time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from extract.errors import DiskError, UnmaskError
from extract.files import write_text
from extract.isolation import Cancel
from serve.evidence import Evidence
from serve.examiner import Exhibit
from serve.report import render_report
from serve.scorer import Scorer
from serve.service.jobs import Job, hide_path
from serve.service.uploads import Uploads
from serve.verdict import Verdict

LOG = logging.getLogger("unmask.service")
CROWDED = "too many reports were waiting to be made; send the file again when the service has less to do"


class Reporter:
    """Writes the page of a job beside the uploads."""

    def __init__(self, scorer: Scorer, uploads: Uploads, model: str) -> None:
        """`model` is how the operator calls the model's folder."""
        self._evidence = Evidence(scorer)
        self._uploads = uploads
        self._model = model

    def prepare(self, job: Job, cancel: Cancel) -> Callable[[], None]:
        """The page with exhibits from the job's video; what comes back writes it, or raises DiskError.

        Raises CancelledError soon after `cancel` is set.
        """
        if job.verdict is None:
            raise UnmaskError("there is no report without a verdict")
        path = self._uploads.locate(job.id)
        shown = Verdict.from_document(job.verdict)
        exhibits, missing = self._evidence.gather(replace(shown, path=str(path)), path, cancel)
        return self._render(job, shown, exhibits, hide_path(missing, path, job.name))

    def write_plain(self, job: Job, verdict: Verdict) -> bool:
        """The page without exhibits, which says that there was no time for them; False where it cannot be written."""
        try:
            self._render(job, verdict, (), CROWDED)()
        except DiskError as error:
            LOG.error("a report cannot be written", extra={"facts": {"job": job.id, "error": str(error)}})
            return False
        return True

    def _render(self, job: Job, verdict: Verdict, exhibits: Sequence[Exhibit], missing: str) -> Callable[[], None]:
        page = render_report(verdict, exhibits, datetime.now(UTC), self._model, missing)
        return partial(write_text, self._uploads.locate_report(job.id), page)
