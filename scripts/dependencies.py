"""What the package and some of its extras need, one requirement a line.

    python scripts/dependencies.py cpu

Installing that without the package itself keeps the image's layer of dependencies apart from the
code, which changes more often.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

OWN = re.compile(r"tamis\[([\w,-]+)\]")


def dependencies(project: Path, extras: Sequence[str]) -> list[str]:
    """The requirements of a project and its extras; extras that name others are followed.

    Raises:
        KeyError: where there is no such extra.
    """
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    known: dict[str, list[str]] = table["optional-dependencies"]

    def of(extra: str) -> Iterator[str]:
        for requirement in known[extra]:
            if own := OWN.fullmatch(requirement):
                for other in own[1].split(","):
                    yield from of(other)
            else:
                yield requirement

    found = [*table["dependencies"], *(r for extra in extras for r in of(extra))]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    print(*dependencies(Path("pyproject.toml"), sys.argv[1:]), sep="\n")
