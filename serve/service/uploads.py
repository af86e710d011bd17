"""Uploads: streamed to the disk under generated names, hashed on the way, whole or not there at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from extract.errors import DiskError
from extract.files import translate_os_errors
from serve.service.jobs import make_id
from serve.service.problems import ProblemError, refuse_stopping

CHUNK_BYTES = 1 << 20
LOOK_S = 0.25  # between two looks at whether the service stops
LEAST_BYTES_PER_S = 1000  # of an upload; who sends less would hold a place in the queue for ever
SPARE_BYTES = 64 << 20  # of the disk, left for the database, the reports and the log


@dataclass(frozen=True)
class Upload:
    """A file that was received and lies safely on the disk."""

    id: str
    path: Path
    size_bytes: int
    sha256: str


class Uploads:
    """The folder of uploads, and that of reports; file names are ids of jobs, never anything a client said."""

    def __init__(self, data: Path) -> None:
        self._uploads = data / "uploads"
        self._reports = data / "reports"
        for folder in (data, self._uploads, self._reports):
            with translate_os_errors(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def locate(self, job_id: str) -> Path:
        """Where a job's video lies."""
        return self._uploads / job_id

    def locate_report(self, job_id: str) -> Path:
        """Where a job's report lies."""
        return self._reports / f"{job_id}.html"

    async def receive(
        self,
        body: AsyncIterator[bytes],
        declared: int | None,
        most_bytes: int,
        patience_s: float,
        is_stopping: Callable[[], bool],
    ) -> Upload:
        """Writes a request's body; raises ProblemError, or DiskError, and leaves nothing behind."""
        if declared is not None and declared > most_bytes:
            raise _refuse_size(most_bytes)
        self.require_room(declared or 0)
        upload_id = make_id()
        part = self._uploads / f"{upload_id}.part"
        try:
            return await self._write(_read_chunks(body, patience_s, is_stopping), upload_id, part, most_bytes)
        except BaseException:
            for path in (part, self.locate(upload_id)):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise

    async def _write(self, chunks: AsyncIterator[bytes], upload_id: str, part: Path, most_bytes: int) -> Upload:
        digest, size, pending = hashlib.sha256(), 0, bytearray()
        with translate_os_errors(part), part.open("xb", buffering=0) as file:

            def write(content: bytes) -> None:
                self.require_room(len(content))
                digest.update(content)
                view = memoryview(content)
                while view:
                    view = view[file.write(view) :]

            async for chunk in chunks:
                size += len(chunk)
                if size > most_bytes:
                    raise _refuse_size(most_bytes)
                pending += chunk
                if len(pending) >= CHUNK_BYTES:
                    await asyncio.to_thread(write, bytes(pending))
                    pending.clear()
            await asyncio.to_thread(write, bytes(pending))
            if not size:
                raise ProblemError(422, "empty", "The request has no body; send the bytes of a video file.")
            await asyncio.to_thread(os.fsync, file.fileno())
        path = self.locate(upload_id)
        with translate_os_errors(path):
            await asyncio.to_thread(_settle, part, path)
        return Upload(upload_id, path, size, digest.hexdigest())

    def require_room(self, size: int = 0) -> None:
        """Raises DiskError where so many bytes more would leave too little for everything else."""
        if shutil.disk_usage(self._uploads).free < size + SPARE_BYTES:
            raise DiskError(f"no space left in {self._uploads} for {size} bytes; free some space")

    def open_report(self, job_id: str) -> BinaryIO:
        """A job's report; raises FileNotFoundError where it has none."""
        return self.locate_report(job_id).open("rb")

    def copy_report(self, source_id: str, job_id: str) -> bool:
        """Gives a job the report of another; False where that has none."""
        try:
            shutil.copyfile(self.locate_report(source_id), self.locate_report(job_id))
        except FileNotFoundError:
            return False
        except OSError:
            self.remove_report(job_id)
            return False
        return True

    def remove(self, job_id: str) -> None:
        """Deletes a job's video, if it is there."""
        with suppress(OSError):
            self.locate(job_id).unlink(missing_ok=True)

    def remove_report(self, job_id: str) -> None:
        """Deletes a job's report, if it is there."""
        with suppress(OSError):
            self.locate_report(job_id).unlink(missing_ok=True)

    def list_ids(self) -> set[str]:
        """Names of all videos that lie here."""
        return {path.name for path in self._uploads.iterdir()}

    def sweep(self, uploads: Iterable[str], reports: Iterable[str]) -> int:
        """Deletes what belongs to none of these jobs; says how many. Only for a service that takes nothing yet."""
        kept = {self.locate(one) for one in uploads} | {self.locate_report(one) for one in reports}
        stray = {path for folder in (self._uploads, self._reports) for path in folder.iterdir()} - kept
        for path in stray:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return len(stray)


async def _read_chunks(
    body: AsyncIterator[bytes], patience_s: float, is_stopping: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """A request's body as it comes; raises ProblemError where hardly anything comes, or nobody will want it."""
    came, until = 0, time.monotonic() + patience_s
    while True:
        # A task, as what is cancelled by a timeout would seem to have ended.
        waiting = asyncio.ensure_future(anext(body, None))
        try:
            while not (await asyncio.wait({waiting}, timeout=min(LOOK_S, patience_s)))[0]:
                _require_use(until, patience_s, is_stopping)
        finally:
            waiting.cancel()
        chunk = waiting.result()
        if chunk is None:
            return
        came += len(chunk)
        if came >= LEAST_BYTES_PER_S * patience_s:
            came, until = 0, time.monotonic() + patience_s
        _require_use(until, patience_s, is_stopping)
        yield chunk


def _require_use(until: float, patience_s: float, is_stopping: Callable[[], bool]) -> None:
    if is_stopping():
        raise refuse_stopping()
    if time.monotonic() >= until:
        detail = f"Hardly anything of the upload came for {patience_s:g} seconds; send it again."
        raise ProblemError(408, "stalled", detail)


def _settle(part: Path, path: Path) -> None:
    """Gives a written file its name, for good."""
    part.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_size(most_bytes: int) -> ProblemError:
    return ProblemError(413, "too-large", f"The file is larger than the {most_bytes} bytes that are taken here.")
