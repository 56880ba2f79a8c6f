"""The policy encoder: how a rule and a text become one input, and its bundle on disk.

A cross-encoder reads one rule beside one text and says how likely the text breaks *this* rule:

    [CLS] rule [SEP] mark judged [SEP]                token types: 0 … 0, 1 from ``mark`` on
    [CLS] rule [SEP] context [SEP] mark judged [SEP]  what the text is read behind, of type 0 too

``rule`` is ``name: definition``, or the name alone (``Guideline``). ``mark`` says in a word or two
whether a request, an answer or a post is judged, and where the bundle was taught with them, what
the classifier says of it (``hints_of``): whoever writes a rule about harm means what it knows.
Rule and context are shortened to their first and last tokens, each to a limit of its own, so that
nothing of the judged text is lost: a long one is read in overlapping windows, of which the highest
logit counts. A pair depends on its rule, its text, its hints and nothing else: a policy's other
rules, their order and the load change no probability. Hints are those of the bundle that is asked
first, whoever else has a say in the verdict.

A bundle has one graph, or two.

*Cross-encoder*: ``input_ids``, ``attention_mask``, ``token_type_ids`` (pairs, tokens) int64 →
``logits`` (pairs, 1).

*Split encoder*: its ``split`` lower layers read a rule alone, once a policy, and a text alone, once
a request; the others read both (``rule_alone``, ``texts_alone``):

    [CLS] rule [SEP]                                  read alone, all of type 0
    [CLS] (context [SEP]) mark judged [SEP]           read alone, of type 1 from ``mark`` on

``states``: ``input_ids``, for bodies that know them ``token_type_ids``, (1, tokens) int64 →
``states`` (1, tokens, width) float16. ``joint``: ``rule``, ``text`` (1, tokens, width) float16,
``judged`` (1, tokens of the text) int64, their types → ``logits`` (1, 1). Nothing is padded: one
rule or text a run, as CPUs like best.

P(breaks the rule) = sigmoid(scale * logit + bias), calibrated per question, where there are hints
with a bias for each verdict of the classifier. A text is
unsafe under a policy where any rule's probability reaches the threshold; its category is the most
likely rule.

To serve it::

    bundle = rules.load(folder)
    ids = rules.encoder(plain_tokenizer(bundle.tokenizer))
    rule = rules.read_rule(guideline, ids, bundle.shape)     # once per rule: cache it
    hints = rules.hints_of(finding) if bundle.shape.hints else ()
    text = rules.read_text(content, ids, bundle.shape, hints)  # once per text
    for window in rules.pairs(rule, text, bundle.shape):     # pad with 0; token 0 is masked
        ...                                                  # window.ids, window.types
    scale, bias = bundle.odds(content.question, hints)
    head = bundle.head(content.question)                     # thresholds
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenizers import Tokenizer

from tamis.bundle import (
    MANIFEST,
    BundleError,
    Head,
    default_bundle,
    head_of,
    listed,
    read_manifest,
    understanding,
)
from tamis.content import Content, Question
from tamis.reasoner.protocol import Guideline
from tamis.tiers import NONE, Companion
from tamis.verdict import Finding
from tamis.windows import Window, WindowShape, shorten, windows

FORMAT: Final = "tamis.policy-encoder/1"
KIND: Final = "cross-encoder"
SPLIT: Final = "split-encoder"
NAME: Final = "tamis-policy-22m"
# The variable that says where the bundle is; empty: there is to be none.
WHERE: Final = "TAMIS_POLICY_ENCODER"
# Whoever is there judges in place of the one above.
ACCURATE: Final = Companion("tamis-policy-110m", "TAMIS_POLICY_ENCODER_ACCURATE")
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT: Final = "logits"
# Of a split encoder's graphs.
IDS, TYPES, STATES = "input_ids", "token_type_ids", "states"
PARTS: Final = ("rule", "text", "judged")
# What is judged, said before it: the same words mean another thing from a user and from a model.
MARKS: Final[Mapping[Question, str]] = {
    "prompt": "user:",
    "response": "assistant:",
    "toxicity": "post:",
    "attack": "document:",
}
# Tokens of a pair that are neither rule, context nor text: [CLS], three [SEP] and a long mark.
SPECIAL: Final = 16
# With a classifier's hints in the mark.
HINTED: Final = 28
# A classifier's probabilities in words: a verdict holds from the first, is open from the second.
LIKELY, OPEN = 0.5, 0.1
SAFE: Final = "safe"
# Categories are hints from here on, so many of them, the likeliest first.
NAMED: Final = 0.3
MOST_NAMED: Final = 2
# The questions that calibration knows; a document is judged by the numbers of a post.
QUESTIONS: Final[tuple[Question, ...]] = ("prompt", "response", "toxicity")
# Text → token ids, no special tokens among them.
Encode = Callable[[str], Sequence[int]]
# Words of a mark that a classifier's finding comes to.
Hints = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairShape:
    """Sizes in tokens; ``cls`` and ``sep`` are token ids.

    Written rules have 30 tokens (99 in 100 below 58), the requests that answers answer 11. With
    both at their limits some 80 tokens are left for the judged text of a window. ``hints``: the
    mark says what the classifier found.
    """

    cls: int
    sep: int
    max_tokens: int = 256
    overlap: int = 32
    rule_tokens: int = 96
    context_tokens: int = 64
    hints: bool = False

    def __post_init__(self) -> None:
        least = (HINTED if self.hints else SPECIAL) + self.overlap
        if self.rule_tokens + self.context_tokens + least >= self.max_tokens:
            raise ValueError(
                f"pairs of {self.max_tokens} tokens leave no room for a text behind "
                f"{self.rule_tokens} of a rule and {self.context_tokens} of context"
            )


class Text(NamedTuple):
    """A text's tokens: the same for every rule."""

    mark: Sequence[int]
    judged: Sequence[int]
    context: Sequence[int] | None


