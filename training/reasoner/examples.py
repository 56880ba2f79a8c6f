"""Policy-conditioned examples: a policy, a text, and the right answer under that policy.

Examples come in groups that share one policy, because a batch computes a policy once for all texts
behind it (``packing.py``). Within a group there are texts of the listed categories, safe texts, and
texts whose category this policy leaves out, which are safe under it: the same text is right or
wrong by what the policy says.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tamis.content import Content
from tamis.reasoner.protocol import Answer, Format, Guideline, answer, as_text, parse
from training.datasets.schema import write_lines
from training.reasoner.cases import Case, Pool
from training.reasoner.policies import View, draw_view, usual_view

# Texts behind one policy: at eight, the policy is a quarter of the tokens.
CASES: Final = 8
UNSAFE: Final = 0.5
# Of the safe ones: those that are safe only because the policy leaves their category out.
LEFT_OUT: Final = 0.4
TEMPERATURE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Example:
    """A text under a policy, with the right answer; ``reason`` is empty where none is taught."""

    id: str
    view: str
    """Equal where the policy is the same, word for word."""
    taxonomy: str
    policy: tuple[Guideline, ...]
    content: Content
    category: str | None
    reason: str
    source: str
    licence: str | None
    left_out: str | None = None
    """What its category is called, where the policy leaves it out."""
    focus: tuple[int, int] | None = None
    """As in ``Case``; not kept in files."""
    given: bool = False
    """Whether verdict and category are told, and only the reason is to be written."""

    @property
    def answer(self) -> Answer:
        """What is to be said."""
        return Answer("unsafe" if self.category else "safe", self.category, self.reason)


# Writes the reasons of a group of examples; "" where there is none to be had.
Explain = Callable[[Sequence[Example]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many examples are drawn, and how.

    ``reasons`` is the share of examples that teach a reason. The verdict comes first, so a reason
    cannot help it, and is three quarters of an answer's tokens.
    """

    groups: int = 1500
    cases: int = CASES
    reasons: float = 0.4
    seed: int = 0


def draw(pools: Sequence[Pool], plan: Plan) -> Iterator[list[Example]]:
    """Groups of examples without reasons; the same plan over the same pools draws the same."""
    weights = np.array([pool.size for pool in pools], dtype=float) ** TEMPERATURE
    chances = weights / weights.sum()
    for n in range(plan.groups):
        rng = np.random.default_rng([plan.seed, n])
        pool = pools[int(rng.choice(len(pools), p=chances))]
        view = draw_view(pool.taxonomy, list(pool.unsafe), rng)
        group = _group(pool, view, plan.cases, rng)
        if group:
            yield group


def whole(pools: Iterable[Pool], most: int, defined: bool, seed: int) -> Iterator[list[Example]]:
    """For tests: each taxonomy under its authors' own policy, up to ``most`` texts of either label.

    That many for prompts, and as many for responses, where there are both. Unsafe texts are spread
    evenly over the categories. A taxonomy of more categories than one policy lists shows those with
    the most texts; the others' texts are left out.
    """
    for pool in pools:
        kept = _largest(pool, pool.taxonomy.most)
        yield _under(pool, kept, most, defined, seed, left_out=False)


def halved(pools: Iterable[Pool], most: int, defined: bool, seed: int) -> Iterator[list[Example]]:
    """For tests: policies without every other category, whose texts are what is safe under them.

    Only a model that reads the policy can tell: by themselves those texts are as bad as the others.
    """
    for pool in pools:
        shown = _largest(pool, pool.taxonomy.most * 2)[::2]
        if len(shown) > 1:
            yield _under(pool, shown, most, defined, seed, left_out=True)


def _largest(pool: Pool, most: int) -> list[str]:
    """The categories with the most texts; on topics never all, as only the others' are safe."""
    taxonomy = pool.taxonomy
    by_size = sorted(taxonomy.categories, key=lambda key: -len(pool.unsafe.get(key, ())))
    return by_size[: min(most, len(by_size)) - bool(taxonomy.topics)]


def _under(
    pool: Pool, kept: Sequence[str], most: int, defined: bool, seed: int, left_out: bool
) -> list[Example]:
    taxonomy = pool.taxonomy
    view = usual_view(taxonomy, defined, [k for k in taxonomy.categories if k in kept])
    digest = int(hashlib.sha256(taxonomy.name.encode()).hexdigest()[:8], 16)
    rng = np.random.default_rng([seed, digest])
    waiting = [_shuffled(pool.unsafe[key], rng) for key in view.shown if key in pool.unsafe]
    unsafe = _in_turns(waiting, most)
    outside = [
        _shuffled([c for c in pool.unsafe[key] if view.is_clear(key, c.also)], rng)
        for key in pool.unsafe
        if key not in view.shown
    ]
    # In turns from each source, as the sources of safe rows differ more than their sizes say.
    sources = [_shuffled(cases, rng) for _, cases in sorted(pool.safe.items())]
    safe = _in_turns(outside if left_out or not sources else sources, most)
    return [example_of(view, case) for case in (*unsafe, *safe)]


def _in_turns(waiting: Sequence[list[Case]], most: int) -> list[Case]:
    """One from each pile in turns, up to ``most`` of each question; empties the piles."""
    chosen: list[Case] = []
    counts: Counter[str] = Counter()
    while any(waiting):
        for cases in waiting:
            if cases:
                case = cases.pop()
                if counts[case.content.question] < most:
                    counts[case.content.question] += 1
                    chosen.append(case)
    return chosen


