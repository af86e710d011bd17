"""Server-sent events: a job as it changes, until it has ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from serve.service.jobs import ENDS

LOOK_S = 0.25
ALIVE_S = 15.0

Document = dict[str, Any]


async def tell_changes(read: Callable[[], Document | None], is_stopping: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Events for one client; `read` gives the job's document, or None when it was deleted."""
    last, said = "", time.monotonic()
    while not is_stopping():
        document = await asyncio.to_thread(read)
        if document is None:
            return
        text = json.dumps(document)
        if text != last:
            last, said = text, time.monotonic()
            yield f"event: job\ndata: {text}\n\n".encode()
        elif time.monotonic() - said >= ALIVE_S:
            said = time.monotonic()
            yield b": still here\n\n"
        if document["state"] in ENDS:
            return
        await asyncio.sleep(LOOK_S)
