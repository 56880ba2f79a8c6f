"""Where rows come from: JSON lines, plain or gzipped, Parquet, folders of them, standard input.

``rows()`` gives every row from the first one on. Where it gives None, there is no row yet: time to
see to what is done. ``fraction()`` is how much was read, 0 to 1, or None where nobody knows.
"""

import gzip
import os
import select
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from service.bulk.rows import Columns, Raw, RowError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET: Final = ".parquet"
SUFFIXES: Final = (".jsonl", ".jsonl.gz", PARQUET)
BLOCK: Final = 1 << 16
BOM: Final = b"\xef\xbb\xbf"
# Four times the service's own limit of a body; a longer line is read past, never held in memory.
MAX_LINE: Final = 16 << 20
PARQUET_BATCH: Final = 256
# What gzip raises where its data ends early, is none, or is damaged.
DAMAGED: Final = (EOFError, gzip.BadGzipFile, zlib.error)
POLL_SECONDS: Final = 0.05
# What comes of text that is not UTF-8, times beyond the year 9999, time zones that there are not.
UNREADABLE: Final = (ArithmeticError, LookupError, ValueError)


class InputError(ValueError):
    """An input that cannot be read at all."""


class JsonLines:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = max(path.stat().st_size, 1)
        self._stream: IO[bytes] | None = None
        self._read = 0.0

    def rows(self) -> Iterator[Raw | None]:
        """Every row from the first one on."""
        return self.slice(0)

    def slice(self, first: int, count: int | None = None, offset: int = 0) -> Iterator[Raw]:
        """``count`` rows from ``first``, which starts at byte ``offset`` of a plain file."""
        gzipped = self.path.suffix == ".gz"
        with ExitStack() as stack:
            self._stream = stream = stack.enter_context(self.path.open("rb"))
            lines: IO[bytes] = stream
            if gzipped:
                lines = stack.enter_context(cast("IO[bytes]", gzip.GzipFile(fileobj=stream)))
            elif offset:
                stream.seek(offset)
                first = 0
            stop = None if count is None else first + count
            found = split(iter(lambda: lines.read(BLOCK), b""), bom=not offset)
            try:
                yield from (raw for raw in islice(found, first, stop) if raw is not None)
            except DAMAGED as error:
                raise InputError(f"{self.path}: {error}") from None
            finally:
                self._stream, self._read = None, 1.0

    def fraction(self) -> float:
        """How much of it was read, 0 to 1."""
        stream = self._stream
        return self._read if stream is None else min(stream.tell() / self._size, 1.0)


class Parquet:
    """A Parquet file, of which only the columns that are needed are read."""

    def __init__(self, path: Path, columns: Columns) -> None:
        """Read the footer.

        Raises:
            InputError: where it is not Parquet, or lacks a column that was named.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                self.schema = file.schema_arrow
                metadata = file.metadata
                self.groups = [metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            self._columns = columns.read(self.schema.names)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise InputError(f"{path}: {error}") from None
        self.total: int = sum(self.groups)
        self._read = 0

    def rows(self) -> Iterator[Raw | None]:
        """Every row from the first one on."""
        return self.slice(0)

    def slice(self, first: int, count: int | None = None) -> Iterator[Raw]:
        """``count`` rows from ``first``; row groups without any of them are not read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        stop = self.total if count is None else min(first + count, self.total)
        chosen: list[int] = []
        start = skip = 0
        for group, size in enumerate(self.groups):
            if start < stop and start + size > first:
                skip = skip if chosen else first - start
                chosen.append(group)
            start += size
        # Buffered and not fetched ahead: memory does not grow with the size of a row group.
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            batches = file.iter_batches(PARQUET_BATCH, row_groups=chosen, columns=self._columns)
            found = (raw for batch in batches for raw in _rows(batch))
            chosen_rows = islice(found, skip, skip + max(stop - first, 0))
            try:
                for number, raw in enumerate(chosen_rows, first):
                    self._read = number + 1
                    yield raw
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{self.path}: {error}") from None

    def fraction(self) -> float:
        """How much of it was read, 0 to 1."""
        return self._read / max(self.total, 1)


def _rows(batch: "pa.RecordBatch") -> list[Raw]:
    """The rows of a table; one with a value that Python cannot hold is at fault by itself."""
    import pyarrow as pa

    batch = batch.cast(pa.schema([f.with_type(_held(f.type)) for f in batch.schema]), safe=False)
    try:
        return [Raw(row) for row in batch.to_pylist()]
    except UNREADABLE:
        return [_row(batch.slice(n, 1)) for n in range(batch.num_rows)]