def _group(pool: Pool, view: View, size: int, rng: np.random.Generator) -> list[Example]:
    listed = [key for key in view.shown if key in pool.unsafe]
    left = [
        key
        for key in pool.unsafe
        if key not in view.shown and any(view.is_clear(key, c.also) for c in pool.unsafe[key])
    ]
    chosen: dict[tuple[str, str], Case] = {}
    for _ in range(size):
        if rng.random() < UNSAFE:
            cases = pool.unsafe[listed[int(rng.integers(len(listed)))]]
        elif left and (rng.random() < LEFT_OUT or not pool.safe):
            key = left[int(rng.integers(len(left)))]
            cases = tuple(c for c in pool.unsafe[key] if view.is_clear(key, c.also))
        else:
            cases = _safe_source(pool, rng)
        if cases:
            case = cases[int(rng.integers(len(cases)))]
            chosen[case.source, case.id] = case
    return [example_of(view, case) for case in chosen.values()]


def _safe_source(pool: Pool, rng: np.random.Generator) -> tuple[Case, ...]:
    if not pool.safe:
        return ()
    sources = list(pool.safe.values())
    weights = np.array([len(cases) for cases in sources], dtype=float) ** TEMPERATURE
    return sources[int(rng.choice(len(sources), p=weights / weights.sum()))]


def example_of(view: View, case: Case) -> Example:
    """A case under a policy, with its own reason if it has one."""
    category = None if case.key is None else view.category(case.key)
    left_out = None
    if case.key is not None and category is None:
        left_out = view.taxonomy.categories[case.key].names[0]
    said = json.dumps(view.policy)
    return Example(
        id=f"{case.source}/{case.id}",
        view=hashlib.sha256(said.encode()).hexdigest()[:16],
        taxonomy=view.taxonomy.name,
        policy=view.policy,
        content=case.content,
        category=category,
        reason=case.reason,
        source=case.source,
        licence=case.licence,
        left_out=left_out,
        focus=case.focus,
    )


def _shuffled(cases: Sequence[Case], rng: np.random.Generator) -> list[Case]:
    return [cases[int(n)] for n in rng.permutation(len(cases))]


@dataclass(slots=True)
class Tally:
    """What became of the examples; counts only."""

    examples: int = 0
    groups: int = 0
    reasons: int = 0
    rejected: int = 0
    """Reasons that did not survive the parser or were too long."""
    by_taxonomy: Counter[str] = field(default_factory=Counter)
    by_label: Counter[str] = field(default_factory=Counter)
    words: int = 0

    def add(self, group: Sequence[Example]) -> None:
        """Count a group."""
        self.groups += 1
        self.examples += len(group)
        for example in group:
            self.reasons += bool(example.reason)
            self.words += len(example.reason.split())
            self.by_taxonomy[example.taxonomy] += 1
            self.by_label["unsafe" if example.category else "safe"] += 1
            self.by_label["safe because left out"] += example.left_out is not None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "groups": self.groups,
            "examples": self.examples,
            "by_label": dict(sorted(self.by_label.items())),
            "by_taxonomy": dict(sorted(self.by_taxonomy.items())),
            "reasons": self.reasons,
            "rejected_reasons": self.rejected,
            "words_per_reason": round(self.words / max(1, self.reasons), 1),
        }


def explained(
    groups: Iterable[list[Example]], explain: Explain, plan: Plan, most_words: int, tally: Tally
) -> Iterator[list[Example]]:
    """The groups with reasons where the plan wants one; what does not parse is dropped."""
    for n, group in enumerate(groups):
        rng = np.random.default_rng([plan.seed, 1, n])
        wanted = [i for i in range(len(group)) if rng.random() < plan.reasons]
        reasons = explain([group[i] for i in wanted])
        done = list(group)
        for i, reason in zip(wanted, reasons, strict=True):
            made = replace(group[i], reason=reason)
            if is_sound(made, most_words):
                done[i] = replace(made, focus=None)
            else:
                tally.rejected += 1
        tally.add(done)
        yield done


def is_sound(example: Example, most_words: int) -> bool:
    """Whether an answer reads back as what it says, with a reason that is short enough."""
    form = Format()
    if not example.reason or len(example.reason.split()) > most_words:
        return False
    text = as_text(p for p in answer(example.answer, form) if not p.control)
    try:
        return parse(text, [name for name, _ in example.policy], form) == example.answer
    except ValueError:
        return False


def write_examples(path: Path, groups: Iterable[list[Example]]) -> None:
    """One JSON object a line, groups together; the file appears when it is complete."""
    write_lines(path, (json.dumps(_as_json(example)) for group in groups for example in group))


def read_examples(path: Path) -> list[Example]:
    """The examples of a file, in order.

    Raises:
        ValueError: naming the file and the line that is not an example.
    """
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found.append(_from_json(json.loads(line)))
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path.name} line {number}: not an example") from None
    return found


def _as_json(example: Example) -> dict[str, Any]:
    content = example.content
    return {
        "id": example.id,
        "view": example.view,
        "taxonomy": example.taxonomy,
        "policy": [list(guideline) for guideline in example.policy],
        "question": content.question,
        "text": content.text,
        "context": content.context,
        "category": example.category,
        "reason": example.reason,
        "source": example.source,
        "licence": example.licence,
        "left_out": example.left_out,
        "given": example.given,
    }


def _from_json(raw: Mapping[str, Any]) -> Example:
    return Example(
        id=raw["id"],
        view=raw["view"],
        taxonomy=raw["taxonomy"],
        policy=tuple(Guideline(name, text) for name, text in raw["policy"]),
        content=Content(raw["question"], raw["text"], raw["context"]),
        category=raw["category"],
        reason=raw["reason"],
        source=raw["source"],
        licence=raw["licence"],
        left_out=raw["left_out"],
        given=raw.get("given", False),
    )