def encoder(tokenizer: Tokenizer) -> Encode:
    """How the tokenizer of a bundle (``tokens.plain_tokenizer``) makes tokens of a text."""
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def read_rule(rule: Guideline, ids: Encode, shape: PairShape) -> list[int]:
    """Tokens of a rule: its whole name, as far as there is room, then its definition.

    Of a long definition the first and last tokens are kept: exceptions come last.
    """
    if not rule.definition:
        return list(ids(rule.name))[: shape.rule_tokens]
    name = list(ids(f"{rule.name}:"))[: shape.rule_tokens]
    return name + shorten(ids(rule.definition), shape.rule_tokens - len(name))


def hints_of(finding: Finding) -> Hints:
    """What a classifier says of a text, in words for the mark before it.

    Its verdict, of an answer whether it refuses, an attack, and its likeliest categories.
    """
    verdict = "unsafe" if finding.overall >= LIKELY else "unclear"
    found = [SAFE if finding.overall < OPEN else verdict]
    if (finding.refusal or 0) >= LIKELY:
        found.append("refusal")
    if (finding.attack or 0) >= LIKELY:
        found.append("attack")
    likely = sorted(finding.categories.items(), key=lambda item: (-item[1], item[0]))
    return (*found, *[name for name, p in likely[:MOST_NAMED] if p >= NAMED])


def shift_of(by_verdict: Mapping[str, float], hints: Hints) -> float:
    """What a classifier's verdict, the first of its hints, adds to a bias."""
    return by_verdict.get(hints[0], 0.0) if hints else 0.0


def read_text(content: Content, ids: Encode, shape: PairShape, hints: Hints = ()) -> Text:
    """Tokens of a text and of what it is read behind; ``hints`` are what a classifier found."""
    mark = MARKS[content.question]
    if hints:
        mark = f"{mark.removesuffix(':')}, {', '.join(hints)}:"
    behind = content.context
    if behind is None and content.question == "response":
        behind = ""
    return Text(
        ids(mark),
        ids(content.text),
        None if behind is None else shorten(ids(behind), shape.context_tokens),
    )


def pairs(rule: Sequence[int], text: Text, shape: PairShape) -> list[Window]:
    """A rule and a text as inputs of the graph; the judged tokens of each are without the mark."""
    before = [*rule] if text.context is None else [*rule, shape.sep, *text.context]
    room = WindowShape(
        shape.cls,
        shape.sep,
        max_tokens=shape.max_tokens - len(text.mark),
        overlap=shape.overlap,
        context_tokens=len(before),
    )
    return [_marked(window, text.mark) for window in windows(text.judged, room, before)]


def rule_alone(rule: Sequence[int], shape: PairShape) -> list[int]:
    """``[CLS] rule [SEP]``, for layers that read no text beside it."""
    return [shape.cls, *rule, shape.sep]


def texts_alone(text: Text, shape: PairShape) -> list[Window]:
    """``[CLS] mark judged [SEP]``, or behind ``context [SEP]``, for layers that read no rule.

    Windows leave room for the longest rule: they are the same whatever stands beside them.
    """
    room = WindowShape(
        shape.cls,
        shape.sep,
        max_tokens=shape.max_tokens - shape.rule_tokens - 2 - len(text.mark),
        overlap=shape.overlap,
        context_tokens=shape.context_tokens,
    )
    return [_marked(window, text.mark) for window in windows(text.judged, room, text.context)]


