"""Samples of a process's threads by py-spy, and the kernel's account of their time."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import process
from benchmarks.profile.stages import Frame, frames_of

RATE: Final = 200
# py-spy's own cost and its attaching are not of the server's processes, so they count nowhere.
GRACE: Final = 60


class NoSpyError(RuntimeError):
    """There is no py-spy."""


@dataclass(slots=True)
class Thread:
    """A thread: its name, and of the time that was sampled the samples by stack.

    ``cpu`` is seconds on a core, ``ready`` seconds for which it waited for one.
    """

    name: str = ""
    cpu: float = 0.0
    ready: float = 0.0
    stacks: dict[tuple[Frame, ...], int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """All of them."""
        return sum(self.stacks.values())


def find_spy() -> str:
    """Where py-spy is: beside this Python, or on the path.

    Raises:
        NoSpyError: where it is not.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.is_file() else shutil.which("py-spy")
    if found is None:
        raise NoSpyError("the profile needs py-spy: pip install py-spy")
    return found


def sample(pid: int, seconds: float, *, idle: bool) -> tuple[dict[int, Thread], float]:
    """Threads of a process and its children by the kernel's ids, and the seconds this took.

    Sampled are threads that are ready to run; with ``idle``, all. Nobody is stopped for it: what
    was read while it changed is left out.

    Raises:
        NoSpyError: where there is no py-spy.
        RuntimeError: where it may not look, as it says.
    """
    spy = find_spy()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "stacks"
        command = [spy, "record", "--nonblocking", "--threads", "--subprocesses"]
        command += ["--format", "raw", "--rate", str(RATE), "--duration", str(round(seconds))]
        command += ["--output", str(out), "--pid", str(pid), *(["--idle"] if idle else [])]
        before, began = account(pid), time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + GRACE, check=False
        )
        spent, after = time.perf_counter() - began, account(pid)
        if done.returncode or not out.is_file():
            raise RuntimeError(f"py-spy: {done.stderr.strip() or done.stdout.strip()}")
        threads = parsed(out.read_text(encoding="utf-8").splitlines())
    for number, (cpu, ready) in after.items():
        earlier = before.get(number, (0.0, 0.0))
        threads[number].cpu, threads[number].ready = cpu - earlier[0], ready - earlier[1]
    return threads, spent


def parsed(lines: Sequence[str]) -> defaultdict[int, Thread]:
    """Threads from py-spy's raw format: frames by semicolons, outermost first, and a count."""
    threads: defaultdict[int, Thread] = defaultdict(Thread)
    for line in lines:
        stack, _, count = line.rpartition(" ")
        about = next((part for part in stack.split(";") if part.startswith("thread (")), None)
        if about is None:
            continue
        number, _, name = about.removeprefix("thread (").partition(")")
        thread = threads[int(number, 0)]
        thread.name = name.removeprefix(":").strip()
        frames = tuple(frames_of(stack))
        thread.stacks[frames] = thread.stacks.get(frames, 0) + int(count)
    return threads


def account(pid: int) -> dict[int, tuple[float, float]]:
    """The kernel's account of every thread of a process and its descendants so far.

    Seconds on a core, and seconds ready for one.
    """
    found = {}
    for one in process.tree(pid):
        for task in (process.PROC / str(one) / "task").glob("*"):
            try:
                ran, waited, _ = (task / "schedstat").read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(task.name)] = int(ran) / 1e9, int(waited) / 1e9
    return found
