"""What a transformation costs: harmful rows still flagged, benign rows flagged for it.

    tamis bench robustness --data eval --rows 60

Real prompts of a folder in the data schema, judged by the engine's classifier under the default
policy, with reading and without; then an attacker who sees the scores.
"""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.record import Record, Row
from benchmarks.robustness.attacker import Attack, greedy
from benchmarks.robustness.transformations import NESTED, TRANSFORMATIONS, all_of_them
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles
from tamis.content import prompt
from tamis.policy import default_policy
from tamis.reading import Reading, Text
from tamis.verdict import Provenance, Verdict, decide

# Codes write up to nine characters for one: longer rows would measure windows, not reading.
LONGEST: Final = 160
BUDGET: Final = 200
ATTACKED: Final = 12


def unread(text: str) -> Reading:
    """A reading of nothing but the letters that are there."""
    return Reading((Text(text),))


@dataclass(frozen=True)
class Judge:
    """A classifier under the default policy, which reads or does not."""

    classifier: Classifier

    def __call__(self, text: str) -> Verdict:
        """The verdict on a prompt."""
        bundle, policy = self.classifier.bundle, default_policy()
        by = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        return decide([self.classifier.judge(prompt(text))], policy, bundle.thresholds, by)

    def flagged(self, texts: Sequence[str]) -> int:
        """How many of them are not allowed."""
        return sum(self(text).flagged for text in texts)


def sample(data: Path, rows: int, label: int) -> list[str]:
    """Prompts of all sets with that label, drawn evenly from those that are short."""
    texts: set[str] = set()
    for path in sorted(data.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            found = [json.loads(line) for line in stream]
        texts.update(
            row["prompt"]
            for row in found
            if row["target"] == "prompt" and row["label"] == label
            if row["prompt"].isascii() and 20 <= len(row["prompt"]) <= LONGEST
        )
    return random.Random(15).sample(sorted(texts), min(rows, len(texts)))


def run(bundle_path: Path, data: Path, rows: int) -> None:
    """Measure, and write the page."""
    bundle = bundles.load(bundle_path)
    runtime = CpuRuntime(bundle.graph)
    judges = {
        True: Judge(Classifier(bundle, runtime)),
        False: Judge(Classifier(bundle, runtime, unread)),
    }
    harmful, benign = (sample(data, rows, label) for label in (1, 0))
    clean = judges[True].flagged(harmful), judges[True].flagged(benign)
    # What is missed in plain letters is no matter of how it is written.
    caught = [text for text in harmful if judges[True](text).flagged]
    table: list[Row] = []
    for name, transform in all_of_them().items():
        written = [transform(text) for text in caught], [transform(text) for text in benign]
        row: Row = {"transformation": name}
        for reads, judge in judges.items():
            kept, alarms = (judge.flagged(texts) for texts in written)
            when = "on" if reads else "off"
            row[f"recall kept, {when}"] = f"{100 * kept / len(caught):.0f} %"
            row[f"false alarms added, {when}"] = f"{100 * (alarms - clean[1]) / len(benign):+.0f}"
        table.append(row)
        print(*row.values(), sep="\t", flush=True)
    command = f"tamis bench robustness --data DIR --rows {rows}"
    record = Record("robustness", "Transformations", command)
    record.notes = [
        f"{len(TRANSFORMATIONS)} transformations and {len(NESTED)} pairs of {len(harmful)} harmful "
        f"and {len(benign)} benign public prompts of at most {LONGEST} characters; in plain "
        f"letters {clean[0]} of the harmful and {clean[1]} of the benign ones are flagged. *Recall "
        "kept* is the share of those harmful ones that is flagged still, *false alarms added* is "
        "in points of the benign ones. *Off* is the same bundle without reading, though what "
        "leaves no token is an attack there too. Hidden text is flagged whatever it says, by "
        "intent.",
    ]
    record.tables = [table, *([_attacks(judges, caught)] if caught else [])]
    record.write(bundle)


def _attacks(judges: dict[bool, Judge], caught: Sequence[str]) -> list[Row]:
    """The attacker against some of the rows."""
    table = []
    for moves in ("characters", "characters and synonyms"):
        row: Row = {"greedy attacker": moves, "rows": len(caught[:ATTACKED]), "queries": BUDGET}
        for reads, judge in judges.items():
            ends = [
                greedy(text, judge, BUDGET, synonyms="synonyms" in moves)
                for text in caught[:ATTACKED]
            ]
            row[f"recall kept, {'on' if reads else 'off'}"] = _kept(ends)
        table.append(row)
        print(*row.values(), sep="\t", flush=True)
    return table


def _kept(ends: Sequence[Attack]) -> str:
    return f"{100 * sum(not end.won for end in ends) / len(ends):.0f} %"
