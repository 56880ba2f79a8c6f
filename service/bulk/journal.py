"""Output that survives interruption: a file of lines, and beside it how far it is good.

The file grows line by line. Every second, it is put on disk, and then a small state file is
replaced as a whole: so many rows of the input are in so many bytes of the output. Whatever ends the
run, the next one cuts the output back to those bytes and goes on from that row: what was torn or
not yet vouched for is judged again, and the result is the same to the byte.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from service.bulk.results import Counts

FORMAT: Final = "tamis.bulk/1"
SAVE_SECONDS: Final = 1.0


class JournalError(RuntimeError):
    """An output that this job must not go on with, or write over."""


@dataclass(slots=True)
class State:
    """How far a job is."""

    rows: int = 0
    """Of the input, counting those that were left out of the output."""
    size: int = 0
    """Bytes of the output."""
    digest: str = ""
    """Of the rows so far: the same input gives the same."""
    complete: bool = False
    counts: Counts = field(default_factory=Counts)

    def take(self, digest: bytes) -> None:
        """Take one more row of the input into account."""
        self.rows += 1
        chained = bytes.fromhex(self.digest) + digest
        self.digest = hashlib.blake2b(chained, digest_size=16).hexdigest()


_STATE: Final = TypeAdapter(State)


class Journal:
    """An output file and its state; at most one process at a time."""

    def __init__(
        self, path: Path, state_path: Path, pins: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        """Begin, or go on where an earlier run of the same job stopped.

        Args:
            path: of the output.
            state_path: of the state.
            pins: what makes it the same job; a job with other pins is another one.
            overwrite: begin anew, whatever is there.

        Raises:
            JournalError: where there is an output of another job, or of no job, or another process
                is writing it.
        """
        self.path = path
        self.pins = json.loads(json.dumps(pins))
        self.state = State()
        self._state_path = state_path
        self._saved = time.monotonic()
        self._stream: IO[bytes] = path.open("ab")
        try:
            lock(self._stream, path)
        except BaseException:
            self._stream.close()
            raise
        # Known under the lock alone: another process may have made it a moment ago, and write it.
        new = not path.stat().st_size
        try:
            if not overwrite:
                self.state = self._earlier()
            self.save()
            self._stream.truncate(self.state.size)
        except BaseException:
            self._stream.close()
            if new:
                path.unlink()
            raise

    def append(self, line: bytes) -> None:
        """Write a line; ``save`` vouches for it."""
        self._stream.write(line)
        self.state.size += len(line)

    def save_now_and_then(self) -> None:
        """Save where the last time was a second ago."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Put the output on disk, then vouch for it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        write_whole(self._state_path, self._job_json())
        self._saved = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:
            # It may have come between a line and its count: the last save holds, a second old.
            self._stream.close()

    def close(self) -> None:
        """Save and let go of the file."""
        if not self._stream.closed:
            try:
                self.save()
            finally:
                self._stream.close()

    def _job_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **self.pins, "state": asdict(self.state)}

    def _earlier(self) -> State:
        state = read_job(self._state_path, self.pins)
        size = self.path.stat().st_size
        if state is None and size:
            raise JournalError(f"{self.path} exists; --overwrite writes over it")
        if state is None or not size:
            return State()
        if size < state.size:
            raise JournalError(
                f"{self.path} has {size} bytes where {state.size} were written: it was changed "
                "meanwhile; --overwrite begins anew"
            )
        return state


def read_job(path: Path, pins: Mapping[str, Any]) -> State | None:
    """How far an earlier run was; None where there was none.

    Raises:
        JournalError: where it was another job; the message names what differs.
    """
    try:
        job: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise JournalError(f"{path} is not a job's state; --overwrite begins anew") from None
    if not isinstance(job, dict) or job.get("format") != FORMAT:
        raise JournalError(f"{path} is not of the format {FORMAT!r}; --overwrite begins anew")
    try:
        state = _STATE.validate_python(job.get("state"))
    except ValidationError:
        raise JournalError(f"{path}: its `state` is damaged; --overwrite begins anew") from None
    begun = {name: value for name, value in job.items() if name not in ("format", "state")}
    if different := [
        f"{name} was {begun.get(name)}, now {pins.get(name)}" for name in differing(begun, pins)
    ]:
        raise JournalError(
            f"{path}: begun by another job ({'; '.join(different)}). Go on with what it was begun "
            "with, or begin anew with --overwrite"
        )
    return state


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The pins in which two jobs are not the same, by name."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def write_whole(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of it."""
    beside = path.with_name(f"{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def lock(stream: IO[bytes], path: Path) -> None:
    """Keep other processes from writing ``path`` as long as the stream is open.

    Raises:
        JournalError: where one does.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"{path} is being written by another process") from None


def remove(*paths: Path) -> None:
    """Delete files that may not be there."""
    for path in paths:
        with suppress(FileNotFoundError):
            path.unlink()
