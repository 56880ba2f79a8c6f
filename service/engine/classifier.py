"""One content → one finding: tokenise, cut windows, run, pool, calibrate, point at evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from service.engine import evidence as ev
from service.engine.runtime import CpuRuntime, Outputs, Runtime
from tamis.bundle import QUESTIONS, Bundle, BundleError
from tamis.content import Content, Question
from tamis.taxonomy import ATTACK, REFUSAL, SEVERITY, TOXICITY
from tamis.tokens import plain_tokenizer
from tamis.verdict import BORDERLINE, UNSAFE, Evidence, Finding
from tamis.windows import Window, windows

INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids", "judged"})
# Evidence is worth computing only for heads that a policy could plausibly flag.
PLAUSIBLE: Final = 0.05
# Input name -> (B, T).
Feed = dict[str, NDArray[np.int64]]
# Label -> (head, score of each window).
Answers = dict[str, tuple[int, list[float]]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A content cut into windows; ``encoding`` keeps words and offsets where evidence is asked."""

    content: Content
    windows: list[Window]
    tokens: int
    encoding: Encoding | None


@dataclass(frozen=True, slots=True)
class Scored:
    """One window's outputs: logits (H,); token logits and attention (judged tokens, H)."""

    window: Window
    logits: NDArray[np.float32]
    token_logits: NDArray[np.float32]
    attention: NDArray[np.float32]


class Classifier:
    """A bundle ready to judge. Thread-safe: nothing is written after construction."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        """Check that graph and manifest belong together.

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
        self._tokenizer = plain_tokenizer(bundle.tokenizer)
        self._column = {head.name: i for i, head in enumerate(bundle.heads)}
        self._calibration = [(head.scale, head.bias) for head in bundle.heads]
        self._categories = [h.name for h in bundle.heads if h.name not in QUESTIONS]

    def encode(self, content: Content, evidence: bool = False) -> Encoded:
        """Tokenise a content; a text without any token (empty, blank) has no window."""
        encoding: Encoding | None = None
        if evidence:
            encoding = self._tokenizer.encode(content.text, add_special_tokens=False)
            ids = encoding.ids
        else:
            ids = self._ids(content.text)
        context = None if content.context is None else self._ids(content.context)
        cut = windows(ids, self.bundle.shape, context) if ids else []
        return Encoded(content, cut, len(ids), encoding)

    def score(self, windows: Sequence[Window], wide: bool = False) -> list[Scored]:
        """Run windows as one batch, padded to the longest; ``wide`` runs on all threads."""
        out: Outputs = self.runtime.run(self.feed(windows), wide)
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
        if not scored:
            return Finding(question, 0.0, {}, None, windows=0, tokens=0, field=field)
        p = [self._probabilities(s.logits) for s in scored]
        answers = self._answers(question, p)
        highest = {label: max(score) for label, (_, score) in answers.items()}
        declines = self._column.get(REFUSAL) if question == "response" else None
        return Finding(
            question=question,
            overall=highest.pop(UNSAFE),
            attack=highest.pop(ATTACK, None),
            severity=highest.pop(BORDERLINE, None),
            refusal=None if declines is None else min(row[declines] for row in p),
            categories=highest,
            windows=len(scored),
            tokens=encoded.tokens,
            evidence=self._evidence(encoded, scored, answers) if encoded.encoding else (),
            field=field,
        )

    def judge(self, content: Content, evidence: bool = False) -> Finding:
        """Encode, score and pool on the calling thread: for scripts and evaluation."""
        encoded = self.encode(content, evidence)
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
        content, encoding = encoded.content, encoded.encoding
        assert encoding is not None
        # Punctuation takes part in verdicts, but says nothing to a reader.
        words = [
            word if any(map(str.isalnum, content.text[start:end])) else None
            for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True)
        ]
        found: list[Evidence] = []
        for label, (head, score) in answers.items():
            at = score.index(max(score))
            if score[at] < PLAUSIBLE:
                continue
            best = scored[at]
            judged = slice(best.window.first, best.window.first + best.window.count)
            scale, bias = self._calibration[head]
            for span in ev.spans(
                best.attention[:, head],
                scale * best.token_logits[:, head] + bias,
                words[judged],
                encoding.offsets[judged],
            ):
                text = content.text[span.start : span.end]
                found.append(Evidence(span.start, span.end, text, label, span.score, content.field))
        return tuple(found)


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