def _held(kind: "pa.DataType") -> "pa.DataType":
    """Python's own times end at microseconds; what is finer would need pandas."""
    import pyarrow as pa

    if getattr(kind, "unit", None) != "ns":
        return kind
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")


def _row(batch: "pa.RecordBatch") -> Raw:
    """The one row of a batch."""
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[0].as_py()
        except UNREADABLE as error:
            return Raw(RowError(name, f"the value cannot be read: {type(error).__name__}"))
    return Raw(row)


class Files:
    """Files one after the other; rows are numbered through."""

    def __init__(self, files: Sequence[JsonLines | Parquet]) -> None:
        self.files = files
        self._sizes = [max(file.path.stat().st_size, 1) for file in files]
        self._total = sum(self._sizes)
        self._current = self._before = 0

    def rows(self) -> Iterator[Raw | None]:
        """Every row from the first one on."""
        for number, file in enumerate(self.files):
            self._current, self._before = number, sum(self._sizes[:number])
            with closing(cast("Any", file.rows())) as rows:
                yield from rows

    def fraction(self) -> float:
        """How much of it was read, 0 to 1."""
        current = self._current
        read = self._before + self._sizes[current] * self.files[current].fraction()
        return read / self._total


class Pipe:
    """JSON lines from a file descriptor that may keep one waiting, such as standard input."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def rows(self) -> Iterator[Raw | None]:
        """Every row from the first one on, and None while there is none."""
        return split(self._blocks())

    def fraction(self) -> None:
        """Nobody knows how much is to come."""

    def _blocks(self) -> Iterator[bytes | None]:
        while True:
            ready, _, _ = select.select([self._descriptor], [], [], POLL_SECONDS)
            if not ready:
                yield None
            elif block := os.read(self._descriptor, BLOCK):
                yield block
            else:
                return


def split(blocks: Iterable[bytes | None], bom: bool = True) -> Iterator[Raw | None]:
    """Cut blocks into lines; a line over ``MAX_LINE`` is read past, and reported in its place."""
    held, dropped = bytearray(), 0
    for block in blocks:
        if block is None:
            yield None
            continue
        if bom and not held and not dropped:
            block = block.removeprefix(BOM)
        bom = False
        held += block
        if b"\n" in block:
            *lines, rest = bytes(held).split(b"\n")
            for line in lines:
                yield _line(line, dropped)
                dropped = 0
            held = bytearray(rest)
        if len(held) > MAX_LINE:
            dropped += len(held)
            held.clear()
    if held or dropped:
        yield _line(bytes(held), dropped)


def _line(line: bytes, dropped: int) -> Raw:
    if dropped + len(line) > MAX_LINE:
        length = dropped + len(line)
        return Raw(RowError(None, f"{length} bytes of a line are over the limit of {MAX_LINE}"))
    return Raw(line.removesuffix(b"\r"))


Source = Files | Pipe


def open_source(path: str, columns: Columns) -> Source:
    """The rows of ``-`` (standard input), a file, or every data file in a folder, by name.

    Raises:
        InputError: where there is nothing to read, or nothing that is understood.
    """
    if path == "-":
        return Pipe(0)
    return Files([open_file(file, columns) for file in data_files(Path(path))])


def data_files(path: Path) -> list[Path]:
    """The file, or the data files in a folder and below, sorted by path.

    Names that start with a dot or an underscore are left out, as Spark, Arrow and DuckDB do.

    Raises:
        InputError: where there is none.
    """
    known = ", ".join(SUFFIXES)
    if path.is_dir():
        found = [
            file
            for file in sorted(path.rglob("*"))
            # A table that Spark or a cluster of ours wrote is a folder of that name.
            if file.name.endswith(SUFFIXES)
            and not file.is_dir()
            and not any(part[0] in "._" for part in file.relative_to(path).parts)
        ]
        if not found:
            raise InputError(f"--input {path}: no file in it ends in {known}")
        return found
    if not path.is_file():
        raise InputError(f"--input {path}: there is no such file or folder")
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"--input {path}: must end in {known}; other JSON lines can be piped in")
    return [path]


def open_file(path: Path, columns: Columns) -> JsonLines | Parquet:
    """A data file by its suffix."""
    return Parquet(path, columns) if path.suffix == PARQUET else JsonLines(path)
