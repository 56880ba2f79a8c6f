"""CPU of a request by stage at saturation, for each tier that is there: a table and a flame graph.

    tamis bench profile [--accurate BUNDLE]

How much CPU each thread had is the kernel's account; what it was spent on, the samples that py-spy
took of it while it was ready to run. A second pass samples idle threads, too: one that is in the
middle of its work for longer than it is on a core waits for Python's lock, another lock, or a core.
"""

import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import load, tiers
from benchmarks.profile import flame, spy
from benchmarks.profile.spy import Thread
from benchmarks.profile.stages import STAGES, Frame, stage_of, waits
from benchmarks.record import Record, Row
from benchmarks.saturation import CLIENTS, Traffic
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles
from tamis.tiers import ACCURATE

SECONDS: Final = 20.0
WARM: Final = 2.0
TURN: Final = 5.0
PICTURES: Final = Path(__file__).parents[2] / "docs" / "images"
# What stands below every frame of a thread says nothing, but that a process is forked from another.
BOTTOM: Final = ("Thread.run", "Runner.run")
FORKED: Final = "_Template._become"


@dataclass(frozen=True, slots=True)
class Profile:
    """One tier at saturation: requests a second, and what its threads did in each pass."""

    rate: float
    seconds: float
    busy: Mapping[int, Thread]
    everything: Mapping[int, Thread]

    def cpu(self) -> dict[str, float]:
        """Microseconds of CPU a request, by stage."""
        found: dict[str, float] = defaultdict(float)
        for _, frames, spent in self.stacks():
            found[stage_of(frames)] += spent
        return found

    def stacks(self) -> Iterator[tuple[str, tuple[Frame, ...], float]]:
        """Thread, frames, and microseconds of CPU a request."""
        scale = 1e6 / (self.rate * self.seconds)
        for thread in self.busy.values():
            name = thread.name.rstrip("-_0123456789") or "native"
            if not thread.samples:
                yield name, (), scale * thread.cpu
            for frames, count in thread.stacks.items():
                yield name, frames, scale * thread.cpu * count / thread.samples

    def stood(self) -> dict[str, float]:
        """Microseconds a request for which threads were in a stage and on no core."""
        found: dict[str, float] = defaultdict(float)
        for thread in self.everything.values():
            for frames, count in thread.stacks.items():
                if not waits(frames):
                    found[stage_of(frames)] += count / thread.samples / self.rate * 1e6
        for _, frames, spent in self.stacks():
            if not waits(frames):
                found[stage_of(frames)] -= spent
        # Two passes are never quite alike: less than nothing is nothing.
        return {stage: max(spent, 0.0) for stage, spent in found.items()}

    @property
    def ready(self) -> float:
        """Microseconds a request for which threads were ready and there was no core for them."""
        waited = sum(thread.ready for thread in self.busy.values())
        return waited / (self.rate * self.seconds) * 1e6


def _above_bottom(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Frames above those with which every thread begins."""
    for n, frame in enumerate(frames):
        if frame.function in BOTTOM:
            return frames[n + 1 :] or frames[n:]
    return frames


def profile(tier: tiers.Tier, sent: Traffic) -> Profile:
    """Saturate a server of a tier, and look at it meanwhile.

    Raises:
        NoSpyError, RuntimeError: as ``spy.sample``.
    """
    found: list[tuple[dict[int, Thread], float]] = []
    failed: list[Exception] = []
    with tier.start() as server:

        def look() -> None:
            try:
                found.append(spy.sample(server.pid, SECONDS, idle=False))
                found.append(spy.sample(server.pid, SECONDS, idle=True))
            except Exception as error:  # raised again by who started this thread
                failed.append(error)

        load.closed(server.port, sent.singles, CLIENTS, WARM)
        watching = threading.Thread(target=look)
        watching.start()
        served, seconds = 0.0, 0.0
        while watching.is_alive():
            result = load.closed(server.port, sent.singles, CLIENTS, TURN, warm=0.01)
            served += result.rate * result.seconds
            seconds += result.seconds
        watching.join()
    if failed:
        raise failed[0]
    (busy, spent), (everything, _) = found
    return Profile(served / seconds, spent, busy, everything)


def table(name: str, found: Profile) -> list[Row]:
    """Stages in a request's order, and all of them."""
    cpu, stood = found.cpu(), found.stood()
    total = sum(cpu.values())

    def row(what: str, spent: float | None, still: float) -> Row:
        return {
            name: what,
            "CPU, µs a request": "" if spent is None else round(spent),
            "share": "" if spent is None else f"{spent / total:.1%}",
            "stood still, µs a request": round(still),
        }

    stages = [stage for stage in STAGES if cpu.get(stage) or stood.get(stage)]
    return [
        *(row(stage, cpu.get(stage, 0.0), stood.get(stage, 0.0)) for stage in stages),
        row(f"**all, at {found.rate:.0f} requests/s**", total, sum(stood.values())),
        row("of it, for a core", None, found.ready),
    ]


def seen(found: Profile) -> Iterator[tuple[str, tuple[Frame, ...], float]]:
    """The stacks as they are drawn, without how every thread begins."""
    for name, frames, spent in found.stacks():
        at = next((n for n, frame in enumerate(frames) if frame.function == FORKED), None)
        if at is None:
            yield name, _above_bottom(frames), spent
        else:
            yield "worker process", frames[at + 1 :], spent


def run(bundle_path: Path, accurate: Path | None = None) -> Record:
    """Measure every tier that is there, and draw it.

    Raises:
        NoSpyError, RuntimeError: as ``spy.sample``.
    """
    spy.find_spy()
    bundle = bundles.load(bundle_path)
    sent = Traffic(Classifier(bundle, CpuRuntime(bundle.graph)))
    record = Record("profile", "Where the time goes", "tamis bench profile")
    with tempfile.TemporaryDirectory() as scratch:
        found, missing = tiers.find(bundle_path, accurate or ACCURATE.folder, (), Path(scratch))
        served = [tier for tier in found if tier.name != tiers.ALWAYS]
        pictures = []
        for tier in served:
            one = profile(tier, sent)
            record.tables.append(table(tier.name, one))
            drawn = flame.picture(flame.tree(seen(one)), f"{tier.name}: CPU of a request")
            PICTURES.mkdir(parents=True, exist_ok=True)
            (PICTURES / f"profile-{tier.name}.svg").write_text(drawn, encoding="utf-8")
            pictures.append(f"![Flame graph of {tier.name}](images/profile-{tier.name}.svg)")
    record.notes = [
        f"{CLIENTS} clients in a closed loop, one text a request, lengths as of real prompts "
        f"({sum(sent.tokens) / len(sent.tokens):.0f} tokens on average in the fast bundle's "
        f"windows); {SECONDS:.0f} s by {spy.RATE} samples a second for each pass. The CPU of each "
        "thread is the kernel's account, its shares are those of the samples in which it was "
        "ready to run. *Stood still* is not CPU: threads that were in the middle of that stage "
        "and on no core: they waited for Python's lock, for another one, or for a core; where "
        "they wait for work is left out. *run* is onnxruntime, *feed* its arrays, *hand over* what "
        "goes to worker processes and back, where there are any.",
        f"Load generator and profiler share the {os.cpu_count()} cores.",
        *missing,
        *pictures,
    ]
    record.write(bundle)
    return record


if __name__ == "__main__":
    run(bundles.default_bundle())
