"""Where pairs come from: pools of texts, and what is known of each rule of theirs.

Of a taxonomy's row one category is known to hold, and its neighbours may hold as well; of an
organisation's text, and of a row that was read under our own guide, every rule is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tamis.taxonomy import taxonomy as own_taxonomy
from training.datasets.contamination import words
from training.datasets.mixing import is_held_out
from training.datasets.readings import as_read
from training.datasets.schema import Row
from training.evaluation.suite import content_of
from training.reasoner.cases import INVENTED, Case, Pool, Sourced, current, standing
from training.reasoner.policies import Category, Library, Taxonomy, View
from training.reasoner.prepare import training_pools
from training.rules.organisations import ORGANISATIONS, name_of, part_of

Kind = Literal["organisations", "annotated", "taxonomies", "invented"]
ANNOTATED: Final = "annotated"
# What the guide of the annotated rows knows beside our taxonomy.
PROFANITY: Final = Category(
    "profanity",
    ("profanity", "Crude language", "Swearing"),
    "Crude language in itself, whoever it is aimed at.",
)
# Our taxonomy's rude language is no category of the guide.
UNREAD: Final = frozenset({"toxicity"})
# Nine in ten of the rows are shorter, and a longer one costs as much as four of them.
MOST_CHARACTERS: Final = 700


@dataclass(frozen=True, slots=True)
class Bank:
    """Texts under one set of rules; ``complete`` where every rule of every text is known."""

    pool: Pool
    kind: Kind
    complete: bool

    def label(self, case: Case, key: str) -> float | None:
        """Whether a text breaks a rule: 1, 0, or None where that is not known."""
        if case.key is None:
            return 0.0
        if key == case.key:
            return 1.0
        if self.complete:
            return float(key in case.also)
        taxonomy = self.pool.taxonomy
        alone = View(taxonomy, (), {key: taxonomy.categories[key].names[0]})
        return 0.0 if alone.is_clear(case.key, case.also) else None


def banks_of(
    rows: Sequence[Sourced],
    organisations: Sequence[Pool],
    known: Library,
    held_out: bool,
    seed: int,
) -> list[Bank]:
    """All that is trained on, or (``held_out``) what calibrates: other rows and organisations.

    Taxonomies, organisations and rows that are kept for tests are in neither.
    """
    kept = [s for s in current(rows) if s.row.english]
    read = list(as_read(s.row for s in kept))
    part = "dev" if held_out else "train"
    found = [
        Bank(pool, ORGANISATIONS, complete=True)
        for pool in organisations
        if part_of(name_of(pool)) == part
    ]
    found += [Bank(pool, ANNOTATED, complete=True) for pool in _annotated(read, known, held_out)]
    found += [
        Bank(
            pool,
            INVENTED if pool.taxonomy.name.startswith(INVENTED) else "taxonomies",
            complete=False,
        )
        for pool in training_pools(standing(kept), known, held_out, seed)
    ]
    legible = [replace(bank, pool=_told_apart(_short(bank.pool))) for bank in found]
    return [bank for bank in legible if bank.pool.size]


def _short(pool: Pool) -> Pool:
    return _only(
        pool, lambda c: len(c.content.text) + len(c.content.context or "") <= MOST_CHARACTERS
    )


def _told_apart(pool: Pool) -> Pool:
    """Without texts whose words stand among the safe and among the breaking ones.

    To the bodies' WordPiece every emoji is the same unknown token: of two texts that differ in one
    alone, as a third of HatemojiBuild's do, a body can learn nothing but that both labels hold.
    """

    def read(case: Case) -> tuple[str, ...]:
        return (*words(case.content.text), "", *words(case.content.context or ""))

    unsafe, safe = (
        {read(case) for cases in piles.values() for case in cases}
        for piles in (pool.unsafe, pool.safe)
    )
    both = unsafe & safe
    return _only(pool, lambda case: read(case) not in both)


def _only(pool: Pool, fits: Callable[[Case], bool]) -> Pool:
    def some(piles: Mapping[str, tuple[Case, ...]]) -> dict[str, tuple[Case, ...]]:
        return {name: kept for name, cases in piles.items() if (kept := tuple(filter(fits, cases)))}

    return replace(pool, unsafe=some(pool.unsafe), safe=some(pool.safe))


def _annotated(rows: Sequence[Row], known: Library, held_out: bool) -> list[Pool]:
    """Rows that were read under our guide, a pool for prompts, for answers and for posts.

    What is borderline is left out: of a rule that somebody wrote it says neither yes nor no.
    """
    ours = known.taxonomies.get("tamis")
    named = ours.categories if ours else {}
    categories = {
        key: named.get(key, Category(key, (key,), " ".join(about.split())))
        for key, about in own_taxonomy().categories.items()
        if key not in UNREAD
    } | {PROFANITY.key: PROFANITY}
    made = Taxonomy(ANNOTATED, frozenset(), categories, {key: key for key in categories})
    pools = []
    for target in ("prompt", "response", "text"):
        unsafe: dict[str, list[Case]] = {}
        safe: list[Case] = []
        for row in rows:
            if row.severity not in (0, 2) or row.target != target or is_held_out(row) != held_out:
                continue
            holds = [name for name in row.categories if name in categories]
            content = content_of(row)
            if not holds and row.severity == 0:
                safe.append(Case(row.id, row.source, row.licence, content, None))
            for key in holds:
                others = tuple(name for name in holds if name != key)
                case = Case(row.id, row.source, row.licence, content, key, others)
                unsafe.setdefault(key, []).append(case)
        pools.append(
            Pool(
                replace(made, name=f"{ANNOTATED}/{target}"),
                {key: tuple(cases) for key, cases in unsafe.items()},
                {ANNOTATED: tuple(safe)} if safe else {},
            )
        )
    return pools
