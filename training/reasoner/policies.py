"""The taxonomies that policies are drawn from, and the drawing (data: ``taxonomies.yaml``).

One taxonomy makes many policies: some of its categories, in any order, under other names, with or
without definitions. What a model learns from that is to read the policy rather than to know one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import yaml

from tamis.reasoner.protocol import Guideline, guidelines
from tamis.taxonomy import taxonomy as own_taxonomy

MOST: Final = 14
# How often a policy is drawn without definitions, leaves categories out, and renames one.
NAMES_ONLY: Final = 0.4
SUBSET: Final = 0.75
RENAMED: Final = 0.35

_FIELDS: Final = frozenset(
    {"sources", "own_safe", "safe", "held_out", "like", "topics", "extra", "first", "any", "by"}
    | {"most", "categories"}
)
_CATEGORY_FIELDS: Final = frozenset({"names", "about", "from", "near"})


class TaxonomyError(ValueError):
    """A file of taxonomies that does not hold together; the message names the place."""


@dataclass(frozen=True, slots=True)
class Category:
    """One category: what policies call it, what it covers, and what may hold as well."""

    key: str
    names: tuple[str, ...]
    about: str
    near: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A source of policies; fields as at the head of ``taxonomies.yaml``."""

    name: str
    sources: frozenset[str]
    categories: Mapping[str, Category]
    keys: Mapping[str, str]
    """The sources' own category names (or seeds) → keys of ``categories``."""
    own_safe: bool = False
    safe: tuple[str, ...] = ()
    held_out: bool = False
    like: str | None = None
    topics: bool = False
    extra: frozenset[str] = frozenset()
    first: tuple[str, ...] = ()
    any: str | None = None
    by_leaf: bool = False
    most: int = MOST

    def key_of(self, label: int, named: Sequence[str], leaf: str | None = None) -> str | None:
        """The category of a row, None where it has none or more than one.

        Args:
            label: of the row.
            named: the row's own category names.
            leaf: ``category/subtopic/…`` of a synthetic row.
        """
        if not (label or self.topics or self.extra.intersection(named)):
            return None
        if self.any:
            return self.any
        if self.by_leaf:
            return self.keys.get("/".join((leaf or "").split("/")[:-1]))
        found = {self.keys[name] for name in named if name in self.keys}
        if len(found) > 1 and self.first:
            return next(key for key in self.first if key in found)
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class View:
    """One policy drawn from a taxonomy."""

    taxonomy: Taxonomy
    policy: tuple[Guideline, ...]
    shown: Mapping[str, str]
    """Category key → the name that this policy gives it."""

    def category(self, key: str) -> str | None:
        """The policy's name for a category, None where it leaves the category out."""
        return self.shown.get(key)

    def is_clear(self, key: str, also: Iterable[str] = ()) -> bool:
        """Whether nothing listed may cover a category that the policy leaves out."""
        # A row's own names may be marked as uncertain (`~`): that is enough to be near.
        named = {name.lstrip("~") for name in also}
        near = self.taxonomy.categories[key].near | named
        if self.taxonomy.by_leaf:
            # Subtopics of one category, and of those that a row may belong to as well, overlap.
            heads = {key.rpartition("/")[0], *named}
            near |= {k for k in self.shown if k.rpartition("/")[0] in heads}
        mutual = {k for k in self.shown if key in self.taxonomy.categories[k].near}
        return key not in self.shown and not mutual and not near.intersection(self.shown)


@dataclass(frozen=True, slots=True)
class Library:
    """Every taxonomy by name, and the pools of safe rows."""

    taxonomies: Mapping[str, Taxonomy]
    pools: Mapping[str, frozenset[str]] = field(default_factory=dict)


@cache
def library() -> Library:
    """The project's taxonomies.

    Raises:
        TaxonomyError: for unknown fields, pools or categories, and for names given twice.
    """
    text = files("training.reasoner").joinpath("taxonomies.yaml").read_text(encoding="utf-8")
    return parse_library(yaml.safe_load(text))


