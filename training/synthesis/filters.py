"""Why a synthetic text is not kept. The first reason that holds is the one that is counted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
from datasketch import MinHash, MinHashLSH

from training.curation.embedding import SentenceEncoder
from training.datasets.contamination import Seen, words
from training.synthesis import prompts
from training.synthesis.seeds import Leaf, Seeds
from training.synthesis.templates import fill

WORDS: Final = (2, 300)
# Share of letters that are ASCII: English with a foreign name passes, other scripts do not.
ASCII_LETTERS: Final = 0.9
# Six words in a row of our own instructions are no accident.
ECHO: Final = 6
# Estimated Jaccard similarity of word 3-grams from which two texts count as one.
NEAR: Final = 0.8
PERMUTATIONS: Final = 64
# A rewriting must stay this near to what its leaf asks for (cosine). Chosen by reading: below it
# outputs of a 135M model have lost the subject.
ON_TOPIC: Final = 0.45

# The commonest words of English are four of ten words in most texts; Spanish shares a few of them.
COMMON: Final = 0.12
_COMMON: Final = frozenset(
    words(
        "the a an to of and in is it you i my me that for on with do how what can this be are was "
        "have not your if or at as from so we they he she who there"
    )
)
_META: Final = re.compile(
    r"\bas an? (ai|artificial|language model|assistant|chatbot)|\b(language|ai) model\b|\bopenai\b"
    r"|\bi (cannot|can't|can not|won't|am not able to|'m not able to|am unable to) (help|assist|"
    r"provide|fulfil|comply|do that|answer|support|write|create|generate)"
    r"|\bi('m| am) (sorry|afraid)\b|\bi apologi[sz]e\b|\bmy (guidelines|programming|training data)"
    r"|\brewritten\b|\brephras|\bparaphras|\bthe (original )?message\b|\bin other words\b"
    r"|\bhow can i (help|assist) you\b|\bthese messages\b|\bsmollm\b",
    re.IGNORECASE,
)
# How an assistant begins that answers a message instead of writing one.
_ANSWERS: Final = re.compile(
    r"^(sure|certainly|of course|absolutely|yes|no|first,|step 1|let's|let me|don't|remember"
    r"|here('s| is| are)|you('ll|'re|'ve)\b|to [a-z' -]{2,60}, |thank you for|that's (a|great)"
    r"|you (can|could|should|must|need|have|may|might|will)\b|i('m| am) not sure"
    r"|i('ll| will| can| would be happy to) (show|explain|help|start|walk|give|tell|provide|guide)"
    r"|it('s| is) (important|great|wonderful|not)|there are (many|several|some)"
    r"|the (best|most|easiest|only|first) |(what's|what is|what are) your)",
    re.IGNORECASE,
)
_UNFILLED: Final = re.compile(r"\{\w+\}|\[[a-z _]{2,30}\]|<\|")
# Nothing sexual is kept where somebody young is named, whatever the seeds say.
_YOUNG: Final = re.compile(
    r"\b(child(ren)?|kids?|minors?|teen(s|ager|agers)?|under ?age|schoolgirls?|schoolboys?|school|"
    r"bab(y|ies)|toddlers?|pupils?|boys?|girls?|daughters?|sons?|young(er)?|(1[0-7]|[1-9])[- ]?"
    r"(years?|yo)|preteens?|adolescents?|students?|class(mates?)?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that somebody or something wrote for a leaf."""

    leaf: Leaf
    text: str
    phrase: str
    """The leaf with its slots filled."""
    seed_text: str | None = None
    """What a model was to rewrite; none where nothing was to be rewritten."""
    by_model: bool = False
    context: str = field(default="", compare=False)
    """The prompt that a response answers."""


def text_reason(candidate: Candidate) -> str | None:
    """What is wrong with a text by itself: length, language, meta text, echo, copy and the like."""
    text = candidate.text
    found = words(text)
    if not WORDS[0] <= len(found) <= WORDS[1]:
        return "length"
    if not _english(text, found):
        return "language"
    if _UNFILLED.search(text):
        return "unfilled"
    if candidate.by_model and candidate.leaf.label and not candidate.context:
        sexual = {"sexual", "~sexual"} & set(candidate.leaf.names)
        if sexual and names_young(text):
            return "minors"
    if not candidate.by_model:
        return None
    if _repeats(found):
        return "repetition"
    if candidate.context:
        return "meta" if _META.search(text) else None
    if _META.search(text) and not _META.search(candidate.phrase):
        return "meta"
    if _ANSWERS.search(text):
        return "answer"
    if _grams(found, ECHO) & _instruction_grams():
        return "echo"
    if candidate.seed_text is not None and _same(found, words(candidate.seed_text)):
        return "copy"
    return None


def names_young(text: str) -> bool:
    """Whether somebody is named who might be young."""
    return _YOUNG.search(text) is not None


def _english(text: str, found: list[str]) -> bool:
    letters = [c for c in text if c.isalpha()]
    if sum(c.isascii() for c in letters) < ASCII_LETTERS * len(letters):
        return False
    common = sum(word in _COMMON for word in found)
    return len(found) < 6 or common > (COMMON * len(found) if len(found) >= 10 else 0)


