"""Streams: texts that grow while they are judged, each remembered by its caller's name for it.

A verdict is of the text up to a point, and is then exactly what the same text alone would get:
early verdicts are not guesses, and the last one is the whole text's. The point moves on when enough
is new, to the end of a word, so that a text which comes again every few characters is run a few
times and not each time. In a cascade, the last verdict alone gets a second opinion.

Nothing depends on what is remembered but the work: a stream that was forgotten, or goes to another
process, is read anew. So whatever is out of order or abandoned is harmless.
"""

import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Final, Literal, Protocol

from starlette.requests import Request

from service.engine.cache import ENTRY_BYTES, RULE_BYTES
from service.engine.memory import Memory, Work
from service.errors import RequestError, retry_after
from service.moderation.disconnect import UntilDisconnect
from service.moderation.judged import Judged
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.content import Content
from tamis.policy import Policy
from tamis.verdict import Finding, Verdict

# Texts are tokenised from their beginning for each verdict: 0.24 ms for 1,000 characters, where a
# window took 35 ms to run. That pieces grow with the text keeps the sum in proportion to it.
SHARE: Final = 32
# Whatever is longer without white space is not a word, or of a script without any.
LONGEST_WORD: Final = 64
WORD: Final = re.compile(r"\s\S*\Z")
MOST_MARKS: Final = 64
# Measured as ``memory.WINDOW_BYTES``: a stream with its finding and its marks, and one without.
STREAM_BYTES: Final = 12_000
BARE_BYTES: Final = 1_000
Key = tuple[str, str]


@dataclass(slots=True, eq=False)
class Stream:
    """What is known of one text: how far it is decided, what was found, what it began with."""

    about: bytes
    memory: Memory = field(default_factory=Memory)
    decided: int = 0
    """Characters that the finding is of."""
    finding: Finding | None = None
    marks: list[tuple[int, bytes]] = field(default_factory=list)
    """Where it was decided before, and a hash of the text up to there."""
    used: float = 0.0
    counted: int = 0
    """Its size as it is in the sum over all streams."""

    @property
    def size(self) -> int:
        """Estimated bytes."""
        if self.finding is None:
            return BARE_BYTES + self.memory.size
        ruled = self.finding.ruled
        rules = 0 if ruled is None else RULE_BYTES * len(ruled.scores)
        other = 0 if self.finding.other is None else ENTRY_BYTES
        return STREAM_BYTES + rules + other + self.memory.size

    def moved(self, to: int, mark: bytes, finding: Finding) -> None:
        """The text was judged up to a point further on."""
        self.decided, self.finding = to, finding
        self.marks.append((to, mark))
        if len(self.marks) > MOST_MARKS:
            del self.marks[1:-1:2]


@dataclass(frozen=True, slots=True)
class Followed:
    """A verdict on the first ``decided`` characters of a text; ``holdback`` more are undecided."""

    verdict: Verdict
    decided: int
    holdback: int
    work: Work


class Judge(Protocol):
    """Who judges the texts of streams: what ``Moderator`` offers for them."""

    def check_lengths(self, items: Sequence[tuple[str, Sequence[Content]]]) -> None:
        """See ``Moderator.check_lengths``."""

    async def judge_growing(
        self,
        request: Request,
        texts: Sequence[tuple[Content, Memory]],
        policy: Policy,
        whole: bool,
    ) -> tuple[Judged, list[Work]]:
        """See ``Moderator.judge_growing``."""

    def decide_on(self, findings: Sequence[Finding], policy: Policy) -> Verdict:
        """See ``Moderator.decide_on``."""


