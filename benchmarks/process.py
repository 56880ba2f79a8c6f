"""What a server costs: CPU time and memory of a process and all its descendants, from /proc.

Peers spread over workers and helpers, so only the whole tree compares with a single process.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICK: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat, counted from the state, which follows the name.
PARENT: Final = 1
TIMES: Final = slice(11, 15)  # user, system, and both of children that ended and were waited for


def tree(root: int) -> list[int]:
    """The process and its living descendants."""
    children = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children[int(stat[PARENT])].append(int(entry.name))

    def below(pid: int) -> Iterator[int]:
        yield pid
        for child in children[pid]:
            yield from below(child)

    return list(below(root))


def children(root: int) -> list[int]:
    """The living processes that a process has started."""
    return [pid for pid in tree(root) if (stat := _stat(pid)) and int(stat[PARENT]) == root]


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, descendants that have ended included."""
    stats = filter(None, map(_stat, tree(root)))
    return sum(int(ticks) for stat in stats for ticks in stat[TIMES]) / TICK


def memory_mb(root: int) -> float:
    """Resident memory of the tree in MB: proportional sets, so that shared pages count once."""
    return sum(map(_proportional_kb, tree(root))) * 1024 / 1e6


def private_mb(pid: int) -> float:
    """Memory of one process in MB that would be free without it."""
    return _rollup_kb(pid, "Private_") * 1024 / 1e6


def resident_mb(pid: int | None) -> float:
    """Resident memory of one process (None: this one) in MB."""
    pages = int((PROC / str(pid or "self") / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _stat(pid: int) -> list[str]:
    """Fields from the state on, or none where the process has ended meanwhile."""
    try:
        # The name is in parentheses and may itself hold blanks and parentheses.
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _proportional_kb(pid: int) -> int:
    return _rollup_kb(pid, "Pss:")


def _rollup_kb(pid: int, name: str) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(name))
