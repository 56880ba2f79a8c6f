"""The stage ``tamis train reasoner-data``: examples, held-out ones, and a report without texts."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from tamis.reasoner.protocol import Format
from training.datasets.contamination import Seen
from training.datasets.mixing import Variant
from training.reasoner.cases import Pool, Sourced, invented_pools, pools_of, read_sourced, standing
from training.reasoner.examples import (
    Explain,
    Plan,
    Tally,
    draw,
    explained,
    write_examples,
)
from training.reasoner.policies import Library, library
from training.reasoner.reasons import MOST_WORDS
from training.reasoner.sft import EXAMPLES, HELD_OUT
from training.synthesis.seeds import load_seeds

# Wordings of each request to an invented organisation.
WORDINGS: Final = 12
HELD_OUT_SHARE: Final = 0.06


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the examples, besides the code, the taxonomies and the data."""

    variant: Variant = "permissive"
    groups: int = 1500
    reasons: float = 0.4
    seed: int = 0


def prepare(
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    explain: Explain,
    exclude: Path | None = None,
    given: Library | None = None,
) -> dict[str, Any]:
    """Write ``examples.jsonl.gz``, ``held-out.jsonl.gz`` and ``report.json``; returns the report.

    What is there already is kept: the same call does nothing twice.

    Args:
        data: folders of rows, synthetic ones among them.
        out: where to.
        settings: which rows and how many examples.
        explain: writes the reasons (``traces.explainer``, or an endpoint's).
        exclude: evaluation sets that no row may repeat; the public rows were compared when they
            were collected, synthetic ones when they were made.
        given: taxonomies (default: the project's).

    Raises:
        FileNotFoundError, SchemaError: where rows cannot be read.
        ValueError: where ``out`` holds examples of other settings, rows or taxonomies.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    known = given or library()
    rows = standing(read_sourced(data, settings.variant))
    if exclude is not None:
        seen = Seen.of(exclude)
        rows = [s for s in rows if not seen.meets(s.row)]
    drawn_from = _fingerprint(rows, known)
    report_file = out / "report.json"
    if report_file.exists():
        report: dict[str, Any] = json.loads(report_file.read_text())
        if report["settings"] != asdict(settings):
            raise ValueError(f"--out: {out} holds examples of other settings")
        # Older reports do not say.
        if report.get("data_sha256", drawn_from) != drawn_from:
            raise ValueError(f"--out: {out} holds examples of other rows or taxonomies")
        return report
    report = {"settings": asdict(settings), "format": asdict(Format()), "data_sha256": drawn_from}
    for name, held_out, share in ((EXAMPLES, False, 1.0), (HELD_OUT, True, HELD_OUT_SHARE)):
        pools = training_pools(rows, known, held_out, settings.seed)
        plan = Plan(
            groups=max(1, round(settings.groups * share)),
            reasons=settings.reasons,
            seed=settings.seed + held_out,
        )
        tally = Tally()
        groups = tqdm(draw(pools, plan), total=plan.groups, desc=name.split(".")[0], unit="policy")
        write_examples(out / name, explained(groups, explain, plan, MOST_WORDS, tally))
        report[name] = tally.as_json() | {"rows": _rows(pools)}
    report["taxonomies"] = sorted(n for n, t in known.taxonomies.items() if not t.held_out)
    report["held_out_taxonomies"] = sorted(n for n, t in known.taxonomies.items() if t.held_out)
    report["seconds"] = round(time.monotonic() - began)
    report_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def training_pools(
    rows: Sequence[Sourced], known: Library, held_out: bool, seed: int
) -> list[Pool]:
    """The pools that are trained on (or their held-out slice), invented organisations last.

    Of those other wordings of the same requests are held out: whole ones are the bank's to test.
    """
    pools = [
        pool
        for name, pool in pools_of(rows, known, held_out).items()
        if not known.taxonomies[name].held_out
    ]
    each, made = (1, seed + 1) if held_out else (WORDINGS, seed)
    return [*pools, *invented_pools(load_seeds(), each, made)]


def _fingerprint(rows: Sequence[Sourced], known: Library) -> str:
    """SHA-256 over the taxonomies, and the ids, labels and names of the rows in order."""
    digest = hashlib.sha256(json.dumps(asdict(known), default=sorted, sort_keys=True).encode())
    for s in rows:
        said = (s.row.source, s.row.id, s.row.label, s.row.categories, s.leaf)
        digest.update(f"{json.dumps(said)}\n".encode())
    return digest.hexdigest()


def _rows(pools: Sequence[Pool]) -> dict[str, dict[str, Any]]:
    """Counts of what each taxonomy is drawn from."""
    found = {}
    for pool in pools:
        licences = Counter(c.licence or "?" for cases in pool.unsafe.values() for c in cases)
        found[pool.taxonomy.name] = {
            "unsafe": {key: len(cases) for key, cases in pool.unsafe.items()},
            "safe": {name: len(cases) for name, cases in pool.safe.items()},
            "licences": dict(licences),
        }
    return found
