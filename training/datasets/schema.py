"""The one data schema: a JSON object a line, gzipped, for every training and evaluation set."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Target = Literal["prompt", "response", "text"]


class SchemaError(ValueError):
    """A row that is not in the schema; the message names file, line and field, never the text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text. ``label`` is 1 unsafe, 0 safe, under the source's own policy."""

    id: str
    source: str
    target: Target
    label: int
    prompt: str
    response: str | None
    categories: tuple[str, ...]
    licence: str | None

    @property
    def judged(self) -> str:
        """The text that the label judges."""
        return self.response if self.response is not None else self.prompt


def parse_row(line: str, where: str) -> Row:
    """Read one JSON line.

    Raises:
        SchemaError: naming ``where`` and the field that is missing or wrong.
    """
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise SchemaError(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(raw, dict):
        raise SchemaError(f"{where}: not a JSON object")
    for field in ("id", "source", "target", "label", "prompt"):
        if field not in raw:
            raise SchemaError(f"{where}: field {field!r} is missing")
    if raw["target"] not in get_args(Target):
        raise SchemaError(f"{where}: field 'target' must be one of {', '.join(get_args(Target))}")
    if raw["label"] not in (0, 1):
        raise SchemaError(f"{where}: field 'label' must be 0 or 1")
    response = raw.get("response")
    if not isinstance(response, str | None):
        raise SchemaError(f"{where}: field 'response' must be a text or null")
    return Row(
        id=str(raw["id"]),
        source=str(raw["source"]),
        target=raw["target"],
        label=int(raw["label"]),
        prompt=str(raw["prompt"] or ""),
        # A model may have answered nothing at all, which is still a response.
        response=(response or "") if raw["target"] == "response" else None,
        categories=tuple(str(c) for c in raw.get("categories") or ()),
        licence=raw.get("licence"),
    )


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one ``*.jsonl.gz`` file in order.

    Raises:
        SchemaError: on the first line that is not in the schema.
    """
    return (row for _, row in read_pairs(path))


def read_pairs(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield each line with its row, for stages that pass on fields which the schema ignores.

    Raises:
        SchemaError: on the first line that is not in the schema.
    """
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield line.rstrip("\n"), parse_row(line, f"{path.name} line {number}")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write JSON lines (without their ends) as one ``*.jsonl.gz`` file: whole, or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    with gzip.open(unfinished, "wt", encoding="utf-8") as stream:
        stream.writelines(line + "\n" for line in lines)
    unfinished.rename(path)


def data_files(directory: Path) -> list[Path]:
    """The ``*.jsonl.gz`` files of a directory, by name.

    Raises:
        FileNotFoundError: where there is none.
    """
    found = sorted(directory.glob("*.jsonl.gz"))
    if not found:
        raise FileNotFoundError(f"no *.jsonl.gz file in {directory}")
    return found


def fingerprint(rows: list[Row]) -> str:
    """SHA-256 over the ids and labels of the rows, in order: which data a model has seen."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.source}\t{row.id}\t{row.label}\n".encode())
    return digest.hexdigest()
