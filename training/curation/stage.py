"""What the stages that drop rows share: reading, resuming, writing, reporting."""

import hashlib
import json
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from tqdm import tqdm

from training.datasets import mixing
from training.datasets.mixing import Variant
from training.datasets.registry import answers_overall
from training.datasets.schema import Row, data_files, read_pairs, write_lines

# Ids that a report names of each kind.
EXAMPLES: Final = 20


class StageError(ValueError):
    """Something about folders or options that the user can put right."""


class Entry(NamedTuple):
    """A row, the line it was read from (a stage passes on what the schema ignores), its file."""

    row: Row
    line: str
    file: str


def read(folders: Sequence[Path], variant: Variant) -> list[Entry]:
    """The rows of a variant in all folders; files of one name get their folder's in front.

    Raises:
        FileNotFoundError: for a folder without rows.
        StageError: where two folders of one name have a file of one name, or no row is left.
    """
    paths = [path for folder in folders for path in data_files(folder)]
    names = Counter(path.name for path in paths)
    found: dict[str, Path] = {}
    for path in paths:
        name = path.name if names[path.name] == 1 else f"{path.resolve().parent.name}-{path.name}"
        if name in found:
            raise StageError(f"{name}: in two folders of one name")
        found[name] = path
    out: list[Entry] = []
    for name, path in found.items():
        for line, row in read_pairs(path):
            if variant == "all" or row.licence in mixing.FREE:
                out.append(Entry(row, line, name))
    if not out:
        raise StageError(f"no row of the variant {variant!r} in {', '.join(map(str, folders))}")
    return out


def prepare(out: Path, entries: Sequence[Entry], folders: Sequence[Path]) -> None:
    """Make the folder, and see to it that nothing else's rows will lie among the stage's own.

    Raises:
        StageError: where the folder is read from, or holds rows that this run would not replace.
    """
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise StageError(f"{out} is read from: give another --out")
    out.mkdir(parents=True, exist_ok=True)
    others = {path.name for path in out.glob("*.jsonl.gz")} - {entry.file for entry in entries}
    if others:
        raise StageError(f"{out} holds {min(others)}, which is not of this run")
    if any(out.glob("*.jsonl.gz")) and not (out / "report.json").exists():
        raise StageError(f"{out} holds rows, but no report of a stage: give another --out")


def finish(
    out: Path, entries: Sequence[Entry], kept: np.ndarray, report: dict[str, Any], began: float
) -> dict[str, Any]:
    """Save the report, then the lines that are kept (n,) bool to files of their names.

    Rows last: ``prepare`` takes those without a report for somebody else's, and a run that was
    stopped between the two could not be made again.
    """
    save_report(out, report, began)
    files: dict[str, list[str]] = {entry.file: [] for entry in entries}
    for entry, keep in zip(entries, kept, strict=True):
        if keep:
            files[entry.file].append(entry.line)
    for name, lines in files.items():
        write_lines(out / name, lines)
    return report


def asked(rows: Sequence[Row]) -> np.ndarray:
    """(n,) bool: whose label answers the overall question of its target.

    The others say something else (an injection's label does not say what it asks for), so neither
    a loss nor a judge can hold it against them.
    """
    return np.array([answers_overall(row) for row in rows])


def in_shards(
    rows: Sequence[Row],
    work: Callable[[Sequence[Row]], np.ndarray],
    cache: Path,
    identity: str,
    about: str,
    size: int = 2048,
) -> np.ndarray:
    """``work`` of all rows, (n,), a shard at a time; what ``cache`` holds is not done again.

    ``identity`` says what the work depends on besides ids, labels and texts.
    """
    found = []
    bar = tqdm(total=len(rows), desc=about, unit="row")
    for at in range(0, len(rows), size):
        shard = rows[at : at + size]
        digest = hashlib.sha256(identity.encode())
        for row in shard:
            texts = f"{row.id}\0{row.target}\0{row.label}\0{row.prompt}\0{row.response}"
            digest.update(hashlib.sha256(texts.encode()).digest())
        path = cache / f"{digest.hexdigest()[:24]}.npy"
        if path.exists():
            found.append(np.load(path))
        else:
            found.append(work(shard))
            cache.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as stream:
                np.save(stream, found[-1])
            unfinished.rename(path)
        bar.update(len(shard))
    bar.close()
    return np.concatenate(found) if found else np.zeros(0)


def save_report(out: Path, report: dict[str, Any], began: float) -> dict[str, Any]:
    """Write ``report.json``, with the wall-clock time since ``began`` and the peak memory."""
    report["seconds"] = round(time.monotonic() - began, 1)
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def counts_by(rows: Sequence[Row], chosen: np.ndarray) -> dict[str, dict[str, dict[str, int]]]:
    """How many rows there are, and how many are chosen (n,) bool, by source, target and label."""
    out: dict[str, dict[str, dict[str, int]]] = {}
    for name in ("source", "target", "label"):
        values = [str(getattr(row, name)) for row in rows]
        total = Counter(values)
        some = Counter(value for value, one in zip(values, chosen, strict=True) if one)
        out[name] = {v: {"rows": total[v], "chosen": some[v]} for v in sorted(total)}
    return out
