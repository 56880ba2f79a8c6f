"""How the house stands: modules at each room's root, circles of imports, names that are near.

    python -m scripts.house

Imports within functions and for annotations count like any other: what needs them is a circle.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import grimp

STAGES: Final = ("tamis", "service", "training", "export")
# What a command, a dialect or a client's module is called follows from what it is for.
NAMED_BY_USE: Final = ("tamis.cli", "tamis.client", "service.dialects")
ENDING: Final = re.compile(r"(?:abilit(?:y|ies)|ations?|ions?|ings?|ers?|ors?|es?|s)$")
Imports = Mapping[str, AbstractSet[str]]


def imports() -> Imports:
    """Every module of the house, and the modules of the house that it imports."""
    graph = grimp.build_graph(*STAGES, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def at_the_root(found: Imports) -> dict[str, list[str]]:
    """The modules that lie in each room itself, not in a room of it."""
    rooms = {name.rpartition(".")[0] for name in found} - {""}
    return {
        room: sorted(m for m in found if m.rpartition(".")[0] == room and m not in rooms)
        for room in sorted(rooms)
    }


def circles(found: Imports) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others of the group."""
    reach = {name: _reached(name, found) for name in found}
    rings = {frozenset({name} | {o for o in reach[name] if name in reach[o]}) for name in found}
    return sorted(sorted(ring) for ring in rings if len(ring) > 1)


def near_names(found: Imports) -> list[list[str]]:
    """Modules of the domain and the service whose names differ by their ending alone.

    The heart of a room may be called as the room is: ``reading.reader`` does not count.
    """
    stems: dict[str, list[str]] = defaultdict(list)
    for name in sorted(found):
        room, _, own = name.rpartition(".")
        if name.startswith(("tamis.", "service.")) and not room.startswith(NAMED_BY_USE):
            stems[ENDING.sub("", own)].append(name)
    alike = ([n for n in names if n.rpartition(".")[0] not in names] for names in stems.values())
    return [names for names in alike if len({n.rpartition(".")[2] for n in names}) > 1]


def _reached(name: str, found: Imports) -> set[str]:
    seen: set[str] = set()
    ahead = list(found[name])
    while ahead:
        if (one := ahead.pop()) not in seen:
            seen.add(one)
            ahead.extend(found[one])
    return seen


def lines() -> Iterator[str]:
    """The report."""
    found = imports()
    for room, modules in at_the_root(found).items():
        yield f"{len(modules):3} at the root of {room}"
    for title, groups in (("circles", circles(found)), ("near names", near_names(found))):
        yield f"{len(groups):3} {title}"
        yield from (f"      {', '.join(group)}" for group in groups)


if __name__ == "__main__":
    print(*lines(), sep="\n")
