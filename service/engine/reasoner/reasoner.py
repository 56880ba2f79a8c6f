r"""One text and one policy → a verdict read off one prefill, then a reason, token by token.

Where the verdict is known already (``word``), it is given, and only the reason is written.

The verdict costs no decoding: ``\safety{unsafe}\category{`` is appended to the question and read
in the same run, and the logits before ``unsafe`` and behind the last brace hold both answers. Only
where category names begin alike, or a reason is wanted, is more run.
"""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from service.engine.reasoner.decoder import Decoder, Floats, Prefix
from service.engine.reasoner.explanation import Explanation, Reading, Status
from service.engine.reasoner.labels import Labels
from service.engine.reasoner.quoting import Quoting
from service.engine.recent import Recent
from tamis.bundle import BundleError
from tamis.content import Content
from tamis.reasoner import protocol
from tamis.reasoner.bundle import ReasonerBundle
from tamis.reasoner.protocol import (
    END,
    START,
    Fault,
    Guideline,
    MalformedError,
    Piece,
    Pieces,
    Safety,
)
from tamis.reasoner.quotes import Source

# Tokens read in one run, between which others may pass and a caller's leaving is noticed.
STEP: Final = 64

Policy = tuple[Guideline, ...]
Pause = Callable[[], None]
"""Called between runs; may wait, and ends the work by raising ``GivenUpError`` or ``LateError``."""
Emit = Callable[[str], None]
"""Is given the reason as it grows, in pieces."""


def go_on() -> None:
    """The pause of work that nobody interrupts."""


class GivenUpError(RuntimeError):
    """Nobody waits for the work any more."""


class LateError(RuntimeError):
    """The time that the work may take is over."""


