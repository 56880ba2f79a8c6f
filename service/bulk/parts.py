"""An input cut into parts, each of which one worker reads, judges and writes by itself."""

import gzip
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from service.bulk import tables
from service.bulk.job import Job, JobError
from service.bulk.journal import differing, write_whole
from service.bulk.judge import Judge
from service.bulk.results import Counts
from service.bulk.rows import parse
from service.bulk.sources import BOM, DAMAGED, Files, InputError, JsonLines, Parquet, open_file
from tamis.bundle import BundleError

BLOCK: Final = 1 << 20
DONE: Final = "_done"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one file."""

    number: int
    path: str
    first: int
    """Number of its first row in the whole input."""
    skip: int
    """Rows of the file before it."""
    offset: int
    """Bytes of the file before it, where the file can be entered in the middle; else 0."""
    rows: int
    digest: str
    """Of its bytes; of a Parquet file, of what its footer says."""

    def output(self, folder: Path, suffix: str) -> Path:
        """Where its verdicts go."""
        return folder / f"part-{self.number:06}{suffix}"

    def done(self, folder: Path) -> Path:
        """The file that says that they are there, and what was counted."""
        return folder / DONE / f"part-{self.number:06}.json"


def plan(source: Files, part_rows: int, limit: int | None = None) -> list[Part]:
    """Cut every file into parts of at most ``part_rows`` rows, reading JSON lines once for it."""
    parts: list[Part] = []
    first = 0
    for file in source.files:
        cuts = _tables(file, part_rows) if isinstance(file, Parquet) else _lines(file, part_rows)
        skip = 0
        for offset, rows, digest in cuts:
            if limit is not None:
                rows = min(rows, limit - first)
            if rows <= 0:
                return parts
            # A link's own: what it leads to (a blob, named by its hash) may have no suffix.
            path = str(file.path.absolute())
            parts.append(Part(len(parts), path, first, skip, offset, rows, digest))
            first, skip = first + rows, skip + rows
    return parts


def identity(parts: Sequence[Part]) -> str:
    """A digest of all parts but for where the files lie: the same input, cut alike."""
    said = json.dumps([asdict(part) | {"path": Path(part.path).name} for part in parts])
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def _tables(file: Parquet, part_rows: int) -> Iterator[tuple[int, int, str]]:
    with file.path.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.seek(-8 - int.from_bytes(stream.read(4), "little"), os.SEEK_END)
        digest = hashlib.blake2b(stream.read(), digest_size=16).hexdigest()
    for start in range(0, file.total, part_rows):
        yield 0, min(part_rows, file.total - start), digest


def _lines(file: JsonLines, part_rows: int) -> Iterator[tuple[int, int, str]]:
    """Byte offset, rows and digest of each part."""
    gzipped = file.path.suffix == ".gz"
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(file.path.open("rb"))
        if gzipped:
            stream = stack.enter_context(cast("IO[bytes]", gzip.GzipFile(fileobj=stream)))
        start = position = rows = 0
        digest, open_line = hashlib.blake2b(digest_size=16), False
        try:
            while block := stream.read(BLOCK):
                at = 0
                while (lines := block.count(b"\n", at)) >= part_rows - rows:
                    begin = at
                    for _ in range(part_rows - rows):
                        at = block.index(b"\n", at) + 1
                    digest.update(block[begin:at])
                    yield 0 if gzipped else start, part_rows, digest.hexdigest()
                    start, rows = position + at, 0
                    digest = hashlib.blake2b(digest_size=16)
                rows += lines
                digest.update(block[at:])
                position += len(block)
                open_line = not block.endswith(b"\n")
                if position == len(BOM) and block == BOM:
                    open_line = False  # A mark of the byte order is no line.
        except DAMAGED as error:
            raise InputError(f"{file.path}: {error}") from None
        if rows or (open_line and position > start):
            yield 0 if gzipped else start, rows + open_line, digest.hexdigest()


class PartJudge:
    """Judges parts: what an actor of Ray Data holds. Needs no Ray itself."""

    def __init__(self, job: Job, folder: str, pins: Mapping[str, Any], schema: Any) -> None:
        """Note what to do; the classifier is loaded with the first part.

        ``pins`` are what the job began with, ``schema`` the output's columns where it is Parquet.
        """
        self._job = job
        self._folder = Path(folder)
        self._pins = pins
        self._schema = schema

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        if judge := self.__dict__.pop("judge", None):
            judge.close()

    @cached_property
    def judge(self) -> Judge:
        """The judge of this machine.

        Raises:
            BundleError: where a bundle is missing.
            JobError: where this machine's bundles, bands or release of Tamis are others than the
                job began with; names each.
        """
        here = self._job.pins
        if other := [
            f"{name} is {here.get(name)}, the job's {self._pins.get(name)}"
            for name in differing(here, self._pins)
        ]:
            raise JobError(f"{socket.gethostname()}: not as the job began ({'; '.join(other)})")
        return self._job.judge()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Judge parts, given as JSON; returns the counts of each as JSON, or what went wrong.

        What the user can put right is returned: Ray would bury an exception in its own.
        """
        return {"done": [json.dumps(self._reply(Part(**json.loads(p)))) for p in batch["part"]]}

    def _reply(self, part: Part) -> dict[str, Any]:
        try:
            return {"counts": asdict(self.write(part))}
        except (JobError, BundleError, InputError, OSError) as error:
            return {"error": str(error)}

    def write(self, part: Part) -> Counts:
        """Judge one part and write it, as a whole or not at all.

        Raises:
            JobError: where a row ends the job.
            InputError: where the file is no longer what was planned.
        """
        job = self._job
        output = part.output(self._folder, job.format)
        # Of this process alone: Ray may start a part again while a lost worker still writes it.
        lines = self._folder / f".{output.name}.{socket.gethostname()}-{os.getpid()}.tmp"
        counts = Counts()
        file = open_file(Path(part.path), job.columns)
        offset = {} if isinstance(file, Parquet) else {"offset": part.offset}
        raws = file.slice(part.skip, part.rows, **offset)
        rows = (
            parse(number, raw, job.columns, job.max_characters, job.sides)
            for number, raw in enumerate(raws, part.first)
        )
        try:
            with lines.open("wb") as stream:
                for row, verdict in self.judge.run(rows):
                    stream.write(job.line(row, verdict))
                    counts.count(verdict)
                stream.flush()
                os.fsync(stream.fileno())
            if counts.rows != part.rows:
                raise InputError(f"{part.path}: was changed while it was judged")
            if job.format == tables.JSONL:
                lines.replace(output)
            else:
                tables.convert(lines, output, self._schema)
        finally:
            lines.unlink(missing_ok=True)
        write_whole(part.done(self._folder), asdict(counts))
        return counts
