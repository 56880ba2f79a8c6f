"""The stage ``tamis train reasoner-reasons``: reasons that people wrote, for the reason writer.

Verdict and category are given, as they are where a policy encoder decides, so only the reason is
taught. A text comes back under other policies: with all rules of its organisation in another order,
or half of them, so that a reason does not come to depend on what else is listed. A safe text always
stands under all: its reason may speak of any.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np

from tamis.reasoner.protocol import Format
from training.reasoner.cases import Pool
from training.reasoner.examples import (
    Example,
    Tally,
    example_of,
    read_examples,
    write_examples,
)
from training.reasoner.policies import View, usual_view
from training.reasoner.reasons import check
from training.reasoner.sft import EXAMPLES, HELD_OUT
from training.rules.organisations import Part, name_of, part_of, read_organisations

# How often a policy is shown whole.
WHOLE: Final = 0.5
# Fewer rules are not halved: a policy of one tells nothing apart.
LEAST_RULES: Final = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the examples, besides the code and the data."""

    passes: int = 2
    """How often each text comes."""
    replayed: float = 1 / 3
    """The share of older examples in all, where there are any."""
    seed: int = 0


def prepare(
    policies: Sequence[Path], out: Path, settings: Settings, replay: Path | None = None
) -> dict[str, Any]:
    """Write ``examples.jsonl.gz``, ``held-out.jsonl.gz`` and ``report.json``; returns the report.

    Organisations that test are in neither, those that calibrate are held out.

    Args:
        policies: folders of written organisations.
        out: where to.
        settings: how many examples.
        replay: a folder of older examples, verdicts among them, so that nothing is forgotten.

    Raises:
        FileNotFoundError, SchemaError, ValueError: where organisations or examples cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    pools = read_organisations(policies)
    report: dict[str, Any] = {"settings": asdict(settings), "format": asdict(Format())}
    parts: tuple[tuple[str, Part, int], ...] = (
        (EXAMPLES, "train", settings.passes),
        (HELD_OUT, "dev", 1),
    )
    for name, part, passes in parts:
        chosen = [pool for pool in pools if part_of(name_of(pool)) == part]
        faults: Counter[str] = Counter()
        groups = list(_sound(draw(chosen, passes, settings.seed), faults))
        older: list[list[Example]] = []
        if replay is not None and part == "train":
            count = sum(map(len, groups)) * settings.replayed / (1 - settings.replayed)
            older = _replayed(replay / EXAMPLES, count, settings.seed)
        report[name] = _write(out / name, [*groups, *older])
        report[name] |= {
            "organisations": sorted(map(name_of, chosen)),
            "replayed": sum(map(len, older)),
            "faults": dict(sorted(faults.items())),
        }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def draw(pools: Sequence[Pool], passes: int, seed: int) -> Iterator[list[Example]]:
    """Groups of equal policy, each text once a pass; equal arguments draw the same."""
    for n in range(passes):
        for pool in pools:
            rng = np.random.default_rng([seed, n, *name_of(pool).encode()])
            for view, keys, safe in _views(pool, rng):
                cases = [case for key in keys for case in pool.unsafe.get(key, ())]
                cases += [case for cases in pool.safe.values() for case in cases if safe]
                order = rng.permutation(len(cases))
                group = [replace(example_of(view, cases[int(at)]), given=True) for at in order]
                if group:
                    yield group


def _views(pool: Pool, rng: np.random.Generator) -> Iterator[tuple[View, list[str], bool]]:
    """Policies, whose texts stand under each, and whether the safe ones do: each text does once."""

    def shuffled() -> list[str]:
        return [str(key) for key in rng.permutation(list(pool.taxonomy.categories))]

    keys = shuffled()
    if len(keys) < LEAST_RULES or rng.random() < WHOLE:
        yield usual_view(pool.taxonomy, True, keys), keys, True
        return
    half = len(keys) // 2
    for part in (keys[:half], keys[half:]):
        yield usual_view(pool.taxonomy, True, part), part, False
    yield usual_view(pool.taxonomy, True, shuffled()), [], True


def _sound(groups: Iterable[list[Example]], faults: Counter[str]) -> Iterator[list[Example]]:
    """What passes every check; what each of the others does not pass is counted."""
    for group in groups:
        kept = []
        for example in group:
            found = check(example.reason, example)
            if found.sound:
                kept.append(example)
                continue
            faults["malformed"] += not found.written
            faults["length"] += not found.fits
            faults["quotes"] += not found.stands
            faults["another rule's name"] += found.foreign
        if kept:
            yield kept


def _replayed(path: Path, count: float, seed: int) -> list[list[Example]]:
    """Whole groups of older examples, so many in all or a few more."""
    groups = [list(members) for _, members in groupby(read_examples(path), lambda e: e.view)]
    chosen: list[list[Example]] = []
    for at in np.random.default_rng([seed, 1]).permutation(len(groups)):
        if sum(map(len, chosen)) >= count:
            break
        chosen.append(groups[int(at)])
    return chosen


def _write(path: Path, groups: Sequence[list[Example]]) -> dict[str, Any]:
    """Write groups of examples; returns their counts."""
    tally = Tally()
    for group in groups:
        tally.add(group)
    write_examples(path, groups)
    return tally.as_json()
