"""What a run learns from, and what it is stopped and calibrated by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.datasets.mixing import Variant
from training.reasoner.cases import INVENTED, Pool, read_sourced
from training.reasoner.policies import Library, library
from training.rules.banks import Bank, banks_of
from training.rules.organisations import ORGANISATIONS, name_of, part_of, read_organisations
from training.rules.trials import Trial, trials

MADE: Final = frozenset({"tamis_synthetic"})
# Texts of either label a policy that calibrate.
LATE: Final = 40


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from, and what it is stopped and calibrated by."""

    train: list[Bank]
    held_out: list[Bank]
    organisations: dict[str, list[str]]
    """By part: their names. ``test`` was neither trained on nor calibrated with."""

    @classmethod
    def read(
        cls,
        folders: Sequence[Path],
        policies: Sequence[Path],
        variant: Variant,
        seed: int,
        given: Library | None = None,
    ) -> "Data":
        """Rows of folders, and organisations; raises as their readers do."""
        known = given or library()
        rows = read_sourced(folders, variant)
        found = read_organisations(policies)
        train, held = (banks_of(rows, found, known, held_out, seed) for held_out in (False, True))
        return cls(train, held, _by_part(found))

    def report(self) -> dict[str, Any]:
        """Counts and names for ``training.json``; no text."""
        return {
            "taxonomies": sorted(
                bank.pool.taxonomy.name for bank in self.train if bank.kind != ORGANISATIONS
            ),
            "organisations": {p: n for p, n in self.organisations.items() if p != "test"},
            "rows": {
                part: sum(bank.pool.size + sum(map(len, bank.pool.safe.values())) for bank in banks)
                for part, banks in (("train", self.train), ("held_out", self.held_out))
            },
            "data_sha256": _fingerprint(self.train + self.held_out),
        }


def held_out_trials(data: Data, seed: int) -> list[Trial]:
    """What calibrates: every held-out policy, with and without its definitions.

    By the names alone an organisation's exceptions cannot be known: those are shown defined.
    """
    written = [bank for bank in genuine(data.held_out) if bank.kind == ORGANISATIONS]
    others = [bank for bank in genuine(data.held_out) if bank.kind != ORGANISATIONS]
    return [
        *trials(written, LATE, defined=True, seed=seed),
        *trials(others, LATE // 2, defined=True, seed=seed),
        *trials(others, LATE // 4, defined=False, seed=seed + 1),
    ]


def genuine(banks: Sequence[Bank]) -> list[Bank]:
    """Banks whose held-out texts are no other wordings of what was trained on."""
    return [b for b in banks if b.kind != INVENTED and b.pool.taxonomy.sources != MADE]


def _by_part(pools: Sequence[Pool]) -> dict[str, list[str]]:
    names = [name_of(pool) for pool in pools]
    return {part: [n for n in names if part_of(n) == part] for part in ("train", "dev", "test")}


def _fingerprint(banks: Sequence[Bank]) -> str:
    """SHA-256 over the ids and labels of the texts, in order."""
    digest = hashlib.sha256()
    for bank in banks:
        pool = bank.pool
        for cases in (*pool.unsafe.values(), *pool.safe.values()):
            for case in cases:
                digest.update(
                    f"{pool.taxonomy.name}\t{case.source}\t{case.id}\t{case.key}\n".encode()
                )
    return digest.hexdigest()
