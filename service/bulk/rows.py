"""What a row of a file is: the texts to judge, its id, and what passes through."""

import dataclasses
import hashlib
import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from service.dialects.halves import mended
from service.dialects.native import TAGS, Item, contents_of
from service.errors import from_validation
from tamis.content import Content, NotThereError, Side, judged

ITEM: Final = TypeAdapter[Any](Item)
# Of a row that has several of them, one must be named: none may go unjudged without a word.
SHAPES: Final = ("messages", "prompt", "text")
FIELDS: Final = ("prompt", "response", "messages", "text")
ALL: Final = "all"
# A number, say of an embedding, beside characters.
SCALAR: Final = 8
ID: Final = "id"


class ColumnsError(ValueError):
    """Columns that were named and cannot be used."""


class RowError(Exception):
    """A row that cannot be judged; says which field is at fault, and never quotes the row."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are judged, and as what; which one is the id; which ones pass through.

    Where none of the four is named, the names of ``POST /moderate`` hold. Where one is, only those
    named are read: a column that happens to be called "text" is then none of our business.
    """

    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    text: str | None = None
    id: str = ID
    keep: Sequence[str] = ()

    @property
    def judged(self) -> dict[str, str]:
        """Field of an item -> column of the row."""
        named = {field: getattr(self, field) for field in FIELDS if getattr(self, field)}
        if "response" in named:
            named.setdefault("prompt", "prompt")
        return named or {field: field for field in FIELDS}

    @property
    def keeps_all(self) -> bool:
        """Whether every column passes through."""
        return tuple(self.keep) == (ALL,)

    def read(self, available: Sequence[str]) -> list[str] | None:
        """Columns to read of a table that has these; None reads all.

        Raises:
            ColumnsError: naming a column that was asked for and is not there, or is there twice.
        """
        named = any(getattr(self, field) for field in FIELDS)
        judged = list(self.judged.values())
        asked = [*(judged if named else ()), *(() if self.keeps_all else self.keep)]
        if self.id != ID:
            asked.append(self.id)
        if missing := [column for column in asked if column not in available]:
            raise ColumnsError(f"there is no column {missing[0]!r}; known: {', '.join(available)}")
        if not set(judged) & set(available):
            raise ColumnsError(
                f"there is no column {', '.join(judged)}; name one with --text-field, "
                f"--prompt-field, …; known: {', '.join(available)}"
            )
        wanted = {*(available if self.keeps_all else self.keep), *judged, self.id}
        read = [name for name in available if name in wanted]
        if twice := [name for name, count in Counter(read).items() if count > 1]:
            # Of a row the last one alone would be read.
            raise ColumnsError(f"there is more than one column {twice[0]!r}")
        return None if self.keeps_all else read


@dataclass(frozen=True, slots=True)
class Raw:
    """A row as it was read: a line of JSON, a mapping from a table, or a line nobody can hold."""

    payload: bytes | Mapping[str, Any] | RowError

    def digest(self) -> bytes:
        """16 bytes that tell it from other rows; of a line too long to hold, its message."""
        payload = self.payload
        if isinstance(payload, RowError):
            said = str(payload).encode()
        elif isinstance(payload, bytes):
            said = payload
        else:
            said = json.dumps(payload, default=str).encode()
        return hashlib.blake2b(said, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what to judge, or why it cannot be judged."""

    number: int
    """From 0, over all files of the input."""
    id: Any
    kept: Mapping[str, Any]
    contents: tuple[Content, ...]
    error: RowError | None
    digest: bytes

    @property
    def characters(self) -> int:
        """Size of what is held of it: texts, what they are read behind, and what passes through."""
        texts = sum(len(c.text) + len(c.context or "") for c in self.contents)
        return texts + _size(self.id) + _size(self.kept)


def parse(
    number: int,
    raw: Raw,
    columns: Columns,
    max_characters: int,
    sides: Collection[Side] | None = None,
) -> Row:
    """Read a row; what is wrong with it becomes part of it. ``sides`` are those that are judged."""
    digest = raw.digest()
    name: Any = None
    kept: dict[str, Any] = {} if columns.keeps_all else dict.fromkeys(columns.keep)
    try:
        value = _value(raw)
        if isinstance(value, Mapping):
            name = plain(value.get(columns.id))
            names = value if columns.keeps_all else columns.keep
            kept = {column: plain(value.get(column)) for column in names}
        contents = _contents(value, columns.judged)
        for content in contents:
            if len(content.text) > max_characters:
                raise RowError(
                    content.field,
                    f"{len(content.text)} characters are over the limit of {max_characters}",
                )
        contents = judged(contents, sides)
    except NotThereError as error:
        return Row(number, name, kept, (), RowError(None, f"the row {error}"), digest)
    except RowError as error:
        return Row(number, name, kept, (), error, digest)
    return Row(number, name, kept, contents, None, digest)


def _value(raw: Raw) -> Any:
    payload = raw.payload
    if isinstance(payload, RowError):
        raise payload
    if not isinstance(payload, bytes):
        return payload
    if not payload.strip():
        raise RowError(None, "the line is empty")
    try:
        try:
            return from_json(payload, allow_inf_nan=False)
        except ValueError:
            # Half of a surrogate pair is read as requests read it.
            return from_json(mended(payload), allow_inf_nan=False)
    except ValueError as error:
        raise RowError(None, f"the line is not JSON: {error}") from None


def _contents(value: Any, judged: Mapping[str, str]) -> tuple[Content, ...]:
    if isinstance(value, str):
        return contents_of(value)
    if not isinstance(value, Mapping):
        named = ", ".join(judged.values())
        raise RowError(None, f"the row must be a text, or have one of the columns {named}")
    # A table has every column in every row: null says that this row has none.
    item = {field: value[c] for field, c in judged.items() if value.get(c) is not None}
    shapes = [field for field in SHAPES if field in item]
    if len(shapes) > 1:
        one, other = (judged[field] for field in shapes[:2])
        raise RowError(None, f"the row has both {one!r} and {other!r}; name the one to judge")
    if not item:
        raise RowError(None, f"the row has none of the columns {', '.join(judged.values())}")
    try:
        contents = contents_of(ITEM.validate_python(item))
    except ValidationError as error:
        fault = from_validation(error, TAGS)
        where = None if fault.param is None else _column(fault.param, judged)
        message = fault.message.removeprefix(f"{fault.param or 'body'}: ")
        raise RowError(where, message) from None
    return tuple(dataclasses.replace(c, field=_column(c.field, judged)) for c in contents)


def _column(path: str, judged: Mapping[str, str]) -> str:
    """A path in the item (``messages[0].content``) as a path in the row."""
    end = min((at for at in (path.find("["), path.find(".")) if at >= 0), default=len(path))
    return judged.get(path[:end], path[:end]) + path[end:]


def _size(value: Any) -> int:
    """About as many characters as a value takes the memory of."""
    match value:
        case None:
            return 0
        case str():
            return len(value)
        case Mapping():
            return sum(len(key) + _size(item) for key, item in value.items())
        case list():
            return sum(map(_size, value))
    return SCALAR


def plain(value: Any) -> Any:
    """A value of a table as JSON can carry it: times in ISO 8601, bytes in base64, NaN as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
