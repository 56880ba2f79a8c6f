"""One content → one finding: read, tokenise, window, run, pool, calibrate, point at evidence."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from service.engine import evidence as ev
from service.engine.runtime import CpuRuntime, Outputs, Runtime
from tamis.bundle import QUESTIONS, Bundle, BundleError
from tamis.content import Content, Question
from tamis.reading import UNREAD_SCRIPT, UNREADABLE, Language, Reading, Text, language, read
from tamis.taxonomy import ATTACK, REFUSAL, SEVERITY, TOXICITY
from tamis.tokens import plain_tokenizer, unknown_of
from tamis.verdict import BORDERLINE, UNSAFE, Evidence, Finding
from tamis.windows import Window, windows

INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids", "judged"})
# Evidence is worth computing only for heads that a policy could plausibly flag.
PLAUSIBLE: Final = 0.05
# Some programs put it before a text; it stands for nothing, as white space does.
MARK: Final = "\ufeff"
# Input name -> (B, T).
Feed = dict[str, NDArray[np.int64]]
# Label -> (head, score of each window).
Answers = dict[str, tuple[int, list[float]]]


@dataclass(frozen=True)
class Said:
    """What a content says, and what it is judged behind."""

    text: Reading
    context: Reading | None

    @cached_property
    def language(self) -> Language:
        """Of what they read as, once decoded: obfuscated English is English.

        A text in one language behind a context in the other needs readers of both.
        """
        found = language(self.text.views[-1].text)
        if found == "english" and self.context is not None:
            return found if language(self.context.views[-1].text) == found else "mixed"
        return found


@dataclass(frozen=True, slots=True)
class View:
    """What a content says, as it stands or once decoded; its windows are those from ``first`` on.

    ``encoding`` keeps words and offsets where evidence is asked.
    """

    text: Text
    first: int
    encoding: Encoding | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A content cut into windows, one view after the other.

    ``hidden`` are spans that hold what cannot be seen or read.
    """

    content: Content
    windows: list[Window]
    tokens: int
    views: list[View]
    transforms: tuple[str, ...]
    hidden: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """One window's outputs: logits (H,); token logits and attention (judged tokens, H)."""

    window: Window
    logits: NDArray[np.float32]
    token_logits: NDArray[np.float32]
    attention: NDArray[np.float32]


