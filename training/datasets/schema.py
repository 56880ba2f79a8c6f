"""The one data schema: a JSON object a line, gzipped, for every training and evaluation set."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tamis.content import behind

Target = Literal["prompt", "response", "text", "document"]
Stance = Literal["refuses", "deflects", "complies"]


class SchemaError(ValueError):
    """A row that is not in the schema; the message names file, line and field, never the text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text. ``label`` is 1 unsafe, 0 safe, under the source's own policy.

    A row with a ``severity`` (0 safe, 1 borderline, 2 unsafe; ``label`` is 1 only for 2) was read
    under this project's own guide: its categories are our names, and complete.
    """

    id: str
    source: str
    target: Target
    label: int
    prompt: str
    response: str | None
    categories: tuple[str, ...]
    licence: str | None
    severity: int | None = None
    stance: Stance | None = None
    """What an answer does with its request."""
    attack: bool | None = None
    """Whether the text tries to make a model break its rules; None where that was not judged."""
    group: str | None = None
    """Twins and neighbours share a group, and never straddle a split."""
    replaces: str | None = None
    """The id of the row whose label this one supersedes."""
    lang: str | None = None
    """ISO 639-1, where it is not English."""
    context: tuple[str, ...] = ()
    """Earlier turns of the conversation, in whose light the text was judged."""

    @property
    def english(self) -> bool:
        """Whether it is in English."""
        return self.lang in (None, "en")

    @property
    def read(self) -> bool:
        """Whether it was read under this project's guide; documents are for attack alone."""
        return self.severity is not None or self.target == "document"

    @property
    def behind(self) -> str | None:
        """What the judged text is read behind, as serving makes it: ``tamis.content``."""
        if self.target == "document":
            # What the user had asked is read whole.
            return "\n".join(self.context) or None
        return behind(self.context, self.prompt if self.target == "response" else None)

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
    raw = _flat(raw, where)
    for field in ("id", "source", "target", "label", "prompt"):
        if field not in raw:
            raise SchemaError(f"{where}: field {field!r} is missing")
    if raw["target"] not in get_args(Target):
        raise SchemaError(f"{where}: field 'target' must be one of {', '.join(get_args(Target))}")
    if raw["label"] not in (0, 1):
        raise SchemaError(f"{where}: field 'label' must be 0 or 1")
    if raw.get("severity") not in (None, 0, 1, 2):
        raise SchemaError(f"{where}: field 'severity' must be 0, 1 or 2")
    if raw.get("stance") not in (None, *get_args(Stance)):
        raise SchemaError(f"{where}: field 'stance' must be one of {', '.join(get_args(Stance))}")
    response = raw.get("response")
    if not isinstance(response, str | None):
        raise SchemaError(f"{where}: field 'response' must be a text or null")
    context = _turns(raw.get("context") or [], "context", where)
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
        severity=raw.get("severity"),
        stance=raw.get("stance"),
        attack=raw.get("attack"),
        group=raw.get("group"),
        replaces=raw.get("replaces"),
        lang=raw.get("lang"),
        context=tuple(str(turn["content"]) for turn in context),
    )


def _turns(given: Any, field: str, where: str) -> list[dict[str, Any]]:
    """What was said before, or all of a conversation, seen to be what it should."""
    if isinstance(given, list) and all(isinstance(t, dict) and "content" in t for t in given):
        return given
    raise SchemaError(f"{where}: field {field!r} must be turns, each with a 'content'")


def _flat(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """A conversation whose last turn is judged, or what a tool returned, as a row.

    Both are written by this project, which gives them away.
    """
    if "messages" in raw and "judge" in raw:
        if not (turns := _turns(raw["messages"], "messages", where)):
            raise SchemaError(f"{where}: field 'messages' is empty")
        *context, last = turns
        turn = {"target": raw["judge"], "prompt": last["content"]}
        if raw["judge"] == "response":
            turn["response"] = last["content"]
            turn["prompt"] = context.pop()["content"] if context else ""
        return {"licence": "permissive", **raw, **turn, "context": context}
    if "document" in raw:
        asked = [{"content": raw["user"]}] if raw.get("user") else []
        judged = {"target": "document", "prompt": raw["document"], "context": asked}
        return {"licence": "permissive", "label": int(bool(raw.get("attack"))), **raw, **judged}
    return raw


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