def parse_library(raw: Mapping[str, Any]) -> Library:
    """A library from plain data; raises as ``library``."""
    pools = {name: frozenset(sources) for name, sources in raw.get("pools", {}).items()}
    found = {name: _taxonomy(name, fields) for name, fields in raw["taxonomies"].items()}
    for name, made in found.items():
        if stray := set(made.safe) - set(pools):
            raise TaxonomyError(f"{name}: unknown pools {sorted(stray)}")
        if made.like is not None and made.like not in found:
            raise TaxonomyError(f"{name}: like an unknown taxonomy {made.like!r}")
    return Library(found, pools)


def _taxonomy(name: str, raw: Mapping[str, Any]) -> Taxonomy:
    if stray := set(raw) - _FIELDS:
        raise TaxonomyError(f"{name}: unknown fields {sorted(stray)}")
    categories, keys = {}, {}
    for key, given in raw["categories"].items():
        if stray := set(given) - _CATEGORY_FIELDS:
            raise TaxonomyError(f"{name}/{key}: unknown fields {sorted(stray)}")
        # Categories of our own taxonomy take its definitions, as policies of customers do.
        about = given.get("about") or own_taxonomy().categories.get(key)
        if not about:
            raise TaxonomyError(f"{name}/{key}: field 'about' is missing")
        categories[key] = Category(
            key, tuple(given["names"]), about, frozenset(given.get("near", ()))
        )
        for source_name in given.get("from", [key]):
            if source_name in keys:
                raise TaxonomyError(f"{name}: {source_name!r} maps to two categories")
            keys[source_name] = key
    shown = [n for c in categories.values() for n in c.names]
    if len(set(shown)) < len(shown):
        raise TaxonomyError(f"{name}: two categories share a name")
    for key, category in categories.items():
        if stray := category.near - set(categories):
            raise TaxonomyError(f"{name}/{key}: near unknown categories {sorted(stray)}")
        guidelines(dict.fromkeys(category.names, category.about))
    return Taxonomy(
        name=name,
        sources=frozenset(raw["sources"]),
        categories=categories,
        keys=keys,
        own_safe=bool(raw.get("own_safe")),
        safe=tuple(raw.get("safe", ())),
        held_out=bool(raw.get("held_out")),
        like=raw.get("like"),
        topics=bool(raw.get("topics")),
        extra=frozenset(raw.get("extra", ())),
        first=tuple(raw.get("first", ())),
        any=raw.get("any"),
        by_leaf=raw.get("by") == "leaf",
        most=int(raw.get("most", MOST)),
    )


def draw_view(taxonomy: Taxonomy, present: Sequence[str], rng: np.random.Generator) -> View:
    """A policy as training meets them: some categories, in any order, under any of their names.

    Args:
        taxonomy: whose categories.
        present: keys that rows exist of; of the others a policy may list some, never only those.
        rng: decides.
    """
    keys = list(taxonomy.categories)
    most = min(taxonomy.most, len(keys))
    least = min(2, most)
    # A policy on topics always leaves some out: their rows are what is safe under it.
    if taxonomy.topics:
        most = max(1, min(most, len(keys) - 1))
        least = 1
    count = int(rng.integers(least, most + 1)) if rng.random() < SUBSET or taxonomy.topics else most
    chosen = list(rng.permutation(keys)[:count])
    if not set(chosen) & set(present):
        chosen[0] = str(rng.choice(list(present)))
    names = {key: _name(taxonomy.categories[key], rng) for key in chosen}
    defined = rng.random() >= NAMES_ONLY
    return _view(taxonomy, names, defined)


def usual_view(taxonomy: Taxonomy, defined: bool, keys: Iterable[str] | None = None) -> View:
    """A policy as its authors wrote it: categories (default: all) in order, under usual names."""
    chosen = taxonomy.categories if keys is None else list(keys)
    return _view(taxonomy, {k: taxonomy.categories[k].names[0] for k in chosen}, defined)


def _view(taxonomy: Taxonomy, names: Mapping[str, str], defined: bool) -> View:
    policy = tuple(
        Guideline(name, taxonomy.categories[key].about if defined else None)
        for key, name in names.items()
    )
    return View(taxonomy, policy, dict(names))


def _name(category: Category, rng: np.random.Generator) -> str:
    others = category.names[1:]
    return str(rng.choice(others)) if others and rng.random() < RENAMED else category.names[0]
