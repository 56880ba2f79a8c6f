"""Dockerfiles as data: stages, their instructions, and what the variables in them stand for.

https://docs.docker.com/reference/dockerfile/, without heredocs and escape directives, and of the
forms of a variable ``$name`` and ``${name}`` alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
FLAG: Final = re.compile(r"--([\w-]+)(?:=(\S+))?\s+")
WORD: Final = re.compile(r'(?:[^\s"]|"(?:\\.|[^"\\])*")+')


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; ``line`` is where it begins, for messages."""

    line: int
    name: str
    flags: Mapping[str, str]
    value: str

    def words(self) -> list[str]:
        """The value as words: of a JSON array where it is one, else split at blanks."""
        if self.value.startswith("["):
            return [str(word) for word in json.loads(self.value)]
        return [word.replace('"', "") for word in WORD.findall(self.value)]

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The value of ENV, LABEL or ARG as names and expanded values; no value is ""."""
        split = (expand(word, variables).partition("=") for word in self.words())
        return {name: value for name, _, value in split}


@dataclass(frozen=True, slots=True)
class Stage:
    """``FROM base AS name`` and what follows; ``base`` as written."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """Arguments before the first stage, and the stages by name in their order."""

    arguments: Mapping[str, str]
    stages: Mapping[str, Stage]

    @property
    def default(self) -> str:
        """The stage that is built where none is asked for: the last."""
        return list(self.stages)[-1]

    def lineage(self, name: str) -> list[Stage]:
        """The stages that make up a target, from the one on an outside image to itself."""
        stage = self.stages[name]
        return [*(self.lineage(stage.base) if stage.base in self.stages else ()), stage]


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile.

    Raises:
        ValueError: at an instruction before the first stage, or a stage without a name.
    """
    arguments: dict[str, str] = {}
    stages: dict[str, list[Instruction]] = {}
    bases: dict[str, str] = {}
    for found in _instructions(text):
        if found.name == "FROM":
            match found.words():
                case [base, as_, name] if as_.upper() == "AS":
                    bases[name], stages[name] = base, []
                case _:
                    raise ValueError(f"line {found.line}: a stage needs a name: FROM … AS …")
        elif stages:
            stages[name].append(found)
        elif found.name == "ARG":
            arguments |= found.pairs(arguments)
        else:
            raise ValueError(f"line {found.line}: {found.name} before the first FROM")
    return Dockerfile(arguments, {n: Stage(n, bases[n], tuple(i)) for n, i in stages.items()})


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Text with its variables replaced, those that are not set by nothing."""
    return VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), text)


def _instructions(text: str) -> Iterator[Instruction]:
    whole, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        # Comments and empty lines may stand between the lines of one instruction.
        if line.lstrip().startswith("#") or not line.strip():
            continue
        start = start if whole else number
        if line.rstrip().endswith("\\"):
            whole += line.rstrip()[:-1] + " "
            continue
        name, _, value = (whole + line).strip().partition(" ")
        flags, value, whole = {}, value.strip(), ""
        while flag := FLAG.match(value):
            flags[flag[1]] = flag[2] or ""
            value = value[flag.end() :]
        yield Instruction(start, name.upper(), flags, value)
