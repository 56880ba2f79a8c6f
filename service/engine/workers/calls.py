"""What a front asks of its workers, and how they answer: pickled, one answer to one call.

Every call holds all that it needs, so that any worker can do it, and do it again.
"""

import pickle
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.classifier import Encoded, Scored
from service.engine.judging import Model, Part, Read, Reading, classifier_of, parts_of, settle
from service.engine.memory import NOTHING, Memory
from tamis.content import Content
from tamis.verdict import Role
from tamis.windows import Window

PROTOCOL: Final = pickle.HIGHEST_PROTOCOL
Slot = Role | Literal["first"]
Key = tuple[Slot, str]
"""A model: what it is asked for, and its bundle's fingerprint."""
Models = Mapping[Key, Model]
Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""A window's logits (H,); token logits and attention (judged tokens, H), where evidence is asked.
"""


def key_of(model: Model) -> Key:
    """How calls name a model."""
    return "first" if model.who is None else model.who.role, model.fingerprint


class Call(Protocol):
    """Something to be done with the models of a worker."""

    def __call__(self, models: Models) -> Any:
        """Do it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A content that is judged, by a run of ``cost`` tokens.

    ``by`` is whose finding it is: its ``second`` stays behind.
    """

    read: Read
    by: Key
    tokenize: float
    pool: float
    tokens: int
    cost: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A content of several windows: each of those to be scored, in which part, at which place."""

    held: bytes
    windows: list[tuple[int, int, Key, Window]]
    tokenize: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Open a content, and judge it at once where no more than one window is to be run."""

    asked: tuple[Key, ...]
    content: Content
    evidence: bool
    memory: Memory | None

    def __call__(self, models: Models) -> Judged | Opened:
        """See ``Call``."""
        began = time.perf_counter()
        reading = self.reading(models)
        parts = parts_of(reading)
        spent = time.perf_counter() - began
        run = [(at, n) for at, part in enumerate(parts) for n in part.run]
        tokens = max(part.encoded.tokens for part in parts)
        if len(run) > 1:
            held = [(key_of(p.model), p.encoded, p.scored, p.run) for p in parts]
            windows = [
                (at, n, key_of(parts[at].model), parts[at].encoded.windows[n]) for at, n in run
            ]
            return Opened(pickle.dumps(held, PROTOCOL), windows, spent, tokens)
        cost = 0
        for at, n in run:
            part = parts[at]
            window = part.encoded.windows[n]
            (part.scored[n],) = classifier_of(part.model).score([window])
            cost = len(window.ids)
        return _judged(reading, parts, spent, cost)

    def reading(self, models: Models) -> Reading:
        """The content, to be judged by those who are asked."""
        first, *others = (models[key] for key in self.asked)
        other = others[0] if others else None
        return Reading(first, other, self.content, self.evidence, self.memory)


@dataclass(frozen=True, slots=True)
class Score:
    """Run one window."""

    model: Key
    window: Window
    evidence: bool

    def __call__(self, models: Models) -> Arrays:
        """See ``Call``."""
        (found,) = classifier_of(models[self.model]).score([self.window])
        # A row of a run's outputs would be pickled as it is, but what evidence needs is large.
        whole = (found.token_logits, found.attention) if self.evidence else (NOTHING, NOTHING)
        return found.logits, *whole


@dataclass(frozen=True, slots=True)
class Pool:
    """Judge an opened content whose windows have all been scored."""

    judge: Judge
    held: bytes
    scored: Sequence[tuple[int, int, Arrays]]

    def __call__(self, models: Models) -> Judged:
        """See ``Call``."""
        held: list[tuple[Key, Encoded, list[Scored | None], list[int]]]
        held = pickle.loads(self.held)  # noqa: S301 (what a worker of ours made)
        parts = [Part(models[key], encoded, scored, run) for key, encoded, scored, run in held]
        for at, n, arrays in self.scored:
            parts[at].scored[n] = Scored(parts[at].encoded.windows[n], *arrays)
        return _judged(self.judge.reading(models), parts, 0.0, 0)


def _judged(reading: Reading, parts: Sequence[Part], tokenize: float, cost: int) -> Judged:
    settle(reading, parts)
    assert reading.read is not None
    finding = reading.read.finding
    by = reading.model
    if finding.second is not None and reading.other is not None:
        by = by if by.who == finding.second else reading.other
    # Thresholds and all it would travel with every finding; the front knows them.
    read = Read(
        replace(finding, second=None, other=finding.other and replace(finding.other, second=None)),
        reading.read.work,
        [
            (who, replace(s, token_logits=NOTHING, attention=NOTHING))
            for who, s in reading.read.scores
        ],
    )
    tokens = max(part.encoded.tokens for part in parts)
    return Judged(read, key_of(by), tokenize, reading.pool, tokens, cost)


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that went wrong: how, and where. What the error says may quote a text."""

    error: Exception
    where: str


def serve(front: Connection, models: Models) -> None:
    """Answer calls until the front is gone; what goes wrong is the answer."""
    with suppress(EOFError, OSError):
        while True:
            call: Call = front.recv()
            try:
                answer = pickle.dumps(call(models), PROTOCOL)
            except BaseException as raised:
                where = "".join(traceback.format_tb(raised.__traceback__))
                answer = pickle.dumps(Failed(portable(raised), where), PROTOCOL)
            front.send_bytes(answer)


def portable(raised: BaseException) -> Exception:
    """What was raised, where another process can be told it; else its kind."""
    with suppress(Exception):
        # There and back: one whose ``__init__`` takes other arguments cannot be made again. What
        # is no ``Exception``, as what Rust panics with, would end a thread that expects none.
        if isinstance(raised, Exception):
            pickle.loads(pickle.dumps(raised, PROTOCOL))  # noqa: S301 (what was just dumped)
            return raised
    return RuntimeError(type(raised).__name__)
