"""What becomes of one content on its way: opened, scored window by window, pooled."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast

from service.engine.classifier import Classifier, Encoded, Scored
from service.engine.memory import Memory, Work
from service.engine.priority import PATIENT, stand_back
from tamis.bundle import Bundle
from tamis.content import Content
from tamis.deciding import louder
from tamis.verdict import Finding, Second


class Served(Protocol):
    """What a scheduler must know of a classifier, which may live in other processes."""

    @property
    def bundle(self) -> Bundle:
        """Its bundle."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of one run, padding included; 0 where windows must run alone."""


@dataclass(frozen=True, slots=True)
class Model:
    """A classifier as the engine runs it; ``weight`` is its time for a token over the first's.

    ``who`` is how findings name it, None for the one that is asked first.
    """

    classifier: Served
    wide_from: float
    weight: int = 1
    who: Second | None = None

    @property
    def fingerprint(self) -> str:
        """That of its bundle."""
        return self.classifier.bundle.fingerprint


@dataclass(frozen=True, slots=True)
class Read:
    """What is known of a content once it is judged.

    ``scores`` are its windows', by whose fingerprint, where the content has a memory.
    """

    finding: Finding
    work: Work
    scores: list[tuple[str, Scored]]


@dataclass(slots=True, eq=False)
class Reading:
    """A content to be judged by whoever of the two can read it.

    ``model`` judges what is English, ``other`` what is not. Windows that are in ``memory`` are not
    run. ``once``: nobody will be asked for a second opinion of it. ``read`` is there when all its
    windows are scored; ``tokenize`` and ``pool`` took seconds.
    """

    model: Model
    other: Model | None
    content: Content
    evidence: bool
    memory: Memory | None = None
    once: bool = False
    told: Callable[[], None] | None = None
    """Called once it is read, from the scheduler's threads."""
    tokenize: float = 0.0
    pool: float = 0.0
    read: Read | None = None

    def settle(self, read: Read, pool: float) -> None:
        """It is read, and pooled in so many seconds."""
        self.read, self.pool = read, pool
        if self.told is not None:
            self.told()

    @property
    def asked(self) -> str:
        """Who is asked, by fingerprints."""
        other = "" if self.other is None else self.other.fingerprint
        return self.model.fingerprint + other

    @property
    def finding(self) -> Finding:
        """What was found."""
        assert self.read is not None
        return self.read.finding


@dataclass(slots=True, eq=False)
class WindowTask:
    """One window of a reading.

    Without a ``place``, which is whoever runs it who knows what that is, it stands for the whole
    text, which nobody has opened yet.
    """

    reading: Reading
    cost: int
    weight: int
    place: object = None


class Hands(Protocol):
    """Who does an engine's work; called from the scheduler's threads."""

    def begin(self, number: int, patient: bool) -> None:
        """A thread of the scheduler begins."""

    def open(self, task: WindowTask) -> tuple[Sequence[WindowTask], int]:
        """Tokenise a text when its first window's turn has come; the other windows follow.

        Returns also its tokens.
        """

    def run(self, tasks: Sequence[WindowTask], alone: bool) -> None:
        """Score windows, and pool the texts of which they are the last."""

    def close(self) -> None:
        """Everything is done."""


@dataclass(slots=True, eq=False)
class Part:
    """A content as one model has it: which of its windows to run, and what they scored."""

    model: Model
    encoded: Encoded
    scored: list[Scored | None]
    run: list[int]

    def finding(self) -> Finding:
        """Of all windows, once they are scored."""
        scored = [one for one in self.scored if one is not None]
        assert len(scored) == len(self.encoded.windows)
        found = classifier_of(self.model).finding(self.encoded, scored)
        return found if self.model.who is None else replace(found, second=self.model.who)


def parts_of(reading: Reading) -> list[Part]:
    """A content as each of those has it who can read it."""
    first, other = reading.model, reading.other
    said = classifier_of(first).read(reading.content)
    models = [first]
    if other is not None and said.language != "english":
        models = [other] if said.language == "foreign" else [first, other]
    known, parts = reading.memory, []
    for model in models:
        encoded = classifier_of(model).encode(reading.content, reading.evidence, said)
        scored = [
            None if known is None else known.get(window, model.fingerprint)
            for window in encoded.windows
        ]
        run = [n for n, one in enumerate(scored) if one is None]
        parts.append(Part(model, encoded, scored, run))
    return parts


def settle(reading: Reading, parts: Sequence[Part]) -> None:
    """Say what is known of a content whose windows are all scored."""
    began = time.perf_counter()
    first, *others = (one.finding() for one in parts)
    for other in others:
        first = louder(first, other, reading.model.classifier.bundle.thresholds)
    run = [one.encoded.windows[n] for one in parts for n in one.run]
    windows = sum(len(one.encoded.windows) for one in parts)
    scores = [
        (one.model.fingerprint, scored)
        for one in parts
        for scored in one.scored
        if scored is not None and reading.memory is not None
    ]
    tokens = sum(len(window.ids) for window in run)
    read = Read(first, Work(windows, len(run), tokens), scores)
    reading.settle(read, time.perf_counter() - began)


@dataclass(slots=True, eq=False)
class _Opened:
    """A reading under way in this process: how many of its windows are still to be scored."""

    parts: list[Part]
    missing: int


@dataclass(frozen=True, slots=True)
class _Place:
    opened: _Opened
    part: Part
    index: int


@dataclass(slots=True, eq=False)
class InProcess(Hands):
    """The classifiers of this process, on the scheduler's own threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, number: int, patient: bool) -> None:  # noqa: ARG002
        """See ``Hands``."""
        if patient:
            stand_back(PATIENT)

    def open(self, task: WindowTask) -> tuple[Sequence[WindowTask], int]:
        """See ``Hands``."""
        reading, began = task.reading, time.perf_counter()
        parts = parts_of(reading)
        reading.tokenize = time.perf_counter() - began
        opened = _Opened(parts, sum(len(one.run) for one in parts))
        tasks = [
            WindowTask(
                reading,
                len(one.encoded.windows[n].ids),
                one.model.weight,
                _Place(opened, one, n),
            )
            for one in parts
            for n in one.run
        ]
        if tasks:
            take_place(task, tasks[0])
        else:
            task.cost = 0
            settle(reading, parts)
        return tasks[1:], max(one.encoded.tokens for one in parts)

    def run(self, tasks: Sequence[WindowTask], alone: bool) -> None:
        """See ``Hands``."""
        by_model: dict[int, list[tuple[Reading, _Place]]] = {}
        for task in tasks:
            if isinstance(place := task.place, _Place):
                by_model.setdefault(id(place.part.model), []).append((task.reading, place))
        for full in by_model.values():
            model = full[0][1].part.model
            windows = [place.part.encoded.windows[place.index] for _, place in full]
            wide = alone and len(windows[0].ids) >= model.wide_from
            scored = classifier_of(model).score(windows, wide)
            for (reading, place), one in zip(full, scored, strict=True):
                place.part.scored[place.index] = one
                with self._lock:
                    place.opened.missing -= 1
                    last = not place.opened.missing
                if last:
                    # Here and not where it is awaited, for which the event loop would stand still.
                    settle(reading, place.opened.parts)

    def close(self) -> None:
        """See ``Hands``."""


def take_place(task: WindowTask, first: WindowTask) -> None:
    """Make of the task that stood for a text that of its first window."""
    task.place, task.cost, task.weight = first.place, first.cost, first.weight


def classifier_of(model: Model) -> Classifier:
    """The classifier, where it is in this process."""
    return cast("Classifier", model.classifier)
