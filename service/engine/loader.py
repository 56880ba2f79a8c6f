"""Where classifiers live: in this process, or in workers of its own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from service.engine.classifier import Classifier
from service.engine.judging import Hands, InProcess, Served
from service.engine.providers import load_runtime
from service.engine.runtime import Provider, available_memory, available_threads
from service.engine.warmup import Pace, warm_up
from service.engine.workers.calls import Slot
from service.engine.workers.crew import Crew, CrewEvents
from tamis import bundle as bundles

Workers = int | Literal["auto"]
# On fewer cores the processes' own share of them is worth more than a lock without waiting.
FEWEST_CORES: Final = 4
# Of a prompt worker and a patient one, with the activations of the accurate tier.
PAIR_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Running:
    """What runs the classifiers: the provider really got, cores, and runs at the same time."""

    provider: str
    threads: int
    runs: int


class Loader:
    """Loads bundles where they are to be served, and knows who serves them."""

    def __init__(
        self,
        provider: Provider = "cpu",
        threads: int | None = None,
        runs: int | None = None,
        workers: int = 0,
        cores: Sequence[int] = (),
        events: CrewEvents | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            provider: of this process.
            threads: cores to compute on; default: those that the process may use.
            runs: at the same time, in this process; default: as many as use it best.
            workers: processes to judge in instead; 0 is this one.
            cores: for the workers to stay on.
            events: hears of workers.
        """
        self._provider, self._threads, self._runs = provider, threads, runs
        self._workers, self._cores, self._events = workers, cores, events
        self._running: Running | None = None
        self.crew: Crew | None = None
        """The workers, where there are to be any and something is loaded."""

    @property
    def hands(self) -> Hands:
        """Who works for an engine."""
        return self.crew or InProcess()

    @property
    def running(self) -> Running:
        """What runs what was loaded first."""
        assert self._running is not None
        return self._running

    def load(self, path: Path, slot: Slot = "first") -> tuple[Served, Pace]:
        """A classifier on the configured provider, and what warm-up measured.

        Raises:
            BundleError, ProviderError: where the bundle or the provider is not usable.
            LostError: where loading it ends the process that does.
        """
        bundle = bundles.load(path)
        if self._workers:
            if self.crew is None:
                self.crew = Crew(self._workers, self._cores, self._events)
            running = Running("CPUExecutionProvider", self._workers, self._workers)
            self._running = self._running or running
            return self.crew.load(slot, bundle)
        runtime = load_runtime(bundle.graph, self._provider, self._threads)
        running = Running(runtime.provider, runtime.threads, self._runs or runtime.workers)
        self._running = self._running or running
        classifier = Classifier(bundle, runtime)
        return classifier, warm_up(classifier)

    def halt(self) -> None:
        """Load nothing more in workers, and give up what is being loaded there."""
        if self.crew is not None:
            self.crew.halt()

    def close(self) -> None:
        """End the workers."""
        if self.crew is not None:
            self.crew.close()


def workers_of(asked: Workers, provider: Provider, threads: int | None) -> int:
    """How many workers; ``auto``: one a core where there are several, and memory for all."""
    if asked != "auto":
        return asked
    cores = threads or available_threads()
    if provider != "cpu" or cores < FEWEST_CORES:
        return 0
    return min(cores, available_memory() // PAIR_BYTES)


def own_cores(workers: int, pinned: bool | None) -> list[int]:
    """A core for each worker to stay on, or none.

    By default only where the process was given cores of the machine (``taskset``, Kubernetes'
    static CPU manager): on others somebody else may be, and who stays waits for them.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    given = sorted(os.sched_getaffinity(0))
    if pinned is None:
        pinned = len(given) < (os.cpu_count() or 1)
    return given[:workers] if pinned and workers <= len(given) else []
