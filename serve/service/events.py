"""Server-sent events: a job as it changes, until nothing will any more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

LOOK_S = 0.1
ALIVE_S = 15.0
LAST = "last"  # the id of the event after which nothing will change

Document = dict[str, Any]
Read = Callable[[], tuple[Document, bool] | None]


async def tell_changes(
    count_changes: Callable[[], object], look: Read, show: Read, is_stopping: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Events for one client.

    `look` gives the job's document without its verdict and whether it is settled, `show` the same with the verdict;
    both give None when the job was deleted. What `count_changes` gives, at hardly any cost, stays equal as long as
    there is nothing new to see.
    """
    last, said, known = None, time.monotonic(), None
    while not is_stopping():
        count = count_changes()
        if count == known and time.monotonic() - said < ALIVE_S:
            await asyncio.sleep(LOOK_S)
            continue
        known, seen = count, await asyncio.to_thread(look)
        if seen is not None and seen[0] != last:
            last = seen[0]
            seen = await asyncio.to_thread(show)
            if seen is not None:
                said = time.monotonic()
                end = f"id: {LAST}\n" if seen[1] else ""
                yield f"event: job\ndata: {json.dumps(seen[0])}\n{end}\n".encode()
        elif time.monotonic() - said >= ALIVE_S:
            said = time.monotonic()
            yield b": still here\n\n"
        if seen is None or seen[1]:
            return
        await asyncio.sleep(LOOK_S)
