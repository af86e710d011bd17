"""The memory of a process and of all that it started."""

from __future__ import annotations

from pathlib import Path


def sum_memory(pid: int) -> int:
    """Proportional set size of a process and all below it, in bytes; a page that several share counts once."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii")
            total += next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
            waiting += map(int, Path(f"/proc/{one}/task/{one}/children").read_text(encoding="ascii").split())
        except (OSError, StopIteration):
            continue  # it has ended
    return total