def _marked(window: Window, mark: Sequence[int]) -> Window:
    """A window with the mark before its judged text; both and what closes them are of type 1."""
    ids = [*window.ids[: window.lead], *mark, *window.ids[window.lead :]]
    types = [0] * window.lead + [1] * (len(ids) - window.lead)
    return Window(ids, types, window.lead + len(mark), window.first, window.count)


@dataclass(frozen=True, slots=True)
class PolicyEncoder:
    """A verified bundle. ``heads`` hold calibration and thresholds per question.

    ``split`` is how many of its ``layers`` read rule and text alone, by ``graph``; the others are
    in ``joint``. Of a cross-encoder both are 0, and ``graph`` is all of it.

    In the manifest: ``format``, ``kind``, ``name``, ``licence``, ``base`` (name, licence, sha256),
    ``graph``, of a split encoder ``joint``, ``split`` and ``layers``, ``tokenizer``, ``pairs``
    (``PairShape``), ``questions`` (one ``Head`` each: name, scale, bias, flag, block and, where
    measured, sensitivities and ``by_verdict``, what a hint adds to the bias), ``training``,
    ``parity``, ``files`` (sha256 of each).
    """

    path: Path
    name: str
    fingerprint: str
    graph: Path
    tokenizer: Path
    shape: PairShape
    heads: Mapping[str, Head]
    manifest: Mapping[str, Any]
    joint: Path | None = None
    split: int = 0
    layers: int = 0
    by_verdict: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def head(self, question: Question) -> Head:
        """Calibration and the thresholds to start with for what is judged."""
        return self.heads[self._known(question)]

    def odds(self, question: Question, hints: Hints) -> tuple[float, float]:
        """Scale and bias of a pair's logit, given what the classifier said of the text."""
        known = self._known(question)
        head = self.heads[known]
        return head.scale, head.bias + shift_of(self.by_verdict.get(known, {}), hints)

    def _known(self, question: Question) -> str:
        return question if question in self.heads else "toxicity"


def default_policy_encoder() -> Path:
    """Where the bundle is looked for: ``TAMIS_POLICY_ENCODER``, else beside the classifier's."""
    if chosen := os.environ.get(WHERE):
        return Path(chosen)
    return default_bundle().parent / NAME


def accurate_wanted() -> bool:
    """Whether the accurate policy encoder may judge: not where another was chosen, or none."""
    own = ACCURATE.variable in os.environ
    return (
        ACCURATE.wanted and os.environ.get(WHERE) not in NONE and (own or WHERE not in os.environ)
    )


def policy_encoder_there() -> Path | None:
    """The folder of whoever judges: the accurate one's where it is there, else the default's."""
    folders = [ACCURATE.folder] if accurate_wanted() else []
    if os.environ.get(WHERE, "unset") not in NONE:
        folders.append(default_policy_encoder())
    return next((folder for folder in folders if (folder / MANIFEST).is_file()), None)


def load(path: Path) -> PolicyEncoder:
    """Read a policy encoder's bundle and verify every file it lists.

    Raises:
        BundleError: naming the file or field that is missing, changed or not understood.
    """
    manifest, fingerprint = read_manifest(path, FORMAT)
    with understanding(path):
        kind = manifest["kind"]
        if kind not in (KIND, SPLIT):
            raise ValueError(f"kind is {kind!r}, this release reads {KIND!r} and {SPLIT!r}")
        split, layers = (int(manifest[n]) if kind == SPLIT else 0 for n in ("split", "layers"))
        if kind == SPLIT and not 0 < split < layers:
            raise ValueError(f"split is {split}, of {layers} layers")
        heads = {head.name: head for head in map(head_of, manifest["questions"])}
        shifts = {
            str(raw["name"]): {str(said): float(by) for said, by in raw["by_verdict"].items()}
            for raw in manifest["questions"]
            if raw.get("by_verdict")
        }
        bundle = PolicyEncoder(
            path=path,
            name=str(manifest["name"]),
            fingerprint=fingerprint,
            graph=path / listed(manifest, "graph"),
            tokenizer=path / listed(manifest, "tokenizer"),
            shape=PairShape(**manifest["pairs"]),
            heads=heads,
            manifest=manifest,
            joint=path / listed(manifest, "joint") if kind == SPLIT else None,
            split=split,
            layers=layers,
            by_verdict=shifts,
        )
    if missing := [question for question in QUESTIONS if question not in heads]:
        raise BundleError(f"{path / MANIFEST}: question {missing[0]!r} is missing")
    return bundle