def _repeats(found: list[str]) -> bool:
    """A third of the word 3-grams have occurred before: a model in a loop."""
    grams = [tuple(found[at : at + 3]) for at in range(len(found) - 2)]
    return len(grams) > 6 and len(set(grams)) < 2 / 3 * len(grams)


def _same(one: list[str], other: list[str]) -> bool:
    a, b = set(one), set(other)
    return one == other or len(a & b) / max(1, len(a | b)) > 0.9


def _grams(found: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(found[at : at + n]) for at in range(len(found) - n + 1)}


@cache
def _instruction_grams() -> frozenset[tuple[str, ...]]:
    return frozenset(g for text in prompts.instructions() for g in _grams(words(text), ECHO))


class Duplicates:
    """Texts seen so far, and whether another one is among them or nearly so (MinHash, LSH)."""

    def __init__(self) -> None:
        self._exact: set[tuple[str, ...]] = set()
        self._index = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)

    def reason(self, text: str) -> str | None:
        """``duplicate``, ``near-duplicate``, or None, after which the text is among those seen."""
        found = tuple(words(text))
        if found in self._exact:
            return "duplicate"
        sketch = MinHash(num_perm=PERMUTATIONS)
        # Texts of fewer than three words have one shingle: all of them.
        shingles = [" ".join(found[at : at + 3]) for at in range(max(1, len(found) - 2))]
        sketch.update_batch([shingle.encode() for shingle in shingles])
        if self._index.query(sketch):
            return "near-duplicate"
        self._index.insert(len(self._exact), sketch)
        self._exact.add(found)
        return None


class OnTopic:
    """Whether a model's text still asks for what its leaf asks for, by the sentence encoder.

    It must lie near its own leaf, and no leaf of the other label in its subtopic may lie nearer:
    a paraphrase of an intent that has drifted to the twin would carry a wrong label.
    """

    def __init__(self, seeds: Seeds, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        first = {name: values[0] for name, values in seeds.slots.items()}
        self._leaves = seeds.leaves
        self._vectors = encoder.embed([fill(leaf.text, first) for leaf in seeds.leaves])
        self._others: dict[tuple[str, str, int], list[int]] = {}
        for n, leaf in enumerate(seeds.leaves):
            # The other label's leaves are filed under this one's.
            key = (leaf.category, leaf.subtopic, 1 - leaf.label)
            self._others.setdefault(key, []).append(n)

    def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """``off-topic``, ``other label`` or None for each candidate."""
        if not candidates:
            return []
        texts = self._encoder.embed([c.text for c in candidates])
        phrases = self._encoder.embed([c.phrase for c in candidates])
        return [self._reason(*found) for found in zip(candidates, texts, phrases, strict=True)]

    def _reason(self, candidate: Candidate, text: np.ndarray, phrase: np.ndarray) -> str | None:
        own = float(text @ phrase)
        if own < ON_TOPIC:
            return "off-topic"
        leaf = candidate.leaf
        others = self._others[leaf.category, leaf.subtopic, leaf.label]
        return "other label" if float((self._vectors[others] @ text).max()) > own else None


class Checks:
    """What can be wrong with a candidate whatever else was written: all filters but repetition."""

    def __init__(self, exclude: Seen | None = None, on_topic: OnTopic | None = None) -> None:
        self._exclude = exclude
        self._on_topic = on_topic

    def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Why each candidate is dropped, or None where it is kept."""
        found = [text_reason(c) for c in candidates]
        apply(found, candidates, self._contaminated)
        if self._on_topic is not None:
            # Where nothing was rewritten the request stands in the text word for word.
            asked = [
                n for n, c in enumerate(candidates) if found[n] is None and c.seed_text is not None
            ]
            judged = self._on_topic.reasons([candidates[n] for n in asked])
            for n, reason in zip(asked, judged, strict=True):
                found[n] = reason
        return found

    def _contaminated(self, candidate: Candidate) -> str | None:
        touched = self._exclude is not None and any(
            self._exclude.repeated_in(text) for text in (candidate.text, candidate.context) if text
        )
        return "contaminated" if touched else None


class Filters:
    """All filters of a run, in order; what passes is remembered for the next duplicates."""

    def __init__(self, exclude: Seen | None = None, on_topic: OnTopic | None = None) -> None:
        self.duplicates = Duplicates()
        self._checks = Checks(exclude, on_topic)

    def reasons(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """Why each candidate is dropped, or None where it is kept."""
        found = self._checks.reasons(candidates)
        apply(found, candidates, lambda c: self.duplicates.reason(f"{c.context} {c.text}"))
        return found


def apply(
    found: list[str | None],
    candidates: Sequence[Candidate],
    reason_of: Callable[[Candidate], str | None],
) -> None:
    """Ask one more filter about the candidates that no earlier one drops."""
    for n, candidate in enumerate(candidates):
        if found[n] is None:
            found[n] = reason_of(candidate)
