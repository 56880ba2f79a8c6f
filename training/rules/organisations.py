"""Written organisations: each with rules of its own, and texts under them.

A file, ``*.jsonl.gz`` or ``*.jsonl``, holds policies, ``{"policy", "kind", "about", "categories":
{name: {"definition"}}}``, and texts, ``{"policy", "text", "to", "category", "reason"}``: every rule
of a policy was held against every text, and one of them or none is broken.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from tamis.content import Content, plain, prompt, response
from tamis.reasoner.protocol import guidelines
from training.datasets.schema import SchemaError, data_files
from training.reasoner.cases import Case, Pool
from training.reasoner.policies import Category, Taxonomy

ORGANISATIONS: Final = "organisations"
Part = Literal["train", "dev", "test"]
KINDS: Final = ("prompt", "response", "text")
# What the names of those begin with that were written for training.
OURS: Final = "ours/"
# Of a hundred organisations so many test, and so many more calibrate and stop the training.
TEST: Final = 20
DEV: Final = 12


def part_of(name: str) -> Part:
    """Which side of the split an organisation is on, all its texts with it: by a hash of its name.

    What is there already stays where it is, whatever is added. Those of
    ``training/rules/written`` never test: who wrote them had seen two of the others.
    """
    at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % 100
    if at < TEST and not name.startswith(OURS):
        return "test"
    return "dev" if TEST <= at < TEST + DEV else "train"


def name_of(pool: Pool) -> str:
    """The organisation's own name."""
    return pool.taxonomy.name.removeprefix(f"{ORGANISATIONS}/")


def read_organisations(folders: Iterable[Path]) -> list[Pool]:
    """The organisations of folders, each as a taxonomy of its own with its texts.

    Raises:
        FileNotFoundError: where a folder holds no such file.
        SchemaError: naming the file, the line and the field that is missing or wrong, or the policy
            that comes twice.
    """
    policies: dict[str, Mapping[str, Any]] = {}
    texts: dict[str, list[Case]] = {}
    for where, raw in _lines(folders):
        try:
            if "categories" in raw:
                if raw["kind"] not in KINDS:
                    raise SchemaError(f"{where}: field 'kind' must be one of {', '.join(KINDS)}")
                if raw["policy"] in policies:
                    raise SchemaError(f"{where}: policy {raw['policy']!r} comes twice")
                for fields in raw["categories"].values():
                    fields["definition"]
                policies[raw["policy"]] = raw
                texts[raw["policy"]] = []
            else:
                policy = policies[raw["policy"]]
                case = _case(raw, policy, len(texts[raw["policy"]]))
                texts[raw["policy"]].append(case)
        except KeyError as error:
            raise SchemaError(f"{where}: field or policy {error} is missing") from None
        except (AttributeError, TypeError):
            raise SchemaError(f"{where}: neither a policy nor a text under one") from None
    return [_pool(policy, texts[name]) for name, policy in policies.items()]


def _lines(folders: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in (path for folder in folders for path in _files(folder)):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path.name} line {number}"
                try:
                    raw = json.loads(line)
                except json.JSONDecodeError as error:
                    raise SchemaError(f"{where}: not JSON ({error.msg})") from None
                yield where, raw


def _files(folder: Path) -> list[Path]:
    """What is read of a folder: our own are kept as plain lines, for whoever reads a change."""
    return sorted(folder.glob("*.jsonl")) + sorted(folder.glob("*.jsonl.gz")) or data_files(folder)


def _case(raw: Mapping[str, Any], policy: Mapping[str, Any], number: int) -> Case:
    key = raw["category"]
    if key is not None:
        policy["categories"][key]
    made: dict[str, Content] = {
        "prompt": prompt(raw["text"]),
        "response": response(raw["text"], raw.get("to") or ""),
        "text": plain(raw["text"]),
    }
    return Case(
        f"{policy['policy']}-{number}",
        ORGANISATIONS,
        "own",
        made[policy["kind"]],
        key,
        reason=raw.get("reason") or "",
    )


def _pool(policy: Mapping[str, Any], cases: Iterable[Case]) -> Pool:
    given = {name: fields["definition"] for name, fields in policy["categories"].items()}
    categories = {
        rule.name: Category(rule.name, (rule.name,), rule.definition or "")
        for rule in guidelines(given)
    }
    name = f"{ORGANISATIONS}/{policy['policy']}"
    taxonomy = Taxonomy(
        name, frozenset({ORGANISATIONS}), categories, {k: k for k in categories}, own_safe=True
    )
    cases = tuple(cases)
    broken = {key: tuple(c for c in cases if c.key == key) for key in categories}
    safe = tuple(c for c in cases if c.key is None)
    return Pool(
        taxonomy,
        {key: found for key, found in broken.items() if found},
        {ORGANISATIONS: safe} if safe else {},
    )
