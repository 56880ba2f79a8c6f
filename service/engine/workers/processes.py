"""The processes behind a crew, as the front holds them: the one with the models, and workers."""

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, cast

from service.engine.warmup import Pace
from service.engine.workers.template import Fork, Forked, Load

# A text of the greatest length is opened within two seconds, a window scored within one.
PATIENCE: Final = 60.0
# Forks take 40 ms with three bundles loaded on busy cores, and requests wait for them; loads take
# three seconds, and on a slow disk whatever that takes. Who has nothing to do ends at once.
FORKING: Final = 10.0
LOADING: Final = 300.0
ENDING: Final = 5.0
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
        """Whether it has not ended, nor failed to answer."""
        return not self._way.closed and self._process.poll() is None

    def load(self, asked: Load) -> Pace:
        """Load a bundle, which workers that are forked from now on have.

        Raises:
            BundleError, ProviderError: where it is not usable.
            LostError: where the process ends over it, or does not answer.
        """
        with self._within(LOADING):
            answer = self._ask(asked)
        return cast("Pace", _given(answer))

    def fork(self, asked: Fork) -> tuple[Forked, Connection]:
        """A new worker, and the way to it.

        Raises:
            OSError: where the machine has no room for one.
            LostError: where the process has ended, or does not answer.
        """
        with self._within(FORKING):
            answer = self._ask(asked)
            if isinstance(answer, Forked):
                _, ways, _, _ = socket.recv_fds(self._line, 1, 1)
                if not ways:
                    raise EOFError
        forked = cast("Forked", _given(answer))
        (way,) = ways
        with socket.socket(fileno=os.dup(way)) as same:
            # Of the socket itself, so that waiting costs no call more.
            _bound(same, PATIENCE)
        return forked, Connection(way)

    def kill(self) -> None:
        """End it at once, whatever it does; who waits for it finds it lost."""
        self._process.kill()

    def close(self) -> None:
        """End it, and with it nobody else."""
        self._way.close()
        self._line.close()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.kill()
            with suppress(subprocess.TimeoutExpired):  # the kernel may hold it
                self._process.wait(ENDING)

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Wait so long for each part of an answer.

        Raises:
            LostError: where the process has ended, or does not answer; it is of no use any more.
        """
        _bound(self._line, seconds)
        try:
            yield
        except (EOFError, OSError) as error:
            self._way.close()
            stuck = isinstance(error, BlockingIOError)
            if stuck:
                self.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            how = how_ended(None if stuck else self._process.returncode)
            raise LostError(f"the process that holds the models ended ({how})") from None

    def _ask(self, asked: Load | Fork) -> object:
        self._way.send(asked)
        return self._way.recv()


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


def _given(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _bound(line: socket.socket, seconds: float) -> None:
    """Have both directions of a socket, whoever else holds it here, give up after so long."""
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for patience in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        line.setsockopt(socket.SOL_SOCKET, patience, timeval)
