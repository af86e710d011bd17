"""Tickets: links that open a report without a key, for a short time, such as in a new tab of a browser."""

from __future__ import annotations

import hmac
import secrets
import time
from hashlib import sha256

LIFE_S = 300.0


class Tickets:
    """Signs and checks tickets; those of an earlier start of the service are not known any more."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def issue(self, job_id: str, owner: str) -> tuple[str, float]:
        """A ticket for one report, and until when it holds, in seconds since 1970."""
        until = int(time.time() + LIFE_S)
        return f"{owner}:{until}:{self._sign(job_id, owner, until)}", float(until)

    def find_owner(self, ticket: str, job_id: str) -> str | None:
        """Whose report may be opened with this; None for a ticket that is false, spent or of another report."""
        owner, _, rest = ticket.partition(":")
        until, _, mark = rest.partition(":")
        if not (until.isascii() and until.isdigit() and len(until) < 19):
            return None
        right = hmac.compare_digest(self._sign(job_id, owner, int(until)).encode(), mark.encode(errors="replace"))
        return owner if right and time.time() < int(until) else None

    def _sign(self, job_id: str, owner: str, until: int) -> str:
        said = f"{owner}:{until}:{job_id}".encode(errors="replace")
        return hmac.new(self._secret, said, sha256).hexdigest()
