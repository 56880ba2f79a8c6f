"""A bulk job on a Ray cluster: parts of the input through Ray Data, to a folder of parts.

Workers read and write files on storage that all of them share; what travels through Ray is where a
part begins, and what was counted in it. So no text gets into Ray's object store, which may spill to
disk. Nor would ``ray.data.read_json`` do: it gives up on the first malformed line, guesses types
block by block, and forgets row numbers.
"""

import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from service.bulk.job import STANDARD, Job, JobError, status
from service.bulk.journal import FORMAT, JournalError, lock, read_job, remove, write_whole
from service.bulk.parts import DONE, Part, PartJudge, identity, plan
from service.bulk.progress import Progress
from service.bulk.results import Counts
from service.bulk.sources import Files, open_source
from service.engine.runtime import available_threads

PART_ROWS: Final = 5_000
LOCAL: Final = "local"
JOB: Final = "_job.json"
LOCK: Final = "_lock"
# Ray's store carries a few hundred bytes a part; by default it takes 30 % of the memory.
STORE_BYTES: Final = 128 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """Where a job runs: ``address`` as ``ray.init`` takes it; None is ``RAY_ADDRESS``, or local."""

    address: str | None = None
    workers: int | None = None
    part_rows: int = PART_ROWS

    @property
    def local(self) -> bool:
        """Whether Ray is to be started here."""
        return (self.address or os.environ.get("RAY_ADDRESS") or LOCAL) == LOCAL


class Interrupted(BaseException):
    """A signal came while Ray was at work."""

    def __init__(self, number: int) -> None:
        self.number = number


def run(job: Job, cluster: Cluster) -> int:
    """Run the job on the cluster, or what is left of it; returns the exit status.

    Raises:
        JobError, JournalError, InputError, ColumnsError, BundleError: each says what to put right.
    """
    if STANDARD in (job.input, job.output):
        raise JobError("--ray: --input and --output must be files or folders that all workers see")
    job.check_paths()
    source = open_source(job.input, job.columns)
    assert isinstance(source, Files)
    schema = job.schema(source)
    folder = Path(job.output).resolve()
    with Progress(sys.stderr, job.quiet) as progress, ExitStack() as stack:
        progress.say("planning the parts …")
        parts = plan(source, cluster.part_rows, job.limit)
        pins = job.pins | {"part_rows": cluster.part_rows, "input": identity(parts)}
        stack.enter_context(_alone(job, folder))
        done = _begin(job, folder, pins, parts)
        counts = Counts()
        for part in parts:
            if part.number in done:
                counts.add(done[part.number])
        left = [part for part in parts if part.number not in done]
        total = sum(part.rows for part in parts)
        if done:
            progress.say(f"going on: {len(done)} of {len(parts)} parts are done")
        progress.update(counts, counts.rows / max(total, 1))
        try:
            judged = _judged(job, cluster, left, folder, schema)
            with _signals(), closing(judged):
                for more in judged if left else ():
                    counts.add(more)
                    progress.update(counts, counts.rows / total)
        except Interrupted as stop:
            where = "; the same command goes on with the parts that are missing"
            progress.say(f"interrupted after {counts.rows:,} rows{where}")
            return 128 + stop.number
        write_whole(folder / JOB, _job_json(pins, complete=True))
        progress.end(counts)
    return status(counts)


def _job_json(pins: dict[str, Any], complete: bool) -> dict[str, Any]:
    return {"format": FORMAT, **pins, "state": {"complete": complete}}


@contextmanager
def _alone(job: Job, folder: Path) -> Iterator[None]:
    """Make the folder where there is none; within, no other job writes into it.

    Raises:
        JournalError: where it is none of ours, or a job writes into it.
    """
    if folder.exists() and not folder.is_dir():
        raise JournalError(f"--output {job.output}: is a file; --ray writes a folder of parts")
    # A job that was killed before it wrote its state leaves these two.
    there = {path.name for path in folder.glob("*")} - {DONE, LOCK}
    if there and JOB not in there and not job.overwrite:
        raise JournalError(f"{job.output} exists; --overwrite writes over its parts")
    (folder / DONE).mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as stream:
        lock(stream, folder)
        yield


def _begin(
    job: Job, folder: Path, pins: dict[str, Any], parts: Sequence[Part]
) -> dict[int, Counts]:
    """Make the folder ready; returns the parts that an earlier run finished, by number."""
    pins = json.loads(json.dumps(pins))
    earlier = None if job.overwrite else read_job(folder / JOB, pins)
    stale = list(folder.glob(".part-*.tmp"))
    if earlier is None:
        stale += [*folder.glob(f"part-*{job.format}"), *(folder / DONE).glob("part-*.json")]
    remove(*stale)
    write_whole(folder / JOB, _job_json(pins, complete=False))
    return {
        part.number: Counts(**json.loads(part.done(folder).read_bytes()))
        for part in parts
        if part.done(folder).exists() and part.output(folder, job.format).exists()
    }


def _judged(
    job: Job, cluster: Cluster, parts: Sequence[Part], folder: Path, schema: Any
) -> Generator[Counts]:
    """Counts of each part as it gets done, in any order."""
    # A tool that lets no text leave must not report its use either, unless somebody wants it to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data
    from ray.exceptions import RayError

    threads = job.threads or 1
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.local:
        cores = max(available_threads(), (cluster.workers or 1) * threads)
        options |= {
            "address": LOCAL,
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    else:
        options["address"] = cluster.address
    # The bundles are loaded, verified and compared anew by every worker.
    bare = dataclasses.replace(job, threads=threads)
    with ray.init(**options):
        # Signals are ours again: Ray takes SIGTERM for itself.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        cores = int(ray.cluster_resources().get("CPU", 1))
        workers = min(cluster.workers or max(cores // threads, 1), len(parts))
        rows = [{"part": json.dumps(dataclasses.asdict(part))} for part in parts]
        counted = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            PartJudge,
            fn_constructor_args=(bare, str(folder), job.pins, schema),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=threads,
        )
        with _signals():
            try:
                for row in counted.iter_rows():
                    reply = json.loads(row["done"])
                    if "error" in reply:
                        raise JobError(reply["error"])
                    yield Counts(**reply["counts"])
            except RayError as error:
                name = type(error).__name__
                raise JobError(f"--ray: a worker failed ({name}); Ray's logs say why") from error


@contextmanager
def _signals() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM raise ``Interrupted``."""

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