class Classifier:
    """A bundle ready to judge. Thread-safe: nothing is written after construction."""

    def __init__(
        self, bundle: Bundle, runtime: Runtime, reader: Callable[[str], Reading] = read
    ) -> None:
        """Check that graph and manifest belong together; ``reader`` says what texts say.

        Raises:
            BundleError: where the graph has other inputs or another number of heads.
        """
        if runtime.inputs != INPUTS:
            raise BundleError(f"{bundle.graph}: inputs are {sorted(runtime.inputs)}")
        if runtime.heads != len(bundle.heads):
            raise BundleError(
                f"{bundle.graph}: {runtime.heads} heads, the manifest lists {len(bundle.heads)}"
            )
        self.bundle = bundle
        self.runtime = runtime
        self._read = reader
        self._tokenizer = plain_tokenizer(bundle.tokenizer)
        self._unknown = unknown_of(self._tokenizer)
        # What a lattice of pieces puts before a word it has no pieces for.
        self._before = self._tokenizer.token_to_id("▁")
        self._column = {head.name: i for i, head in enumerate(bundle.heads)}
        self._calibration = [(head.scale, head.bias) for head in bundle.heads]
        self._categories = [h.name for h in bundle.heads if h.name not in QUESTIONS]

    @property
    def batch_tokens(self) -> int:
        """Tokens of one run, padding included; 0 where windows must run alone."""
        return self.runtime.batch_tokens

    def read(self, content: Content) -> Said:
        """What a content says, which is the same for every bundle."""
        context = None if content.context is None else self._read(content.context)
        return Said(self._read(content.text), context)

    def encode(self, content: Content, evidence: bool = False, said: Said | None = None) -> Encoded:
        """Read and tokenise a content; a text without any token (empty, blank) has no window.

        ``said`` is what it says, where that is known.
        """
        said = said or self.read(content)
        reading = said.text
        contexts = (None,) if said.context is None else said.context.views
        pairs = [(reading.views[0], contexts[0])]
        if len(reading.views) > 1 or len(contexts) > 1:
            pairs.append((reading.views[-1], contexts[-1]))
        views: list[View] = []
        cut: list[Window] = []
        seen: list[tuple[list[int], list[int] | None]] = []
        for view, before in pairs:
            encoding: Encoding | None = None
            if evidence:
                encoding = self._tokenizer.encode(view.text, add_special_tokens=False)
            ids = self._ids(view.text) if encoding is None else encoding.ids
            context = None if before is None else self._ids(before.text)
            # Many a view reads to the tokenizer as the original does.
            if ids and (ids, context) not in seen:
                seen.append((ids, context))
                views.append(View(view, len(cut), encoding))
                cut += windows(ids, self.bundle.shape, context)
        transforms, hidden = reading.transforms, tuple((h.start, h.end) for h in reading.hidden)
        if not cut and content.text.replace(MARK, "").strip():
            transforms, hidden = (*transforms, UNREADABLE), ((0, len(content.text)),)
        elif cut and self._strange(seen[-1][0], content.text):
            transforms = (*transforms, UNREAD_SCRIPT)
        tokens = sum(len(ids) for ids, _ in seen)
        return Encoded(content, cut, tokens, views, transforms, hidden)

    def score(self, windows: Sequence[Window], wide: bool = False) -> list[Scored]:
        """Run windows as one batch, padded to the longest; ``wide`` runs on all threads.

        Raises:
            RuntimeError: where scores are no numbers, which are below every threshold.
        """
        out: Outputs = self.runtime.run(self.feed(windows), wide)
        if not np.isfinite(out.logits).all():
            raise RuntimeError("scores are no numbers")
        scored = []
        for row, window in enumerate(windows):
            judged = slice(window.lead, window.lead + window.count)
            scored.append(
                Scored(
                    window,
                    out.logits[row],
                    out.token_logits[row, judged],
                    out.attention[row, judged],
                )
            )
        return scored

    def feed(self, windows: Sequence[Window]) -> Feed:
        """The graph's inputs for windows, padded to the longest."""
        if len(windows) == 1:
            (window,) = windows
            n = len(window.ids)
            # All but the ids depends on little more than the length, and is kept.
            zeros, ones, judged = _masks(n, window.lead, window.count)
            types = zeros if not any(window.types) else np.array([window.types])
            ids = np.array([window.ids])
            return {
                "input_ids": ids,
                "attention_mask": ones,
                "token_type_ids": types,
                "judged": judged,
            }
        longest = max(len(window.ids) for window in windows)
        feed = {name: np.zeros((len(windows), longest), dtype=np.int64) for name in INPUTS}
        for row, window in enumerate(windows):
            n, lead = len(window.ids), window.lead
            feed["input_ids"][row, :n] = window.ids
            feed["attention_mask"][row, :n] = 1
            feed["token_type_ids"][row, :n] = window.types
            feed["judged"][row, lead : lead + window.count] = 1
        return feed

    def finding(self, encoded: Encoded, scored: Sequence[Scored]) -> Finding:
        """Pool the windows of one content: the most unsafe window speaks for the text.

        A category's score is P(unsafe) * P(category | unsafe) within one window, at its highest. An
        answer declines only where all of it does, so its refusal is that of the least window.
        """
        question, field = encoded.content.question, encoded.content.field
        p = [self._probabilities(s.logits) for s in scored]
        answers: Answers = self._answers(question, p) if scored else {}
        highest = {label: max(score) for label, (_, score) in answers.items()}
        overall, attack = highest.pop(UNSAFE, 0.0), highest.pop(ATTACK, None)
        declines = self._column.get(REFUSAL) if question == "response" and scored else None
        evidence: tuple[Evidence, ...] = ()
        if scored and encoded.views[0].encoding is not None:
            evidence = self._evidence(encoded, scored, answers)
        if encoded.hidden:
            # Whoever hides a text from its readers does not mean them well, whatever it says.
            attack, evidence = 1.0, (*_hiding(encoded), *evidence)
            overall = 1.0 if question == ATTACK else overall
        return Finding(
            question=question,
            overall=overall,
            attack=attack,
            severity=highest.pop(BORDERLINE, None),
            refusal=None if declines is None else min(row[declines] for row in p),
            categories=highest,
            windows=len(scored),
            tokens=encoded.tokens,
            evidence=evidence,
            field=field,
            transforms=encoded.transforms,
        )

    def judge(self, content: Content, evidence: bool = False, said: Said | None = None) -> Finding:
        """Encode, score and pool on the calling thread: for scripts and evaluation."""
        encoded = self.encode(content, evidence, said)
        scored = [s for window in encoded.windows for s in self.score([window], wide=True)]
        return self.finding(encoded, scored)

    def _ids(self, text: str) -> list[int]:
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)

    def _probabilities(self, logits: NDArray[np.float32]) -> list[float]:
        # Plain floats: a dozen numbers are done before numpy has found its loops.
        scaled = zip(logits.tolist(), self._calibration, strict=True)
        return [ev.logistic(scale * logit + bias) for logit, (scale, bias) in scaled]

    def _answers(self, question: Question, p: Sequence[Sequence[float]]) -> Answers:
        """Each label that can be given for a question: its head, and its score by window."""
        column = self._column
        asked = column[question]
        unsafe = [row[asked] for row in p]
        if question == ATTACK:
            # Of a document nothing else is asked.
            return {UNSAFE: (asked, unsafe), ATTACK: (asked, unsafe)}
        answers = {UNSAFE: (asked, unsafe)}
        for name in self._categories:
            at = column[name]
            answers[name] = at, [row[asked] * row[at] for row in p]
        if question != "response":
            # What a model answered is neither an attack on it nor was toxicity taught on it.
            for name in (TOXICITY, ATTACK):
                answers[name] = column[name], [row[column[name]] for row in p]
        if SEVERITY in column:
            answers[BORDERLINE] = column[SEVERITY], [row[column[SEVERITY]] for row in p]
        return answers

    def _evidence(
        self, encoded: Encoded, scored: Sequence[Scored], answers: Answers
    ) -> tuple[Evidence, ...]:
        """Spans for every plausible head, each from the window that speaks loudest for it."""
        content = encoded.content
        tokens: dict[int, tuple[list[int | None], list[tuple[int, int]]]] = {}
        found: list[Evidence] = []
        for label, (head, score) in answers.items():
            at = score.index(max(score))
            if score[at] < PLAUSIBLE:
                continue
            best = scored[at]
            view = next(view for view in reversed(encoded.views) if view.first <= at)
            if view.first not in tokens:
                tokens[view.first] = _tokens(view)
            judged = slice(best.window.first, best.window.first + best.window.count)
            words, offsets = tokens[view.first]
            scale, bias = self._calibration[head]
            for span in ev.spans(
                best.attention[:, head],
                scale * best.token_logits[:, head] + bias,
                words[judged],
                offsets[judged],
            ):
                start, end = view.text.origin(span.start, span.end)
                text = content.text[start:end]
                found.append(Evidence(start, end, text, label, span.score, content.field))
        return tuple(found)

    def _strange(self, ids: Sequence[int], text: str) -> bool:
        """Whether most of a text is letters that the tokenizer has no tokens for."""
        if self._unknown is None or text.isascii():
            return False
        before = 0 if self._before is None else ids.count(self._before)
        if 2 * ids.count(self._unknown) < len(ids) - before:
            return False
        return any(char.isalpha() and not char.isascii() for char in text)


