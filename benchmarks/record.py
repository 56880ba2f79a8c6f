"""Results on disk, one JSON file a benchmark, from which ``docs/performance.md`` is made."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from service.engine.cascade import Cascade
from service.engine.ruled import Judging
from service.engine.runtime import available_threads
from tamis import bundle as bundles

RESULTS: Final = Path(__file__).with_name("results")
Row = dict[str, Any]


@dataclass(slots=True)
class Record:
    """What a benchmark found: a title, how to repeat it, prose of one line each, and tables."""

    name: str
    title: str
    command: str
    notes: list[str] = field(default_factory=list)
    tables: list[list[Row]] = field(default_factory=list)
    about: Row = field(default_factory=dict)

    def write(self, served: bundles.Bundle, *, keep: bool = True, **about: str) -> None:
        """Print it and, unless it was a rehearsal, keep it; ``about`` has the last word."""
        self.about = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "bundle": named(served),
            "onnxruntime": ort.__version__,
        } | about
        if keep:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        print(render(asdict(self)))


def named(bundle: bundles.Bundle) -> str:
    """A bundle, as records say it."""
    return f"{bundle.name}@{bundle.fingerprint[:12]}"


def judged_by(classifier: Judging) -> str:
    """Who judges in a tier: of a cascade both."""
    said = named(classifier.bundle)
    if isinstance(classifier, Cascade):
        said += f", {classifier.second.model}@{classifier.second.bundle[:12]}"
    return said


def machine() -> str:
    """Cores that may be used, and their kind."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
    return f"{available_threads()} cores of {cpu}, Python {platform.python_version()}"


def render(record: Row) -> str:
    """A record as Markdown."""
    about = record["about"]
    parts = [f"## {record['title']}", f"    {record['command']}"]
    parts.append(f"{about['date']}, {about['machine']}, `{about['bundle']}`.")
    parts += record["notes"]
    parts += [table(rows) for rows in record["tables"]]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys as a Markdown table."""
    names = list(rows[0])
    head = f"| {' | '.join(names)} |\n|{'--:|' * len(names)}"
    return "\n".join([head, *(f"| {' | '.join(str(row[n]) for n in names)} |" for row in rows)])
