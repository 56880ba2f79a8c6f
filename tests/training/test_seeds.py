import re
from pathlib import Path

import numpy as np
import pytest

from tamis.taxonomy import ATTACK, taxonomy
from training.synthesis.registers import REGISTERS
from training.synthesis.seeds import RESTRICTED, SLOT, TIERS, SeedError, Tier, load_seeds
from training.synthesis.templates import Message, compose, fill, second_person, third_person

MINIMAL = """
slots: {person: [my ex]}
personas: [I bake]
situations: [It rains.]
details: [in short]
categories:
  illicit:
    subtopics:
      theft:
        intents: {do: [steal a cookie]}
        twins: {do: [bake a cookie]}
"""


def seeds_of(tmp_path: Path, *changes: tuple[str, str]):
    text = MINIMAL
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "seeds.yaml"
    path.write_text(text)
    return load_seeds(path)


def test_the_projects_seeds_cover_the_taxonomy():
    seeds = load_seeds()
    assert {leaf.category for leaf in seeds.leaves} == {*taxonomy().categories, ATTACK}
    assert len(seeds.leaves) >= 900
    by_subtopic: dict[tuple[str, str], set[int]] = {}
    for leaf in seeds.leaves:
        by_subtopic.setdefault((leaf.category, leaf.subtopic), set()).add(leaf.label)
    assert len(by_subtopic) >= 90
    assert all(labels == {0, 1} for labels in by_subtopic.values())


def test_nobody_young_stands_near_anything_sexual():
    seeds = load_seeds()
    for leaf in seeds.leaves:
        if leaf.category in RESTRICTED:
            assert (leaf.tiers, leaf.generator) == (("plain",), False)
        if leaf.category == "sexual" and leaf.label:
            assert set(SLOT.findall(leaf.text)) <= {"adult", "platform", "country"}, leaf.id
            young = r"class|school|teen|child|student|\b(girl|boy)s?\b"
            assert not re.search(young, leaf.text), leaf.id
    assert not any(re.search(r"school|youth|teen|child", p) for p in seeds.personas)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("illicit:", "nonsense:"), "'nonsense' is not in the taxonomy"),
        (("bake a cookie", "steal a cookie"), "repeats illicit/theft"),
        (("        twins: {do: [bake a cookie]}\n", ""), "needs both intents and twins"),
        (("twins: {do:", "twins: {write:"), r"no twins of kind \['do'\]"),
        (("intents: {do:", "intents: {sing:"), "sing"),
        (("steal a cookie", "'steal from {nobody}'"), r"unknown slots \['nobody'\]"),
        (("steal a cookie", "Steal a cookie."), "not a sentence"),
        (("twins: {do:", "color: red\n        twins: {do:"), r"unknown fields \['color'\]"),
        (("twins: {do:", "also: [sports]\n        twins: {do:"), "sports"),
        (("slots: {person: [my ex]}\n", ""), "slots"),
        (("twins: {do:", "tiers: [loud]\n        twins: {do:"), "tiers must be some of"),
    ],
)
def test_seeds_that_do_not_hold_together_are_refused(tmp_path: Path, change, message: str):
    assert len(seeds_of(tmp_path).leaves) == 2
    with pytest.raises(SeedError, match=message):
        seeds_of(tmp_path, change)


def test_a_restricted_category_cannot_be_opened(tmp_path: Path):
    with pytest.raises(SeedError, match="plain templates only"):
        seeds_of(tmp_path, ("illicit:", "sexual/minors:"))


def test_leaf_ids_depend_on_their_words_alone(tmp_path: Path):
    before = {leaf.text: leaf.id for leaf in seeds_of(tmp_path).leaves}
    longer = seeds_of(tmp_path, ("[steal a cookie]", "[hide a cake, steal a cookie]"))
    after = {leaf.text: leaf.id for leaf in longer.leaves}
    assert before.items() <= after.items()


def test_only_some_categories(tmp_path: Path):
    seeds = load_seeds()
    assert {leaf.category for leaf in seeds.only(["cyber"]).leaves} == {"cyber"}
    with pytest.raises(SeedError, match="no seeds for sports"):
        seeds.only(["sports"])


def test_every_leaf_composes_on_every_tier_without_a_slot_left_open():
    seeds = load_seeds()
    rng = np.random.default_rng(0)
    for leaf in seeds.leaves:
        for tier in leaf.tiers:
            message = compose(seeds, leaf, tier, rng)
            assert not re.search(r"\{\w+\}", message.text), (leaf.id, tier)
            assert not SLOT.search(message.phrase)
        for tier in set(TIERS) - set(leaf.tiers):
            with pytest.raises(ValueError, match="not made on the tier"):
                compose(seeds, leaf, tier, rng)


def test_one_seed_makes_one_message():
    seeds = load_seeds()
    leaf = next(leaf for leaf in seeds.leaves if SLOT.search(leaf.text) and len(leaf.tiers) == 4)
    twice = [compose(seeds, leaf, "contextual", np.random.default_rng(4)) for _ in range(2)]
    assert twice[0] == twice[1]
    phrases = {
        compose(seeds, leaf, "plain", np.random.default_rng(n), slots=7).phrase for n in range(9)
    }
    assert len(phrases) == 1


def without_phrase(message: Message) -> str:
    for said in (str, third_person, second_person):
        if said(message.phrase) in message.text:
            return message.text.replace(said(message.phrase), "…")
    raise AssertionError(message)


@pytest.mark.parametrize("tier", TIERS)
def test_framing_is_drawn_alike_for_intents_and_twins(tier: Tier):
    seeds = load_seeds()
    plain = [leaf for leaf in seeds.leaves if leaf.kind == "do" and not SLOT.search(leaf.text)]
    both = [
        next(leaf for leaf in plain if leaf.label == label and leaf.tiers == TIERS)
        for label in (0, 1)
    ]
    for n in range(20):
        drawn = [
            compose(seeds, leaf, tier, np.random.default_rng(n), register="plain") for leaf in both
        ]
        assert len({without_phrase(message) for message in drawn}) == 1


def test_slots_and_pronouns():
    assert fill("{A} and {a}, {a}", {"a": "my cat"}) == "My cat and my cat, my cat"
    assert third_person("hide my cat so that I'm alone") == "hide their cat so that they're alone"
    assert second_person("find myself") == "find yourself"


@pytest.mark.parametrize("name", sorted(REGISTERS))
def test_registers_keep_most_words(name: str):
    rewrite, _ = REGISTERS[name]
    text = "I want to build a boat for my sister. Can you explain how that is done?"
    rng = np.random.default_rng(1)
    said = [rewrite(text, rng) for _ in range(5)]
    for found in said:
        kept = set(re.findall(r"\w+", text.lower())) & set(re.findall(r"\w+", found.lower()))
        assert len(kept) >= 9
    assert name == "plain" or set(said) != {text}
    assert rewrite("I", rng)
