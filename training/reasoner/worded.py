"""How good reasons are, verdict and rule given: checks that need no model, and a blind reading.

For the reading some texts and their reasons are drawn to a sheet that does not say who wrote them;
several bundles' may share one. Whoever reads it says of each reason whether it is apt: true of the
text, and of the rule that it is said to break or of why it breaks none. Only ids are kept of that.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from training.reasoner.cases import Pool
from training.reasoner.examples import Example, whole
from training.reasoner.reasons import check
from training.rules.organisations import name_of, part_of

# Shown apart: those that stopped the training, and those that nobody has seen, of which some are
# read.
GROUPS: Final = {"dev": "held out", "test": "never seen"}
UNSEEN: Final = "test"
JUDGED: Final = {True: True, False: False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Worded:
    """What was written of one example; None where it is no reason that is served."""

    reason: str | None
    status: str
    ms: float


# Words the verdict of an example.
Words = Callable[[Example], Worded]


def held_out(pools: Sequence[Pool], most: int, seed: int) -> dict[str, list[Example]]:
    """Texts of organisations that are not trained on, by group, up to ``most`` of either label."""
    found: dict[str, list[Example]] = {}
    for group in GROUPS:
        chosen = [pool for pool in pools if part_of(name_of(pool)) == group]
        examples = [e for members in whole(chosen, most, True, seed) for e in members]
        if examples:
            found[group] = examples
    return found


def measure(examples: Sequence[Example], worded: Sequence[Worded]) -> dict[str, Any]:
    """Figures of one group; shares in [0, 1], None where there is nothing to divide by.

    ``sound`` is over all texts, the others over the reasons that were written; ``own`` over those
    of unsafe texts, ``stand`` over those that quote.
    """
    checked = [
        check(one.reason, example)
        for example, one in zip(examples, worded, strict=True)
        if one.reason is not None
    ]
    quoting = [c for c in checked if c.quoted]
    own = [c.own for c in checked if c.own is not None]
    times = [one.ms for one in worded]
    return {
        "n": len(examples),
        "unsafe": sum(example.category is not None for example in examples),
        "statuses": dict(sorted(Counter(one.status for one in worded).items())),
        "written": _share(len(checked), len(examples)),
        "quoted": _share(len(quoting), len(checked)),
        "stand": _share(sum(c.stands for c in quoting), len(quoting)),
        "words": round(sum(c.words for c in checked) / len(checked), 1) if checked else None,
        "own": _share(sum(own), len(own)),
        "foreign": _share(sum(c.foreign for c in checked), len(checked)),
        "sound": _share(sum(c.sound for c in checked), len(examples)),
        "ms": {f"p{q}": round(float(np.percentile(times, q))) for q in (50, 95)},
    }


def by_hand(examples: Sequence[Example]) -> dict[str, Any]:
    """The figures of the reasons that people wrote for the same texts."""
    found = measure(examples, [Worded(e.reason or None, "ok", 0.0) for e in examples])
    return {key: value for key, value in found.items() if key not in ("ms", "statuses")}


def draw(
    examples: Sequence[Example], worded: Sequence[Worded], who: str, count: int, seed: int
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Texts for a reading: their ids by the sheet's, and the sheet's lines.

    Equal seeds draw the same texts for every ``who``. What has no reason is drawn as well, and is
    not apt; it needs no reading.
    """
    ids, lines = {}, []
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    for at in chosen:
        example, one = examples[int(at)], worded[int(at)]
        name = hashlib.sha256(f"{who}/{example.id}".encode()).hexdigest()[:12]
        ids[name] = example.id
        if one.reason is not None:
            lines.append(
                {
                    "id": name,
                    "apt": None,
                    "rules": dict(example.policy),
                    "context": example.content.context,
                    "text": example.content.text,
                    "breaks": example.category,
                    "reason": one.reason,
                }
            )
    return ids, lines


def add_to_sheet(sheet: Path, lines: Sequence[Mapping[str, Any]], seed: int) -> None:
    """Mix lines among those that a sheet has, in an order that says nothing."""
    there = {line["id"]: line for line in _lines(sheet)} if sheet.exists() else {}
    merged = list(({line["id"]: line for line in lines} | there).values())
    merged.sort(key=lambda line: hashlib.sha256(f"{seed}/{line['id']}".encode()).digest())
    sheet.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in merged), encoding="utf-8"
    )


def read_judgements(sheet: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """The reading of one bundle's reasons in a sheet, for its results; ids and counts alone.

    Raises:
        ValueError: where a reason was not judged, or not by true, false, "yes" or "no".
    """
    given = {line["id"]: line.get("apt") for line in _lines(sheet)}
    apt: list[str] = []
    for name, text in results["drawn"].items():
        if name in results["unwritten"]:
            continue
        if given.get(name) not in JUDGED:
            raise ValueError(f'{sheet.name}: "apt" of {name} is neither true nor false')
        if JUDGED[given[name]]:
            apt.append(text)
    drawn = list(results["drawn"].values())
    rest = sorted(set(drawn) - set(apt))
    return {"n": len(drawn), "share": _share(len(apt), len(drawn)), "apt": sorted(apt), "not": rest}


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            raw = json.loads(line)
            raw["id"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f'{path.name} line {number}: no object with an "id"') from None
        found.append(raw)
    return found


def _share(part: int, of: int) -> float | None:
    return round(part / of, 4) if of else None