class TooLongError(ValueError):
    """A text that does not fit behind its policy: it is refused, never cut."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"{tokens} tokens, {limit} fit")
        self.tokens = tokens
        self.limit = limit


class Reasoner:
    """A bundle ready to reason. Not thread-safe: it has one decoder, and is at one text."""

    def __init__(self, bundle: ReasonerBundle, threads: int, cache_bytes: int) -> None:
        """Load the graph.

        Raises:
            BundleError: where the graph does not fit, or its answers come in an order that is not
                served: a reason before the verdict would put half a second before every verdict.
        """
        if bundle.form.order != "verdict-first":
            raise BundleError(f"{bundle.path}: answers are {bundle.form.order}, not verdict-first")
        self.bundle = bundle
        self.decoder = Decoder(bundle.graph, bundle.positions, threads)
        self.prefixes: Recent[Hashable, Prefix] = Recent(cache_bytes, lambda _, one: one.nbytes)
        self._tokenizer = Tokenizer.from_file(str(bundle.tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # What callers write is never read as a control token.
        self._tokenizer.encode_special_tokens = True
        controls = {text: self._tokenizer.token_to_id(text) for text in (START, END)}
        if None in controls.values():
            raise BundleError(f"{bundle.tokenizer}: {START} or {END} is not a token")
        self._controls: dict[str, int] = controls
        self._safety = tuple(self._encode([Piece(label)])[0] for label in ("safe", "unsafe"))
        if len(set(self._safety)) == 1:
            raise BundleError(f"{bundle.tokenizer}: safe and unsafe begin with the same token")
        self._verdict_at = self._category_at = 0

    def count(self, policy: Policy, content: Content) -> tuple[int, int]:
        """Tokens of a policy and of a text behind it."""
        prefix = self._encode(protocol.prefix(policy, self.bundle.form))
        return len(prefix), len(self._encode(protocol.case(content)))

    def judge(
        self,
        policy: Policy,
        content: Content,
        pause: Pause,
        max_reason: int = 0,
        note: str | None = None,
    ) -> Reading:
        """Read a text under a policy; the decoder is left at the verdict.

        Args:
            policy: the categories.
            content: the text and what is asked of it.
            pause: called between runs.
            max_reason: tokens to leave for a reason.
            note: the question that the categories answer, where they do not make a policy.

        Raises:
            TooLongError: where both do not fit.
            SameLabelsError: where two categories have the same tokens.
        """
        form = self.bundle.form
        prefix = self._encode(protocol.prefix(policy, form, note))
        case = self._encode(protocol.case(content))
        opening, label, bridge, *_ = protocol.verdict("unsafe", None)
        forced = [self._encode([piece]) for piece in (opening, label, bridge)]
        used = len(prefix) + sum(map(len, forced)) + self._room(policy, max_reason)
        if used + len(case) > self.bundle.positions:
            raise TooLongError(len(case), max(0, self.bundle.positions - used))
        decoder = self.decoder
        cached = self._restore((policy, note), prefix, pause)
        tail = [token for part in forced for token in part]
        ids = [*case, *tail]
        # The last run is a full one, so that it holds all of the verdict.
        last = max(0, len(ids) - STEP)
        for start in range(0, last, STEP):
            pause()
            decoder.read(ids[start : min(start + STEP, last)])
        pause()
        # Logits behind the last token of the question and behind every token of the verdict.
        logits = decoder.read(ids[last:], range(-len(tail) - 1, 0))
        n, end = len(forced[0]), decoder.tokens
        self._verdict_at, self._category_at = end - len(tail) + n, end

        def behind(path: Sequence[int]) -> Floats:
            pause()
            decoder.rewind(end)
            found: Floats = decoder.read(path)[0]
            return found

        calibration = self.bundle.calibration
        labels = Labels([self._label(name, "}") for name, _ in policy])
        category = labels.choose(logits[-1], behind, calibration.temperature)
        decoder.rewind(end)
        safe, odd = (float(logits[n][token]) for token in self._safety)
        odds = calibration.scale * (odd - safe) + calibration.bias
        unsafe = 1 / (1 + math.exp(-max(-700.0, min(700.0, odds))))
        chosen = int(np.argmax(category.scores))
        free = _follow(logits[:n], forced[0]) and int(logits[n].argmax()) in self._safety
        # A question has no "none of them": its options are weighed, whatever else would be written.
        if free and unsafe >= 0.5 and note is None:
            free = _follow(logits[n + 1 : -1], tail[n + 1 :]) and category.free[chosen]
        return Reading(
            unsafe=unsafe,
            categories={
                name: math.exp(score)
                for (name, _), score in zip(policy, category.scores, strict=True)
            },
            fault=None if free else "layout",
            tokens=len(prefix) + len(case),
            prefix=len(prefix),
            cached=cached,
        )

    def explain(
        self,
        policy: Policy,
        contents: Sequence[Content],
        pause: Pause,
        max_reason: int,
        emit: Emit | None = None,
        note: str | None = None,
    ) -> tuple[int, Explanation]:
        """Judge contents, and say why of the one that is likeliest unsafe; its number comes first.

        Raises:
            TooLongError, GivenUpError: as ``judge``.
            LateError: where the time was over before there was a verdict.
        """
        began = time.perf_counter()
        readings = [self.judge(policy, c, pause, max_reason, note) for c in contents]
        best = max(range(len(readings)), key=lambda n: readings[n].unsafe)
        if best != len(readings) - 1:
            self.judge(policy, contents[best], pause, max_reason, note)
        reading = readings[best]
        judged = time.perf_counter()
        if not max_reason:
            return best, Explanation(reading, "ok", None, reading.fault, 0, judged - began, 0.0)
        status: Status
        reason: str | None = None
        fault, written = reading.fault, 0
        if fault is not None:
            status = "malformed"
        else:
            # An answer to a question is explained whatever the model thinks of its safety.
            category = reading.category if note is None else reading.best
            status, reason, fault, written = self._reason(
                contents[best], category, pause, max_reason, emit
            )
        ended = time.perf_counter()
        return best, Explanation(
            reading, status, reason, fault, written, judged - began, ended - judged
        )

    def word(
        self,
        policy: Policy,
        content: Content,
        decided: Reading,
        pause: Pause,
        max_reason: int,
        emit: Emit | None = None,
        note: str | None = None,
    ) -> Explanation:
        """Say why a verdict holds that was given; the model is not asked for its own.

        Of a policy that is broken it reads the broken rule alone: beside others it gave the clause
        of another one as the reason, in one case of three.

        Raises:
            TooLongError, GivenUpError: as ``judge``.
            LateError: where the time was over before the text was read.
        """
        began, given = time.perf_counter(), decided.given
        assert given is not None
        policy = tuple(rule for rule in policy if rule.name == given.category) or policy
        prefix = self._encode(protocol.prefix(policy, self.bundle.form, note))
        case = self._encode(protocol.case(content))
        said = self._encode((*protocol.verdict(given.safety, given.category), Piece("\n")))
        used = len(prefix) + len(said) + max_reason
        if used + len(case) > self.bundle.positions:
            raise TooLongError(len(case), max(0, self.bundle.positions - used))
        cached = self._restore((policy, note), prefix, pause)
        ids = [*case, *said]
        last = len(ids) - 1 - (len(ids) - 1) % STEP
        for start in range(0, last, STEP):
            pause()
            self.decoder.read(ids[start : start + STEP])
        pause()
        logits = self.decoder.read(ids[last:])[0]
        read = time.perf_counter()
        status, reason, fault, written = self._write(content, logits, pause, max_reason, emit)
        reading = replace(
            decided,
            tokens=decided.tokens + len(prefix) + len(case),
            prefix=len(prefix),
            cached=decided.cached + cached,
        )
        ended = time.perf_counter()
        return Explanation(reading, status, reason, fault, written, read - began, ended - read)

    def _reason(
        self,
        content: Content,
        category: str | None,
        pause: Pause,
        max_reason: int,
        emit: Emit | None,
    ) -> tuple[Status, str | None, Fault | None, int]:
        """Write a reason behind the verdict that was read."""
        safety: Safety = "safe" if category is None else "unsafe"
        said = (*protocol.verdict(safety, category), Piece("\n"))
        # What is left to write of the verdict, behind what was read already.
        rest = said[1:] if safety == "safe" else said[3:]
        self.decoder.rewind(self._verdict_at if safety == "safe" else self._category_at)
        try:
            logits = self._read_forced(self._encode(rest), pause)
        except LateError:
            return "late", None, None, 0
        if logits is None:
            return "malformed", None, "layout", 0
        return self._write(content, logits, pause, max_reason, emit)

    def _write(
        self, content: Content, logits: Floats, pause: Pause, max_reason: int, emit: Emit | None
    ) -> tuple[Status, str | None, Fault | None, int]:
        """Decode greedily, to the turn's end or the limit; nothing is quoted that is not there.

        Raises:
            GivenUpError: as ``judge``.
        """
        ids: list[int] = []
        emitted = 0
        end, source = self._controls[END], Source.of(content)
        quoting = Quoting(source, self._text_ids, self._read_back, end)
        try:
            while (token := quoting.choose(logits, ids)) != end:
                if len(ids) == max_reason:
                    return "unfinished", None, None, len(ids)
                ids.append(token)
                if emit is not None and len(quoting.text) > emitted:
                    emit(quoting.text[emitted:])
                    emitted = len(quoting.text)
                pause()
                logits = self.decoder.read([token])[0]
        except LateError:
            return "late", None, None, len(ids)
        try:
            reason = protocol.check_reason(self._read_back(ids))
            if not source.bears(reason):
                raise MalformedError("quotation")
            return "ok", reason, None, len(ids)
        except MalformedError as error:
            return "malformed", None, error.fault, len(ids)

    def _read_forced(self, ids: list[int], pause: Pause) -> Floats | None:
        """Append the rest of the verdict; None where the model would have written another."""
        pause()
        logits = self.decoder.read(ids, range(len(ids)))
        # Its first token was chosen among labels.
        return logits[-1] if _follow(logits[:-1], ids[1:]) else None

    def _restore(self, key: Hashable, prefix: list[int], pause: Pause) -> int:
        """Bring the decoder behind the policy; how many tokens came from the cache."""
        if (kept := self.prefixes.get(key)) is not None:
            self.decoder.restore(kept)
            return kept.tokens
        self.decoder.rewind(0)
        for start in range(0, len(prefix), STEP):
            pause()
            self.decoder.read(prefix[start : start + STEP])
        self.prefixes.keep(key, self.decoder.keep())
        return 0

    def _room(self, policy: Policy, max_reason: int) -> int:
        """Tokens that follow the opened verdict at most: a label, its end, and a reason."""
        names = (*(name for name, _ in policy), protocol.NOT_APPLICABLE)
        return max(len(self._label(name, "}")) for name in names) + 1 + max_reason

    def _label(self, name: str, end: str) -> list[int]:
        return [*self._encode([Piece(name)]), *self._encode([Piece(end)])]

    def _encode(self, pieces: Pieces | Sequence[Piece]) -> list[int]:
        return protocol.encode(pieces, self._text_ids, self._controls)

    def _read_back(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _text_ids(self, text: str) -> list[int]:
        (found,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(found.ids)


def _follow(logits: Floats, ids: Sequence[int]) -> bool:
    """Whether each token is what the model would have written."""
    return bool(logits.argmax(axis=1).tolist() == list(ids))
