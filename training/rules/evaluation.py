"""What a policy encoder is worth beside the reasoner: its verdicts, how sure it may be, how fast.

Verdicts go through the reasoner's own evaluation (``training.reasoner.evaluate``). Here is what it
lacks: probabilities of single rules, what other rules do to a verdict, and milliseconds.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tamis.content import Content, plain, response
from tamis.reasoner.protocol import Answer, Guideline
from tamis.rules import PolicyEncoder
from training.classifier.calibration import sigmoid
from training.reasoner.cases import Pool
from training.reasoner.decode import Said
from training.reasoner.examples import Example, whole
from training.reasoner.policies import usual_view
from training.rules.judge import Judge
from training.rules.organisations import name_of

RULES: Final = (1, 8, 24)
TOKENS: Final = (50, 200)
ROUNDS: Final = 30
# Says nothing that any rule forbids; cut to the tokens that are wanted.
CALM: Final = "On Tuesday the library opens at nine and the garden behind it at ten. " * 40
Says = Callable[[Sequence[Example]], list[Said]]


def unseen(pools: Iterable[Pool], bundle: PolicyEncoder) -> list[Pool]:
    """Organisations that a bundle was neither trained nor calibrated on, by its manifest."""
    met = bundle.manifest["training"]["organisations"]
    names = {name for part in met.values() for name in part}
    return [pool for pool in pools if name_of(pool) not in names]


def rules_of(pool: Pool) -> tuple[Guideline, ...]:
    """An organisation's policy as it was written."""
    return usual_view(pool.taxonomy, True).policy


def says_of(judge: Judge, bundle: PolicyEncoder) -> Says:
    """A bundle's verdicts as the reasoner's evaluation reads them, at its own thresholds."""

    def says(examples: Sequence[Example]) -> list[Said]:
        found = probabilities(judge, bundle, [(e.content, e.policy) for e in examples])
        return [_said(e, p, bundle) for e, p in zip(examples, found, strict=True)]

    return says


def probabilities(
    judge: Judge, bundle: PolicyEncoder, asked: Sequence[tuple[Content, Sequence[Guideline]]]
) -> list[np.ndarray]:
    """P(breaks the rule) of every rule of every text, calibrated."""
    found = []
    for (content, _), z in zip(asked, judge.logits(asked), strict=True):
        scale, bias = bundle.odds(content.question, judge.hints(content))
        found.append(sigmoid(scale * z + bias))
    return found


def _said(example: Example, p: np.ndarray, bundle: PolicyEncoder) -> Said:
    likeliest = example.policy[int(np.argmax(p))].name
    flagged = float(p.max()) >= bundle.head(example.content.question).thresholds.flag
    answer = Answer("unsafe", likeliest, "") if flagged else Answer("safe", None, "")
    names = [rule.name for rule in example.policy]
    return Said(answer, unsafe=float(p.max()), rules=dict(zip(names, p.tolist(), strict=True)))


def stability(
    judge: Judge, bundle: PolicyEncoder, pools: Sequence[Pool], seed: int
) -> dict[str, Any]:
    """What another rule does to a verdict: one is taken away, or a neighbour's is added.

    The rule taken away is none that the text breaks; the one added is of another organisation that
    judges the same kind of text. ``change`` is the mean change of the probabilities of the rules
    that stay, ``verdicts`` and ``categories`` the shares that flip.
    """
    rng = np.random.default_rng(seed)
    groups = [group for pool in pools for group in whole([pool], 10**6, True, seed)]
    base: list[tuple[Content, tuple[Guideline, ...]]] = []
    less: list[tuple[Content, tuple[Guideline, ...]]] = []
    more: list[tuple[Content, tuple[Guideline, ...]]] = []
    for group in groups:
        names = {rule.name for rule in group[0].policy}
        asked = group[0].content.question
        neighbours = [
            rule
            for other in groups
            if other is not group and other[0].content.question == asked
            for rule in other[0].policy
            if rule.name not in names
        ]
        for example in group:
            others = [rule for rule in example.policy if rule.name != example.category]
            base.append((example.content, example.policy))
            # Of one rule alone none can be taken away.
            if len(example.policy) > 1:
                gone = others[int(rng.integers(len(others)))]
                less.append((example.content, tuple(r for r in example.policy if r != gone)))
            else:
                less.append(base[-1])
            if neighbours:
                added = neighbours[int(rng.integers(len(neighbours)))]
                more.append((example.content, (*example.policy, added)))
            else:
                more.append(base[-1])
    before = _by_rule(judge, bundle, base)
    found: dict[str, Any] = {"texts": len(base)}
    for name, asked_again in (("removed", less), ("added", more)):
        found[name] = _changes(before, _by_rule(judge, bundle, asked_again), bundle, base)
    return found


Probabilities = Sequence[Mapping[str, float]]


def _by_rule(
    judge: Judge,
    bundle: PolicyEncoder,
    asked: Sequence[tuple[Content, Sequence[Guideline]]],
) -> list[dict[str, float]]:
    found = probabilities(judge, bundle, asked)
    return [
        {rule.name: float(q) for rule, q in zip(policy, p, strict=True)}
        for (_, policy), p in zip(asked, found, strict=True)
    ]


def _changes(
    before: Probabilities,
    after: Probabilities,
    bundle: PolicyEncoder,
    asked: Sequence[tuple[Content, Sequence[Guideline]]],
) -> dict[str, float]:
    change, verdicts, categories = [], 0, 0
    for one, other, (content, _) in zip(before, after, asked, strict=True):
        change += [abs(one[name] - other[name]) for name in one.keys() & other.keys()]
        flag = bundle.head(content.question).thresholds.flag
        was, now = (_verdict(found, flag) for found in (one, other))
        verdicts += (was is None) != (now is None)
        categories += was != now
    return {
        "change": round(float(np.mean(change)), 6),
        "verdicts": round(verdicts / len(asked), 4),
        "categories": round(categories / len(asked), 4),
    }


def _verdict(found: Mapping[str, float], flag: float) -> str | None:
    likeliest = max(found, key=lambda name: found[name])
    return likeliest if found[likeliest] >= flag else None


def speed(judge: Judge, policy: Sequence[Guideline]) -> list[dict[str, Any]]:
    """Milliseconds of a text under some of a policy's rules, one text at a time.

    Cold: the rules were never seen; warm: their tokens are known, and what a split encoder has made
    of them. Answers are read behind a request of twelve tokens.
    """
    found = []
    for tokens in TOKENS:
        text = _of_tokens(judge, tokens)
        for count in RULES:
            rules = [policy[n % len(policy)] for n in range(count)]
            for content in (plain(text), response(text, "When does the library open on weekdays?")):
                took: dict[str, list[float]] = {"cold": [], "warm": []}
                judge.logits([(content, rules)])
                for _ in range(ROUNDS):
                    for kind in took:
                        if kind == "cold":
                            judge.forget()
                        began = time.perf_counter()
                        judge.logits([(content, rules)])
                        took[kind].append(1000 * (time.perf_counter() - began))
                found.append(
                    {"tokens": tokens, "rules": count, "question": content.question}
                    | {
                        f"{kind} p{q}": round(float(np.percentile(values, q)), 1)
                        for kind, values in took.items()
                        for q in (50, 95)
                    }
                )
    return found


def _of_tokens(judge: Judge, tokens: int) -> str:
    """Calm words of so many tokens."""
    words = CALM.split()
    for count in range(1, len(words)):
        text = " ".join(words[:count])
        if judge.count(text) >= tokens:
            return text
    raise ValueError(f"no {tokens} tokens in the calm text")
