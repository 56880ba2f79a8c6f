"""The processes behind a crew, as the front holds them: the one with the models, and workers."""

import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, cast

from service.engine.warmup import Pace
from service.engine.workers.template import Fork, Forked, Load

# A text of the greatest length is opened within two seconds, a window scored within one.
PATIENCE: Final = 60.0
# A library's own threads would not survive a fork, nor would they help one run on one core.
ALONE: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class LostError(RuntimeError):
    """A process ended, or does not answer."""


def how_ended(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "it does not answer"
    return f"signal {-status}" if status < 0 else f"status {status}"


class Template:
    """The process that holds the models. Its users hold a lock."""

    def __init__(self) -> None:
        """Start it; it has nothing loaded yet."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (this very program)
                [sys.executable, "-m", "service.engine.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | ALONE | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._line = ours
        self._way = Connection(os.dup(ours.fileno()))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def load(self, asked: Load) -> Pace:
        """Load a bundle, which workers that are forked from now on have.

        Raises:
            BundleError, ProviderError: where it is not usable.
            LostError: where the process ends over it.
        """
        return cast("Pace", self._ask(asked))

    def fork(self, asked: Fork) -> tuple[Forked, Connection]:
        """A new worker, and the way to it.

        Raises:
            OSError: where the machine has no room for one.
            LostError: where the process has ended.
        """
        forked = cast("Forked", self._ask(asked))
        _, ways, _, _ = socket.recv_fds(self._line, 1, 1)
        if not ways:
            raise LostError("the process that holds the models ended over a worker")
        (way,) = ways
        with socket.socket(fileno=os.dup(way)) as same:
            # Of the socket itself, so that waiting costs no call more.
            for patience in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                same.setsockopt(socket.SOL_SOCKET, patience, _timeval(PATIENCE))
        return forked, Connection(way)

    def close(self) -> None:
        """End it, and with it nobody else."""
        self._way.close()
        self._line.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, asked: Load | Fork) -> Any:
        try:
            self._way.send(asked)
            answer = self._way.recv()
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            how = how_ended(self._process.returncode)
            raise LostError(f"the process that holds the models ended ({how})") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass(slots=True, eq=False)
class Worker:
    """A worker's process; ``models`` is the number of the load that it was forked after."""

    pid: int
    way: Connection
    models: int

    def ask(self, call: bytes) -> Any:
        """The answer to a call.

        Raises:
            LostError: where it ends meanwhile, or does not answer.
        """
        try:
            self.way.send_bytes(call)
            return self.way.recv()
        except BlockingIOError:
            self.kill()
            raise LostError from None
        except (EOFError, OSError):
            raise LostError from None

    @property
    def gone(self) -> bool:
        """Whether it has ended: it says nothing unasked, so there is nothing to hear but that."""
        try:
            return self.way.poll()
        except OSError:
            return True

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
