"""The process that loads the models once, and that workers are forked from.

It has one thread of Python and runs sessions that have none of their own, so that forking it is
safe; a worker shares its pages of weights, tokenizer and code until it writes to them. A front that
goes, goes with everybody: who reads from it finds the end, and ends.
"""

import gc
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from service.engine.classifier import Classifier
from service.engine.judging import Model
from service.engine.priority import PATIENT, stand_back
from service.engine.runtime import CpuRuntime
from service.engine.warmup import Pace, warm_up
from service.engine.workers.calls import Key, Slot, portable, serve
from tamis.bundle import Bundle
from tamis.tiers import second_of

# Of one that is asked for the same, so many bundles: a text may be on its way to the one before.
KEPT: Final = 2
# Where memory runs out, a worker is killed rather than the front, and is replaced.
EXPENDABLE: Final = "300"
Ended = dict[int, int]


@dataclass(frozen=True, slots=True)
class Load:
    """Load a bundle for what it is asked for; answered by its pace on one thread."""

    slot: Slot
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class Fork:
    """Make a worker, on one core or on all; answered by its process and the way to it."""

    patient: bool
    core: int | None


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker's process, and how others have ended since the last one was forked."""

    pid: int
    ended: Ended


def main(fd: int) -> None:
    """Do what the front at the other end of a socket asks, until it has gone."""
    # Ctrl-C, a supervisor's SIGTERM, and the SIGHUP of a terminal that closes or of who wants files
    # read anew mean the front, which answers on for a while or for good.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as line, Connection(os.dup(fd)) as front:
        template = _Template(line, front)
        with suppress(EOFError, OSError):
            while True:
                template.answer(front.recv())


class _Template:
    def __init__(self, line: socket.socket, front: Connection) -> None:
        self._line, self._front = line, front
        self._models: dict[Key, Model] = {}
        self._ended: Ended = {}
        signal.signal(signal.SIGCHLD, self._reap)

    def answer(self, asked: Load | Fork) -> None:
        """Do what is asked; what goes wrong is the answer."""
        way: socket.socket | None = None
        answer: object
        try:
            if isinstance(asked, Load):
                answer = self._load(asked)
            else:
                answer, way = self._fork(asked)
        except BaseException as raised:
            answer = portable(raised)
        self._front.send(answer)
        if way is not None:
            with way:
                socket.send_fds(self._line, [b"."], [way.fileno()])

    def _load(self, asked: Load) -> Pace:
        slot, bundle = asked.slot, asked.bundle
        classifier = Classifier(bundle, CpuRuntime(bundle.graph, threads=1))
        pace = warm_up(classifier)
        who = None if slot == "first" else second_of(bundle, slot)
        # Last, though it was there before: of two builds in turn each is the newest once.
        self._models.pop((slot, bundle.fingerprint), None)
        self._models[slot, bundle.fingerprint] = Model(classifier, pace.wide_from, who=who)
        older = [key for key in self._models if key[0] == slot]
        for key in older[:-KEPT]:
            del self._models[key]
        # A collection would write to every object, and so have every worker copy every page.
        gc.collect()
        gc.freeze()
        return pace

    def _fork(self, asked: Fork) -> tuple[Forked, socket.socket]:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become(asked, ours, theirs)
        ours.close()
        ended, self._ended = self._ended, {}
        return Forked(pid, ended), theirs

    def _become(self, asked: Fork, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        """Be a worker: nothing of the template's is left but what it loaded."""
        status = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for held in (theirs, self._line, self._front):
                held.close()
            with suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text(EXPENDABLE)
            if asked.core is not None:
                with suppress(OSError):
                    os.sched_setaffinity(0, {asked.core})
            if asked.patient:
                stand_back(PATIENT)
            serve(Connection(ours.detach()), self._models)
            status = 0
        finally:
            os._exit(status)  # which the front logs, where it is another than 0

    def _reap(self, _: int, __: FrameType | None) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended[found[0]] = os.waitstatus_to_exitcode(found[1])
