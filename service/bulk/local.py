"""A bulk job on this machine: one process, all cores, one output file."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Protocol, cast

from service.bulk import tables
from service.bulk.job import STANDARD, Job, status
from service.bulk.journal import Journal, JournalError, State, read_job, remove
from service.bulk.progress import Progress
from service.bulk.rows import Raw, Row, parse
from service.bulk.sources import Source, open_source
from service.bulk.stopping import Stop, stoppable

END: Final = object()


class Output(Protocol):
    """Where lines go, and how far the job is."""

    state: State

    def append(self, line: bytes) -> None:
        """Write a line."""

    def save_now_and_then(self) -> None:
        """Make what was written survive, not more often than is cheap."""

    def close(self) -> None:
        """Make what was written survive, and end."""


class Standard:
    """Standard output: nothing to go on with later, but every line is out at once."""

    def __init__(self) -> None:
        self.state = State()

    def append(self, line: bytes) -> None:
        """Write a line."""
        sys.stdout.buffer.write(line)

    def save_now_and_then(self) -> None:
        """Hand on what was written."""
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Nothing is left to do."""


class Feed:
    """The rows that are still to be judged."""

    def __init__(self, source: Source, job: Job) -> None:
        self._raws = source.rows()
        self._job = job
        self.taken = 0
        self.ended = False

    def close(self) -> None:
        """Close what is read."""
        cast("Any", self._raws).close()

    def skip(self, state: State, stop: Stop) -> None:
        """Pass over the rows that were judged, making sure that they are the same.

        Where the job is stopped meanwhile, the feed stands short of them, and must not be judged.

        Raises:
            JournalError: where they are not.
        """
        seen = State()
        while seen.rows < state.rows and not stop():
            raw = next(self._raws, END)
            if isinstance(raw, Raw):
                seen.take(raw.digest())
            elif raw is END:
                raise JournalError(
                    f"the input has {seen.rows} rows, but {state.rows} were judged: it is another "
                    "input; --overwrite begins anew"
                )
        if not stop() and seen.digest != state.digest:
            raise JournalError(
                f"the first {state.rows} rows of the input are not those that were judged; "
                "--overwrite begins anew"
            )
        self.taken = seen.rows

    def __iter__(self) -> Iterator[Row | None]:
        """Rows up to the limit, and None while there is none yet."""
        job = self._job
        while job.limit is None or self.taken < job.limit:
            try:
                raw = next(self._raws)
            except StopIteration:
                break
            if raw is None:
                yield None
                continue
            self.taken += 1
            yield parse(self.taken - 1, raw, job.columns, job.max_characters, job.sides)
        self.ended = True


def run(job: Job) -> int:
    """Run the job, or what is left of it; returns the exit status.

    Raises:
        JobError, JournalError, InputError, ColumnsError, BundleError: each says what to put right.
    """
    job.check_paths()
    with stoppable() as stop, Progress(sys.stderr, job.quiet) as progress, ExitStack() as stack:
        source = open_source(job.input, job.columns)
        feed = stack.enter_context(closing(Feed(source, job)))
        if job.output == STANDARD:
            return _piped(job, source, feed, stop, progress)
        return _written(job, source, feed, stop, progress)


def _piped(job: Job, source: Source, feed: Feed, stop: Stop, progress: Progress) -> int:
    output = Standard()
    finished = _judge(job, source, feed, output, stop, progress)
    return _end(output.state, stop, progress, finished, "")


def _written(job: Job, source: Source, feed: Feed, stop: Stop, progress: Progress) -> int:
    path = Path(job.output)
    direct = job.format == tables.JSONL
    schema = job.schema(source)
    lines = path if direct else path.with_name(f"{path.name}.partial")
    state_path = path.with_name(f"{path.name}.job.json")
    if not direct and not job.overwrite and path.exists() and not lines.exists():
        return _finished(job, state_path, feed, stop, progress)
    with Journal(lines, state_path, job.pins, job.overwrite) as journal:
        state = journal.state
        if not direct and job.overwrite:
            remove(path)  # Or the next run could not tell it from the one that is to come.
        if state.rows:
            progress.say(f"going on after {state.rows:,} rows; making sure they are the same …")
        feed.skip(state, stop)
        state.complete = False
        finished = not stop() and _judge(job, source, feed, journal, stop, progress)
        if finished and not direct:
            journal.save()
            tables.convert(lines, path, schema)
        state.complete = finished
        if finished and not direct:
            # While they are held: another run would go on with lines that are about to go.
            journal.save()
            remove(lines)
    given = ", given the same input," if job.input == STANDARD else ""
    how = f"; the same command{given} goes on from there"
    return _end(state, stop, progress, finished, how)


def _finished(job: Job, state_path: Path, feed: Feed, stop: Stop, progress: Progress) -> int:
    """There is an output as a whole: the very one that was asked for, or in the way."""
    state = read_job(state_path, job.pins)
    if state is None or not state.complete:
        raise JournalError(f"{job.output} exists; --overwrite writes over it")
    feed.skip(state, stop)
    # A pipe may keep one waiting for ever.
    if any(row is not None for row in takewhile(lambda _: not stop(), feed)):
        raise JournalError(
            f"{job.output} is finished with {state.rows} rows, the input has more now: judge the "
            "others into another output, or all of them with --overwrite"
        )
    return _end(state, stop, progress, not stop(), "")


def _judge(
    job: Job, source: Source, feed: Feed, output: Output, stop: Stop, progress: Progress
) -> bool:
    """Judge what is left; returns whether that was everything."""
    state = output.state
    with job.judge() as judge:
        progress.update(state.counts, source.fraction())
        for row, verdict in judge.run(feed, stop):
            output.append(job.line(row, verdict))
            state.take(row.digest)
            state.counts.count(verdict)
            output.save_now_and_then()
            progress.update(state.counts, source.fraction())
    return feed.ended and state.rows == feed.taken


def _end(state: State, stop: Stop, progress: Progress, finished: bool, how: str) -> int:
    if not finished:
        progress.say(f"interrupted after {state.rows:,} rows{how}")
        return stop.status
    progress.end(state.counts)
    return status(state.counts)
