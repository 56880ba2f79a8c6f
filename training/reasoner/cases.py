"""What is judged: rows of the data, and requests to invented organisations, in one shape."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from tamis.content import Content
from tamis.reasoner.protocol import guidelines
from training.datasets.mixing import FREE, Variant, is_held_out
from training.datasets.readings import as_read
from training.datasets.schema import Row, data_files, read_pairs
from training.evaluation.suite import content_of
from training.reasoner.policies import Category, Library, Taxonomy
from training.synthesis.seeds import Leaf, Seeds, Tier
from training.synthesis.templates import compose

INVENTED: Final = "invented"
# A text over the limit is left out; one whose subject is all that counts (`topics`) is cut. Nine in
# ten rows are shorter, and a batch is packed with several cases behind one policy.
MOST_CHARACTERS: Final = 1200
TOPIC_CHARACTERS: Final = 400
TIERS: Final[tuple[Tier, ...]] = ("plain", "specific", "contextual", "disguised")


@dataclass(frozen=True, slots=True)
class Case:
    """One text to judge and what is known of it, before any policy."""

    id: str
    source: str
    licence: str | None
    content: Content
    key: str | None
    """Its category in the taxonomy at hand; None where it is safe."""
    also: tuple[str, ...] = ()
    """Further categories that may hold."""
    focus: tuple[int, int] | None = None
    """Characters that the label rests on, where that is known."""
    reason: str = ""
    """Why, in the words of whoever labelled it."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The cases of one taxonomy: by category, and those that are safe under all of them."""

    taxonomy: Taxonomy
    unsafe: Mapping[str, tuple[Case, ...]]
    safe: Mapping[str, tuple[Case, ...]]
    """By source: a large one would drown the others, and is narrower than all of them."""

    @property
    def size(self) -> int:
        """How many unsafe cases there are."""
        return sum(map(len, self.unsafe.values()))


@dataclass(frozen=True, slots=True)
class Sourced:
    """A row, and the seed that a synthetic row was made of."""

    row: Row
    leaf: str | None


def read_sourced(directories: Iterable[Path], variant: Variant) -> list[Sourced]:
    """The rows of a variant, in file order; raises as ``schema.read_rows``."""
    return [
        Sourced(row, json.loads(line).get("leaf"))
        for directory in directories
        for path in data_files(directory)
        for line, row in read_pairs(path)
        if variant == "all" or row.licence in FREE
    ]


def current(rows: Iterable[Sourced]) -> list[Sourced]:
    """Without the rows that another one, which was labelled anew, replaces."""
    rows = list(rows)
    retired = {s.row.replaces for s in rows if s.row.replaces is not None}
    return [s for s in rows if s.row.id not in retired]


def standing(rows: Iterable[Sourced]) -> list[Sourced]:
    """Current rows whose own label stands: without those whose reading says anything else.

    What a reading confirms keeps its source's category names, which taxonomies are written in.
    """
    found = current(rows)
    read = as_read(s.row for s in found)
    return [
        s
        for s, said in zip(found, read, strict=True)
        if said is s.row or said.severity == 2 * s.row.label
    ]


def pools_of(rows: Iterable[Sourced], library: Library, held_out_rows: bool) -> dict[str, Pool]:
    """The cases of every taxonomy that has any, on one side of the held-out split."""
    side = [s for s in rows if is_held_out(s.row) == held_out_rows]
    return {
        name: pool
        for name, taxonomy in library.taxonomies.items()
        if (pool := pool_of(side, taxonomy, library)).size
    }


def pool_of(rows: Iterable[Sourced], taxonomy: Taxonomy, library: Library) -> Pool:
    """The cases of one taxonomy."""
    around = frozenset().union(*(library.pools[name] for name in taxonomy.safe))
    unsafe: dict[str, list[Case]] = {}
    safe: dict[str, list[Case]] = {}
    for row, leaf in ((s.row, s.leaf) for s in rows):
        own = row.source in taxonomy.sources
        if not own and row.source not in around:
            continue
        key = taxonomy.key_of(row.label, row.categories, leaf) if own else None
        case = _case(row, key, cut=taxonomy.topics)
        if case is None:
            continue
        if key is not None:
            unsafe.setdefault(key, []).append(case)
        elif row.label == 0 and (not own or taxonomy.own_safe):
            safe.setdefault(case.source, []).append(case)
    # Safe rows of another kind (answers, say, beside requests) would be told by that alone.
    kinds = {case.content.question for cases in unsafe.values() for case in cases}
    alike = {
        name: tuple(c for c in cases if c.content.question in kinds) for name, cases in safe.items()
    }
    return Pool(
        taxonomy,
        {key: tuple(unsafe[key]) for key in taxonomy.categories if key in unsafe},
        {name: cases for name, cases in alike.items() if cases},
    )


def _case(row: Row, key: str | None, cut: bool) -> Case | None:
    content = content_of(row)
    if cut:
        text = content.text[:TOPIC_CHARACTERS]
        content = Content(content.question, text, content.context)
    if not content.text.strip() or len(content.text) + len(content.context or "") > MOST_CHARACTERS:
        return None
    also = tuple(row.categories) if key is not None else ()
    return Case(row.id, row.source, row.licence, content, key, also)


def invented_pools(seeds: Seeds, each: int, seed: int) -> Iterator[Pool]:
    """Requests to the organisations of ``invented.yaml``, worded by the grammar of synthesis.

    Args:
        seeds: for personas, situations and details, which say nothing of the label.
        each: wordings of every request.
        seed: decides the wordings.
    """
    raw = yaml.safe_load(files("training.reasoner").joinpath("invented.yaml").read_text("utf-8"))
    for name, fields in raw.items():
        yield _invented(name, fields, seeds, each, seed)


def _invented(name: str, fields: Mapping[str, Any], seeds: Seeds, each: int, seed: int) -> Pool:
    given = {key: value for key, value in fields.items() if key != "fine"}
    guidelines({key: value["about"] for key, value in given.items()})
    categories = {key: Category(key, (key,), value["about"]) for key, value in given.items()}
    taxonomy = Taxonomy(
        f"{INVENTED}/{name}", frozenset({INVENTED}), categories, {k: k for k in categories}
    )

    def cases(key: str | None, asks: Iterable[str]) -> Iterator[Case]:
        for ask in asks:
            digest = hashlib.sha256(f"{name}/{ask}".encode()).hexdigest()[:12]
            leaf = Leaf(
                digest, name, name, "do", ask, int(key is not None), (), "prompt", TIERS, True
            )
            rng = np.random.default_rng([seed, int(digest, 16)])
            for n in range(each):
                made = compose(seeds, leaf, TIERS[n % len(TIERS)], rng)
                # Registers and pronouns may have changed the phrase; then its place is not known.
                at = made.text.lower().find(made.phrase.lower())
                focus = None if at < 0 else (at, at + len(made.phrase))
                content = Content("prompt", made.text, field="prompt")
                yield Case(f"{digest}-{n}", INVENTED, "own", content, key, focus=focus)

    unsafe = {key: tuple(cases(key, value["asks"])) for key, value in given.items()}
    return Pool(taxonomy, unsafe, {INVENTED: tuple(cases(None, fields["fine"]))})
