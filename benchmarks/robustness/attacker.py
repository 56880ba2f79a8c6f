"""An attacker who sees the scores: changes one word after the other, and keeps what helps most.

As in TextFooler (Jin et al. 2020) and DeepWordBug (Gao et al. 2018): words are ranked by what the
score loses without them, then each is replaced by the move that lowers it most, until the text is
allowed or the queries are spent.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tamis.verdict import Verdict

WORD: Final = re.compile(r"[A-Za-z]{3,}")
LOOKS: Final = str.maketrans("aeiocpxy", "аеіосрху")
LEET: Final = str.maketrans("aeiost", "431057")
# Words of requests rather than of harms, and what says the same.
SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "make": ("create", "produce", "build"),
    "create": ("make", "develop"),
    "write": ("compose", "draft"),
    "give": ("provide", "offer"),
    "tell": ("explain to", "inform"),
    "show": ("demonstrate to", "present"),
    "explain": ("describe", "outline"),
    "describe": ("explain", "outline"),
    "provide": ("give", "supply"),
    "develop": ("build", "design"),
    "instructions": ("steps", "guidance"),
    "guide": ("walkthrough", "manual"),
    "steps": ("stages", "instructions"),
    "ways": ("methods", "approaches"),
    "method": ("way", "approach"),
    "someone": ("a person", "somebody"),
    "people": ("persons", "folks"),
    "person": ("individual", "human"),
    "information": ("details", "data"),
    "without": ("with no", "lacking"),
    "getting": ("being", "becoming"),
    "illegal": ("unlawful", "illicit"),
    "best": ("ideal", "finest"),
    "use": ("employ", "apply"),
    "using": ("by way of", "employing"),
    "get": ("obtain", "acquire"),
    "buy": ("purchase", "acquire"),
    "steal": ("take", "pilfer"),
    "kill": ("end", "finish off"),
    "hurt": ("harm", "injure"),
    "hide": ("conceal", "cover"),
    "plan": ("scheme", "strategy"),
    "false": ("untrue", "made-up"),
    "fake": ("counterfeit", "made-up"),
}


@dataclass(frozen=True)
class Attack:
    """How it ended: ``won`` where the text came to be allowed."""

    won: bool
    text: str
    queries: int


def greedy(text: str, judge: Callable[[str], Verdict], budget: int, *, synonyms: bool) -> Attack:
    """Attack one text with at most ``budget`` queries."""
    draw = random.Random(len(text))
    left = budget - 1
    best, said = _above(judge(text)), text
    words = list(WORD.finditer(text))
    worth = {}
    for m in words[: left // 2]:
        worth[m.start()] = best - _above(judge(text[: m.start()] + text[m.end() :]))
        left -= 1
    shift: dict[int, int] = {}
    for m in sorted(words, key=lambda m: -worth.get(m.start(), 0.0)):
        start = m.start() + sum(grown for at, grown in shift.items() if at < m.start())
        end = start + len(m[0])
        chosen = None
        for move in _moves(m[0], draw, synonyms):
            if not left:
                return Attack(False, said, budget)
            tried = said[:start] + move + said[end:]
            verdict, left = judge(tried), left - 1
            if not verdict.flagged:
                return Attack(True, tried, budget - left)
            if _above(verdict) < best:
                best, chosen = _above(verdict), move
        if chosen is not None:
            said = said[:start] + chosen + said[end:]
            shift[m.start()] = len(chosen) - len(m[0])
    return Attack(False, said, budget - left)


def _above(verdict: Verdict) -> float:
    """How far a verdict is above its thresholds; what is flagged for an attack counts as well."""
    margins = [verdict.score - (verdict.threshold or 0.0)]
    if verdict.attack is not None:
        margins.append(verdict.attack.score - verdict.attack.threshold)
    return max(margins)


def _moves(word: str, draw: random.Random, synonyms: bool) -> Iterator[str]:
    at = draw.randint(1, len(word) - 2)
    yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    yield word[:at] + word[at + 1 :]
    yield word[: at + 1] + word[at:]
    yield f"{word[:at]} {word[at:]}"
    yield f"{word[:at]}\u200b{word[at:]}"
    yield f"{word[:at]}-{word[at:]}"
    yield word.translate(LOOKS)
    yield word.translate(LEET)
    yield word[:at] + draw.choice("abdefgmnrst") + word[at + 1 :]
    if synonyms:
        yield from SYNONYMS.get(word.lower(), ())
