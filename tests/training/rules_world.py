"""An invented world for tests of the policy encoder: two clubs with rules, and a tiny base."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.training.tiny import write_bert
from training.rules.organisations import part_of

# What a rule is called, what it says, and the word by which a text breaks it.
RULES = {
    "Biscuits": ("Speaks of biscuits. Crumbs are fine.", "biscuits"),
    "Kites": ("Speaks of kites. Strings are fine.", "kites"),
    "Drums": ("Speaks of drums. Sticks are fine.", "drums"),
}
CALM = ("the weather is mild", "the door is open", "the path is long")


def named(part: str, count: int) -> list[str]:
    """So many names of clubs on one side of the split."""
    names = (f"club-{n}" for n in range(1000))
    return [name for name in names if part_of(name) == part][:count]


def club(name: str, kind: str = "prompt") -> Iterator[dict[str, Any]]:
    """A policy, and texts that break its rules or none."""
    categories = {rule: {"definition": about} for rule, (about, _) in RULES.items()}
    yield {"policy": name, "kind": kind, "about": "A club.", "categories": categories}
    to = {"to": "what is it like"} if kind == "response" else {}
    for n in range(8):
        for rule, (_, word) in RULES.items():
            text = f"tell number {n} about {word}"
            yield {"policy": name, "text": text, "category": rule, "reason": "It is so.", **to}
        for calm in CALM:
            text = f"{calm} on day {n}"
            yield {"policy": name, "text": text, "category": None, "reason": "It is not.", **to}


def write_clubs(folder: Path, clubs: list[tuple[str, str]]) -> Path:
    """A folder of organisations, each a name and a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "clubs.jsonl.gz", "wt", encoding="utf-8") as stream:
        for name, kind in clubs:
            stream.writelines(json.dumps(row) + "\n" for row in club(name, kind))
    return folder


def make_base(folder: Path, write: Callable[..., Path] = write_bert) -> Path:
    """A body of few layers with random weights that knows the words of this world."""
    folder.mkdir(parents=True, exist_ok=True)
    said = [f"{name} {about} {word}" for name, (about, word) in RULES.items()]
    said += [*CALM, "tell number about on day what is it like user assistant post : ."]
    words = sorted({w for text in said for w in text.lower().replace(".", " . ").split()})
    return write(folder, [*words, *map(str, range(20))])
