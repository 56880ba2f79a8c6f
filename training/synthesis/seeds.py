"""The seed taxonomy (data: ``seeds.yaml``): what synthetic rows ask for, and their benign twins."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from tamis.taxonomy import ATTACK, taxonomy
from training.datasets.registry import sources
from training.datasets.schema import Target

SOURCE: Final = "tamis_synthetic"
Kind = Literal["do", "write", "ask", "say"]
Tier = Literal["plain", "specific", "contextual", "disguised"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
# A statement takes no detail, and in quotation marks it is no longer the writer's own.
SAY_TIERS: Final[tuple[Tier, ...]] = ("plain", "contextual")
SLOT: Final = re.compile(r"\{(\w+)\}")
# Nothing but the plain names that policies use is ever written about these.
RESTRICTED: Final = frozenset({"sexual/minors"})
_SUBTOPIC_FIELDS: Final = {"intents", "twins", "also", "name", "target", "tiers", "generator"}
_SECTION_FIELDS: Final = {"subtopics", "also", "target", "tiers", "generator"}


class SeedError(ValueError):
    """A seed file that does not hold together; the message names the place."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One intent (label 1) or benign twin (label 0)."""

    id: str
    """``category/subtopic/`` and a hash of the words: stable whatever else the file holds."""
    category: str
    subtopic: str
    kind: Kind
    text: str
    label: int
    names: tuple[str, ...]
    """Category names of its rows, as ``sources.yaml`` reads them; none for a twin."""
    target: Target
    tiers: tuple[Tier, ...]
    generator: bool
    """Whether a language model may write about it."""


@dataclass(frozen=True)
class Seeds:
    """A seed taxonomy and what is drawn alike for intents and twins."""

    leaves: tuple[Leaf, ...]
    slots: Mapping[str, tuple[str, ...]]
    personas: tuple[str, ...]
    situations: tuple[str, ...]
    details: tuple[str, ...]
    sha256: str

    @cached_property
    def by_id(self) -> Mapping[str, Leaf]:
        """Every leaf by its id."""
        return {leaf.id: leaf for leaf in self.leaves}

    def only(self, categories: list[str]) -> "Seeds":
        """The seeds of these categories.

        Raises:
            SeedError: for a category that the seeds lack.
        """
        missing = set(categories) - {leaf.category for leaf in self.leaves}
        if missing:
            raise SeedError(f"no seeds for {', '.join(sorted(missing))}")
        kept = tuple(leaf for leaf in self.leaves if leaf.category in categories)
        return Seeds(kept, self.slots, self.personas, self.situations, self.details, self.sha256)


def load_seeds(path: Path | None = None) -> Seeds:
    """Read and check a seed file (default: the project's own).

    Raises:
        SeedError: for names outside the taxonomy, repeated leaves, a subtopic without twins, an
            intent whose kind no twin shares, unknown slots or fields.
    """
    if path is None:
        text = files("training.synthesis").joinpath("seeds.yaml").read_text(encoding="utf-8")
    else:
        text = path.read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    try:
        slots = {name: tuple(map(str, values)) for name, values in raw["slots"].items()}
        leaves = tuple(leaf for name in raw["categories"] for leaf in _section(raw, name))
        seeds = Seeds(
            leaves=leaves,
            slots=slots,
            personas=tuple(raw["personas"]),
            situations=tuple(raw["situations"]),
            details=tuple(raw["details"]),
            sha256=hashlib.sha256(text.encode()).hexdigest(),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise SeedError(f"seeds: missing or misshapen: {error}") from None
    _check(seeds)
    return seeds


def _section(raw: Mapping[str, Any], category: str) -> Iterator[Leaf]:
    section = raw["categories"][category]
    if category != ATTACK and category not in taxonomy().categories:
        raise SeedError(f"seeds: {category!r} is not in the taxonomy")
    _no_stray(section, _SECTION_FIELDS, category)
    for subtopic, fields in section["subtopics"].items():
        place = f"{category}/{subtopic}"
        _no_stray(fields, _SUBTOPIC_FIELDS, place)
        own = {key: fields.get(key, section.get(key)) for key in ("target", "tiers", "generator")}
        names = _names(place, fields.get("name", category), section, fields)
        intents, twins = fields.get("intents") or {}, fields.get("twins") or {}
        if not intents or not twins:
            raise SeedError(f"seeds: {place} needs both intents and twins")
        if not set(intents) <= set(twins):
            # Else the form of a message alone would give its label away.
            raise SeedError(
                f"seeds: {place} has no twins of kind {sorted(set(intents) - set(twins))}"
            )
        for label, group in ((1, intents), (0, twins)):
            for kind, texts in group.items():
                if kind not in get_args(Kind):
                    raise SeedError(f"seeds: {place}: unknown kind {kind!r}")
                tiers = tuple(own["tiers"] or TIERS)
                if kind == "say":
                    tiers = tuple(tier for tier in tiers if tier in SAY_TIERS)
                for text in texts:
                    digest = hashlib.sha256(str(text).encode()).hexdigest()[:8]
                    yield Leaf(
                        id=f"{place}/{digest}",
                        category=category,
                        subtopic=subtopic,
                        kind=kind,
                        text=str(text),
                        label=label,
                        names=names if label else (),
                        target=own["target"] or "prompt",
                        tiers=tiers,
                        generator=own["generator"] is not False,
                    )


def _no_stray(fields: Mapping[str, Any], known: set[str], place: str) -> None:
    stray = set(fields) - known
    if stray:
        raise SeedError(f"seeds: {place}: unknown fields {sorted(stray)}")


def _names(
    place: str, name: str, section: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[str, ...]:
    also = [*fields.get("also", ()), *section.get("also", ())]
    sure = {name, *(n for n in also if not n.startswith("~"))}
    perhaps = {n for n in also if n.startswith("~")} - {f"~{n}" for n in sure}
    unknown = (sure | perhaps) - set(sources()[SOURCE].tags)
    if unknown:
        raise SeedError(f"seeds: {place}: {sorted(unknown)} not in {SOURCE} of sources.yaml")
    return (name, *sorted(sure - {name}), *sorted(perhaps))


def _check(seeds: Seeds) -> None:
    seen: dict[str, str] = {}
    for leaf in seeds.leaves:
        if leaf.text in seen:
            raise SeedError(f"seeds: {leaf.id} repeats {seen[leaf.text]}")
        seen[leaf.text] = leaf.id
        stray = {name.lower() for name in SLOT.findall(leaf.text)} - set(seeds.slots)
        if stray:
            raise SeedError(f"seeds: {leaf.id}: unknown slots {sorted(stray)}")
        if leaf.kind == "ask" and not leaf.text.endswith("?"):
            raise SeedError(f"seeds: {leaf.id}: a question ends with a question mark")
        if leaf.kind in ("do", "write") and (leaf.text[0].isupper() or leaf.text[-1] in ".!?"):
            raise SeedError(f"seeds: {leaf.id}: {leaf.kind} is a phrase, not a sentence")
        unknown = set(leaf.tiers) - set(TIERS)
        if unknown or not leaf.tiers:
            raise SeedError(f"seeds: {leaf.id}: tiers must be some of {', '.join(TIERS)}")
        if leaf.target not in get_args(Target):
            raise SeedError(f"seeds: {leaf.id}: unknown target {leaf.target!r}")
        if leaf.category in RESTRICTED and (leaf.tiers != ("plain",) or leaf.generator):
            raise SeedError(f"seeds: {leaf.id}: {leaf.category} is for plain templates only")
