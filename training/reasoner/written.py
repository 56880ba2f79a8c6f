"""The stage ``tamis train reasoner-reasons``: reasons that people wrote, for the reason writer.

Verdict and category are given, as they are where a policy encoder decides, so only the reason is
taught. As served, a text that breaks a rule stands under that rule alone: beside others the reason
was another rule's in one case of three. A safe text stands under all, in another order each pass:
its reason may speak of any.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tamis.reasoner.protocol import Format
from training.reasoner.cases import Case, Pool
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
        groups = list(draw(chosen, passes, settings.seed, faults))
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


def draw(
    pools: Sequence[Pool], passes: int, seed: int, faults: Counter[str] | None = None
) -> Iterator[list[Example]]:
    """Groups of equal policy, each sound text once a pass; equal arguments draw the same.

    A reason passes the checks under all the rules, since it must name no other one. What the others
    do not pass is counted in ``faults``.
    """
    faults = Counter() if faults is None else faults
    for n in range(passes):
        for pool in pools:
            rng = np.random.default_rng([seed, n, *name_of(pool).encode()])
            order = [str(key) for key in rng.permutation(list(pool.taxonomy.categories))]
            whole = usual_view(pool.taxonomy, True, order)
            for key in order:
                alone = usual_view(pool.taxonomy, True, [key])
                cases = _sound(whole, pool.unsafe.get(key, ()), faults)
                yield from _group(alone, cases, rng)
            safe = [case for cases in pool.safe.values() for case in cases]
            yield from _group(whole, _sound(whole, safe, faults), rng)


def _group(view: View, cases: Sequence[Case], rng: np.random.Generator) -> Iterator[list[Example]]:
    """The cases' examples under one policy, in any order; nothing where there are none."""
    if cases:
        yield [_given(view, cases[int(at)]) for at in rng.permutation(len(cases))]


def _given(view: View, case: Case) -> Example:
    return replace(example_of(view, case), given=True)


def _sound(view: View, cases: Iterable[Case], faults: Counter[str]) -> list[Case]:
    """What passes every check; what each of the others does not pass is counted."""
    kept = []
    for case in cases:
        found = check(case.reason, _given(view, case))
        if found.sound:
            kept.append(case)
            continue
        faults["malformed"] += not found.written
        faults["length"] += not found.fits
        faults["quotes"] += not found.stands
        faults["another rule's name"] += found.foreign
    return kept


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