def _tokens(view: View) -> tuple[list[int | None], list[tuple[int, int]]]:
    """The word of each token, and its offsets in the view."""
    assert view.encoding is not None
    said, offsets = view.text.text, view.encoding.offsets
    # Punctuation takes part in verdicts, but says nothing to a reader.
    words = [
        word if any(map(str.isalnum, said[start:end])) else None
        for word, (start, end) in zip(view.encoding.word_ids, offsets, strict=True)
    ]
    return words, offsets


def _hiding(encoded: Encoded) -> Iterator[Evidence]:
    content = encoded.content
    for start, end in encoded.hidden:
        yield Evidence(start, end, content.text[start:end], ATTACK, 1.0, content.field)


@lru_cache(maxsize=1024)
def _masks(tokens: int, lead: int, count: int) -> tuple[NDArray[np.int64], ...]:
    """Zeros, ones, and 1 for the judged tokens, each (1, tokens); never written to."""
    zeros = np.zeros((1, tokens), dtype=np.int64)
    judged = zeros.copy()
    judged[0, lead : lead + count] = 1
    return zeros, zeros + 1, judged


def load_classifier(bundle: Bundle, runtime: Runtime | None = None) -> Classifier:
    """A classifier with a default CPU runtime."""
    return Classifier(bundle, runtime or CpuRuntime(bundle.graph))