class Streams:
    """The streams of a process: bounded in number and bytes, and forgotten when they are idle."""

    def __init__(self, judge: Judge, settings: Settings, metrics: Metrics) -> None:
        self._judge = judge
        self._settings = settings
        self._metrics = metrics
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[Key, Stream] = OrderedDict()
        self._bytes = 0
        self._open = 0
        self._held = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def size(self) -> int:
        """Estimated bytes of what is remembered."""
        return self._bytes

    async def follow(
        self, request: Request, name: str, content: Content, policy: Policy, final: bool = False
    ) -> Followed:
        """The verdict on a text so far, which a caller sends again and again as it grows.

        ``name`` is the caller's own, and nobody else's: a key sees its own streams only. A text
        that goes on otherwise than before is a new one.

        Raises:
            RequestError, ClientDisconnect: as ``Moderator.judge``.
        """
        key = _key(request, name)
        self._forget_idle()
        # Under other rules, what was found of them is nothing to go by.
        rules = policy.rules if policy.own else ()
        about = self._hash(f"{content.question}\0{rules}\0{content.context}")
        stream = self._known.get(key)
        place = "new" if stream is None or stream.about != about else self._place(stream, content)
        # The last text is judged as it is, whatever came before.
        if stream is None or place == "new" or (final and place != "next"):
            stream = self._put(key, Stream(about))
        self._use(key)
        if place == "early" and not final:
            # It may be another text from the last mark on: nothing is said of it yet.
            return self._told(Stream(about), content, policy, Work())
        try:
            async with UntilDisconnect(request.receive):
                found = await self.advance(request, stream, content, policy, final)
        finally:
            if final and self._known.get(key) is stream:
                self._drop(key)
            self._shrink(stream)
        return found

    async def again(
        self, request: Request, names: Sequence[str], contents: Sequence[Content], policy: Policy
    ) -> Judged:
        """Judge an item to its end whose texts may come again, longer, by their callers' names.

        Any of them may be the last, and callers do not say. So each is judged as a whole, and what
        is saved is what was read before.

        Raises:
            RequestError, ClientDisconnect: as ``Moderator.judge``.
        """
        self._forget_idle()
        self._judge.check_lengths([("", contents)])
        streams = []
        for name in names:
            # Another key than anybody can choose, and as long for every name.
            key = _key(request, self._hash(f"\0{name}").hex())
            streams.append(self._known.get(key) or self._put(key, Stream(b"")))
            self._use(key)
        texts = [(c, stream.memory) for c, stream in zip(contents, streams, strict=True)]
        try:
            async with UntilDisconnect(request.receive):
                judged, work = await self._judge.judge_growing(request, texts, policy, True)
        finally:
            self._shrink(*streams)
        for one in work:
            self._metrics.streamed(one.run, one.windows - one.run)
        return judged

    async def advance(
        self, request: Request, stream: Stream, content: Content, policy: Policy, final: bool
    ) -> Followed:
        """Judge what is new of a text, where that is enough to be worth a run.

        Raises:
            RequestError: as ``Moderator.judge``.
        """
        text, work = content.text, Work()
        to = len(text) if final else settled(text)
        due = to - stream.decided >= max(self._settings.stream_stride, stream.decided // SHARE)
        # At its end a text may be judged again, which runs nothing, to be given a second opinion.
        if final or (due and to):
            whole = Content(content.question, text, content.context)
            self._judge.check_lengths([("text", (whole,))])
            part = Content(content.question, text[:to], content.context, content.field)
            judged, (work,) = await self._judge.judge_growing(
                request, [(part, stream.memory)], policy, final
            )
            finding = judged.findings[0][0]
            if to >= stream.decided:
                stream.moved(to, self._hash(part.text), finding)
            else:
                # Another version has overtaken this one, which is answered for itself.
                stream = Stream(stream.about, decided=to, finding=finding)
        return self._told(stream, content, policy, work)

    @contextmanager
    def opened(self, question: str, context: str | None) -> Iterator[Stream]:
        """A stream that lives as long as its request.

        Raises:
            RequestError: 429 where there are as many as there may be.
        """
        if self._open >= self._settings.streams:
            raise _full(f"{self._open} streams are open, which is the limit")
        stream = Stream(self._hash(f"{question}\0{context}"))
        self._open += 1
        self._shrink()
        try:
            yield stream
        finally:
            self._open -= 1
            self._held -= stream.counted
            self._shrink()

    def hold(self, stream: Stream, content: Content) -> None:
        """Count what an open stream has come to, its text included: that is kept while it is open.

        Raises:
            RequestError: 429 where all open ones together are too large.
        """
        text = getsizeof(content.text) + getsizeof(content.context)
        held = self._held + stream.size + text - stream.counted
        if held > (most := self._settings.stream_bytes):
            raise _full(f"open streams are {self._held} bytes, the limit is {most}")
        self._held, stream.counted = held, stream.size + text
        self._shrink()

    def _place(self, stream: Stream, content: Content) -> Literal["new", "early", "next"]:
        """How a text stands to the one that is remembered: nobody knows all of a shorter one."""
        length = len(content.text)
        marks = [mark for mark in stream.marks if mark[0] <= length]
        if not marks:
            return "next" if not stream.decided else "early"
        at, known = marks[-1]
        if self._hash(content.text[:at]) != known:
            return "new"
        return "early" if length < stream.decided else "next"

    def _told(self, stream: Stream, content: Content, policy: Policy, work: Work) -> Followed:
        findings = [] if stream.finding is None else [stream.finding]
        verdict = self._judge.decide_on(findings, policy)
        self._metrics.streamed(work.run, work.windows - work.run)
        holdback = max(len(content.text) - stream.decided, 0)
        return Followed(verdict, stream.decided, holdback, work)

    def _hash(self, text: str) -> bytes:
        blob = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(blob, key=self._secret, digest_size=16).digest()

    def _put(self, key: Key, stream: Stream) -> Stream:
        if key in self._known:
            self._drop(key)
        self._known[key] = stream
        self._recount(stream)
        return stream

    def _use(self, key: Key) -> None:
        self._known[key].used = time.monotonic()
        self._known.move_to_end(key)

    def _drop(self, key: Key) -> None:
        stream = self._known.pop(key)
        self._bytes -= stream.counted
        stream.counted = 0

    def _recount(self, stream: Stream) -> None:
        self._bytes += stream.size - stream.counted
        stream.counted = stream.size

    def _forget_idle(self) -> None:
        oldest = time.monotonic() - self._settings.stream_seconds
        while self._known and (first := next(iter(self._known.items())))[1].used < oldest:
            self._drop(first[0])
        self._metrics.streams.set(len(self._known) + self._open)

    def _shrink(self, *grown: Stream) -> None:
        """Forget the least recently used streams where there are too many, or too large ones.

        Those that are open count, and cannot be forgotten.
        """
        for stream in grown:
            if stream.counted:  # else it was forgotten meanwhile
                self._recount(stream)
        settings = self._settings
        while self._known and (
            len(self._known) + self._open > settings.streams
            or self._bytes + self._held > settings.stream_bytes
        ):
            self._drop(next(iter(self._known)))
        self._metrics.streams.set(len(self._known) + self._open)


def _full(message: str) -> RequestError:
    return RequestError(message, code="overloaded", status=429, headers=retry_after(1.0))


def _key(request: Request, name: str) -> Key:
    caller = request.state.caller
    return "" if caller is None else caller.id, name


def settled(text: str) -> int:
    """How many characters of a text that goes on are whole words."""
    tail = text[-LONGEST_WORD:]
    partial = WORD.search(tail)
    return len(text) if partial is None else len(text) - len(tail) + partial.start() + 1
