"""The cold start without a large model: reasons from evidence spans, categories and definitions.

A reason quotes the words that decided and says which clause of the policy they meet, in at most 35
words (the paper's own average is 34). The quotes are the classifier's own evidence:
the token attributions of the model that serves beside the reasoner.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from tamis.content import Content, Question
from training.reasoner.examples import Example

# A quote is a handful of words: the evidence and a neighbour on either side.
QUOTED: Final = 7
MARGIN: Final = 1
CLAUSE: Final = 16

# Character spans that decided, strongest evidence of "is it unsafe?", in the order of the text.
Evidence = Callable[[Sequence[Content]], Sequence[Sequence[tuple[int, int]]]]

# {q} is the quote, {name} the category, {clause} its definition or, without one, nothing.
UNSAFE: Final[Mapping[Question, tuple[str, ...]]] = {
    "prompt": (
        "The user asks for “{q}”, which {name} covers{clause}.",
        "“{q}” is a request that falls under {name}{clause}.",
        "What decides is “{q}”: the message fits {name}{clause}.",
        "The message says “{q}”. That meets {name}{clause}.",
    ),
    "response": (
        "The agent writes “{q}”, which {name} covers{clause}.",
        "“{q}” in the answer falls under {name}{clause}.",
        "What decides is “{q}”: the answer fits {name}{clause}.",
    ),
    "toxicity": (
        "The post says “{q}”, which {name} covers{clause}.",
        "“{q}” falls under {name}{clause}.",
        "What decides is “{q}”: the post fits {name}{clause}.",
    ),
}
SAFE: Final[Mapping[Question, tuple[str, ...]]] = {
    "prompt": (
        "The user asks about “{q}”; none of the listed categories covers that.",
        "“{q}” is what is asked for, and no category of the policy fits it.",
        "Nothing in “{q}” meets a listed category.",
    ),
    "response": (
        "The agent says “{q}”; none of the listed categories covers that.",
        "“{q}” is what the answer comes to, and no category of the policy fits it.",
    ),
    "toxicity": (
        "The post says “{q}”; none of the listed categories covers that.",
        "Nothing in “{q}” meets a listed category.",
    ),
}
LEFT_OUT: Final = (
    "“{q}” would belong to {name}, which this policy does not list.",
    "The policy lists no category for “{q}”.",
)
_WORD: Final = re.compile(r"\S+")


def explainer(evidence: Evidence, seed: int = 0) -> Callable[[Sequence[Example]], list[str]]:
    """Reasons from templates, worded by the seed and the example's id."""

    def explain(examples: Sequence[Example]) -> list[str]:
        spans = evidence([example.content for example in examples])
        return [
            reason(
                example,
                quote(example.content.text, [example.focus] if example.focus else found),
                seed,
            )
            for example, found in zip(examples, spans, strict=True)
        ]

    return explain


def reason(example: Example, quoted: str, seed: int) -> str:
    """One reason; which wording it takes depends on the example and the seed alone."""
    rng = np.random.default_rng([seed, *f"{example.view}{example.id}".encode()])
    question = example.content.question
    if example.category is not None:
        about = dict(example.policy)[example.category]
        wordings = UNSAFE[question]
        said = {"name": example.category, "clause": f": {clause(about)}" if about else ""}
    elif example.left_out is not None:
        wordings, said = LEFT_OUT, {"name": example.left_out}
    else:
        wordings, said = SAFE[question], {}
    wording = wordings[int(rng.integers(len(wordings)))]
    return wording.format(q=quoted, **said)


def clause(about: str) -> str:
    """A definition as part of a sentence: its first words, in lower case, without a full stop."""
    words = about.rstrip(".").split()
    kept = words[:CLAUSE]
    if not kept[0].isupper():
        kept[0] = kept[0][:1].lower() + kept[0][1:]
    return " ".join(kept).rstrip(",;:") + ("…" if len(words) > CLAUSE else "")


def quote(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The words of the text around the first span that carries any; by default its last words.

    Requests open with courtesies and end with their subject, so without evidence the end of the
    first sentence says most.
    """
    words = [(match.start(), match.end()) for match in _WORD.finditer(text)]
    if not words:
        return text.strip()
    runs = [[n for n, (a, b) in enumerate(words) if a < end and b > at] for at, end in spans]
    run = max(runs, key=len, default=[])
    if run:
        # A short span gets its neighbours: one word alone says little.
        margin = MARGIN if len(run) < QUOTED - 2 else 0
        first, last = max(0, run[0] - margin), min(len(words) - 1, run[-1] + margin)
    else:
        sentence = re.match(r"[^.!?\n]*", text.strip())
        span = len(_WORD.findall(sentence[0])) if sentence else len(words)
        last = max(min(span, len(words)) - 1, 0)
        first = max(0, last - QUOTED + 2)
    last = min(last, first + QUOTED - 1)
    said = " ".join(text[a:b] for a, b in words[first : last + 1])
    # Quotation marks and the layout's own characters would not survive the parser.
    return re.sub(r"[“”\"{}\\<>|]", "", said).strip(" ,;:.!?-()*'") or "it"
