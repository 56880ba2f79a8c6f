"""Finished output in other formats: Parquet for analysis, gzip for keeping."""

import gzip
import json
import os
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service.bulk.rows import Columns, ColumnsError
from service.bulk.sources import PARQUET, Files, Parquet, Source
from tamis.bundle import QUESTIONS, Bundle
from tamis.policy import Policy
from tamis.taxonomy import TOXICITY

if TYPE_CHECKING:
    import pyarrow as pa

JSONL: Final = ".jsonl"
GZIP: Final = ".jsonl.gz"
FORMATS: Final = (JSONL, GZIP, PARQUET)
# About a megabyte of verdicts; memory while converting is a few times that.
GROUP_ROWS: Final = 2_000


def suffix_of(path: Path) -> str:
    """The format of an output by its name.

    Raises:
        ValueError: where it is none of ours.
    """
    for suffix in FORMATS:
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    raise ValueError(f"--output {path}: must end in {', '.join(FORMATS)}, or be '-'")


def convert(lines: Path, output: Path, schema: "pa.Schema | None") -> None:
    """Write a finished file of lines in the output's format; whole or not at all."""
    beside = lines.with_name(f"{lines.name}.tmp")
    if schema is None:
        # Without a time in the header: equal verdicts are equal files.
        with (
            lines.open("rb") as plain,
            beside.open("wb") as stream,
            gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed,
        ):
            shutil.copyfileobj(plain, packed, 1 << 20)
    else:
        _parquet(lines, beside, schema)
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(output)


def _parquet(lines: Path, output: Path, schema: "pa.Schema") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {name for name in ("id",) if schema.field(name).type == pa.string()}
    kept = schema.field("kept").type if "kept" in schema.names else ()
    texts_kept = {field.name for field in kept if field.type == pa.string()}
    with lines.open("rb") as stream, pq.ParquetWriter(output, schema, compression="zstd") as out:
        while group := list(islice(stream, GROUP_ROWS)):
            rows = [json.loads(one) for one in group]
            for row in rows:
                _texts(row, texts)
                _texts(row.get("kept", {}), texts_kept)
            out.write_table(pa.Table.from_pylist(rows, schema))


def _texts(row: dict[str, Any], names: set[str]) -> None:
    """What a column of texts holds of a value that is none: its JSON."""
    for name in names:
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            row[name] = json.dumps(value, ensure_ascii=False)


def schema_of(
    source: Source,
    columns: Columns,
    bundles: Sequence[Bundle],
    policy: Policy,
    evidence: bool,
    twice: bool = False,
) -> "pa.Schema":
    """Columns of the output in Parquet; ``bundles`` are all that may be asked, ``twice`` or not.

    ``id`` and ``kept`` have the types they have in a Parquet input where those are numbers, texts
    or booleans; else they are texts, holding JSON where the value was none.

    Raises:
        ColumnsError: where all columns should be kept of JSON lines, whose columns nobody knows.
    """
    import pyarrow as pa

    files = source.files if isinstance(source, Files) else ()
    tables = [file.schema for file in files if isinstance(file, Parquet)]
    typed = tables if len(tables) == len(files) else []
    if columns.keeps_all and not typed:
        raise ColumnsError("--keep all: JSON lines have no fixed columns; name those to keep")
    keep = dict.fromkeys(n for t in typed for n in t.names) if columns.keeps_all else columns.keep
    real, text, truth = pa.float64(), pa.string(), pa.bool_()
    score = pa.struct({"score": real, "flagged": truth, "threshold": real})
    field = {"flagged": truth, "action": text, "score": real, "threshold": real, "severity": text}
    field["refusal"] = pa.struct({"score": real, "flagged": truth})
    field["transforms"] = pa.list_(text)
    if policy.mode == "score":
        field["withheld"] = text
    if len(bundles) > 1:
        field["model"] = text
    span = {"start": pa.int64(), "end": pa.int64(), "text": text, "category": text}
    found = {
        "row": pa.int64(),
        "id": _type(typed, columns.id),
        "kept": pa.struct({name: _type(typed, name) for name in keep}),
        "flagged": truth,
        "action": text,
        "score": real,
        "threshold": real,
        "severity": text,
        # By the row's own columns, which differ from row to row for conversations.
        "fields": pa.map_(text, pa.struct(field)),
        "categories": pa.struct(dict.fromkeys(_categories(bundles, policy), score)),
        "attack": score,
        "evidence": pa.list_(pa.struct(span | {"score": real, "field": text})),
        "transforms": pa.list_(pa.string()),
        "windows": pa.int64(),
        "tokens": pa.int64(),
        "model": text,
        "policy": text,
        "withheld": text,
        "second_opinion": text,
        "policy_encoder": text,
        "error": pa.struct({"field": text, "message": text}),
    }
    absent = {
        "kept": not keep,
        "categories": not found["categories"].num_fields,  # Parquet has no empty groups.
        "evidence": not evidence,
        "withheld": policy.mode != "score",
        "second_opinion": not twice,
        "policy_encoder": not policy.own,
    }
    return pa.schema({name: kind for name, kind in found.items() if not absent.get(name)})


def _categories(bundles: Sequence[Bundle], policy: Policy) -> list[str]:
    heads = {head.name for bundle in bundles for head in bundle.heads}
    answered = heads - {*QUESTIONS} | {TOXICITY, *policy.own}
    return [name for name in policy.categories if name in answered]


def _type(tables: "Sequence[pa.Schema]", name: str) -> "pa.DataType":
    """The type of a column where all tables agree on one that JSON has, too; else text."""
    import pyarrow as pa

    kinds = {table.field(name).type for table in tables if name in table.names}
    if len(kinds) == 1:
        kind = kinds.pop()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            return kind
    return pa.string()
