"""Threads of the server's own beside one, two or more worker processes, and the bare runtime.

    tamis bench workers [--workers 0,1,2] [--accurate BUNDLE] [--rounds 5] [--rehearse]

All servers run all the time and are asked in turns, so that noise meets them alike. ``0`` is the
server's own threads. The bare runtime is at its best: one single-thread run on each core.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

from benchmarks import latency, load, process
from benchmarks.record import Record, Row
from benchmarks.saturation import BATCH, CLIENTS, SECONDS, Traffic, raw
from benchmarks.server import Server
from benchmarks.soak import messages
from benchmarks.tiers import Tier, find
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from service.engine.warmup import warm_up
from tamis import bundle as bundles
from tamis.bundle import Bundle
from tamis.tiers import ACCURATE

LENGTHS: Final = (16, 128)
RAW: Final = "raw"


class Turns:
    """What came out of each turn, by who was asked: tokens/s, CPU-s a million tokens, own CPU."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self.costs: dict[str, list[float]] = {}
        self.shares: dict[str, list[float]] = {}

    def add(self, who: str, rate: float, cost: float, share: float = 0.0) -> None:
        """One turn; ``share`` is what the load generator took of the machine."""
        self.rates.setdefault(who, []).append(rate)
        self.costs.setdefault(who, []).append(cost)
        self.shares.setdefault(who, []).append(share)

    def rows(self, tier: str) -> list[Row]:
        """Medians, and of the ratios to the bare runtime in the same turn."""
        best, least = self.rates[RAW], self.costs[RAW]
        return [
            {
                "tier": tier,
                "asked": who,
                "tokens/s": round(statistics.median(rates)),
                "of raw's": _ratio(rates, best),
                "of raw's on what the load left": _ratio(
                    rates, [b * (1 - s) for b, s in zip(best, self.shares[who], strict=True)]
                ),
                "CPU-s per million tokens": round(statistics.median(self.costs[who]), 1),
                "× raw's": _ratio(self.costs[who], least),
            }
            for who, rates in self.rates.items()
        ]


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(these, those, strict=True)), 3)


def saturate(
    servers: dict[str, Server], runtime: CpuRuntime, sent: Traffic, rounds: int, seconds: float
) -> Turns:
    """Everybody in turns, as much as they can do."""
    found = Turns()
    cores = runtime.threads
    for _ in range(rounds):
        before, began = time.process_time(), time.perf_counter()
        rate = raw(runtime, sent.feeds, cores, wide=False, seconds=seconds)
        spent = time.process_time() - before
        found.add(RAW, rate, spent / (rate * (time.perf_counter() - began)) * 1e6)
        for name, wires in (("one text", sent.singles), (f"{BATCH} texts", sent.batches)):
            for workers, server in servers.items():
                used = server.cpu_seconds()
                result = load.closed(server.port, wires, CLIENTS, seconds, warm=0.01)
                used = server.cpu_seconds() - used
                share = result.own_cpu / (cores * result.seconds)
                cost = used / result.tokens * 1e6
                found.add(f"{workers}, {name} a request", result.token_rate, cost, share)
    return found


def alone(servers: dict[str, Server], bundle: Bundle, tier: str) -> list[Row]:
    """One client and nobody else, beside the bare runtime."""
    classifier = Classifier(bundle, CpuRuntime(bundle.graph))
    warm_up(classifier)
    rows: list[Row] = []
    for workers, server in servers.items():
        with latency.Client(server.port) as client:
            for tokens in LENGTHS:
                row = latency.measure(classifier, client, tokens)
                rows.append({"tier": tier, "asked": workers} | row)
    return rows


def footprint(tier: Tier, workers: Sequence[int], seconds: float) -> list[Row]:
    """Memory of all processes, and what one more pair of workers adds, each server alone."""
    rows: list[Row] = []
    before: tuple[int, float, float] | None = None
    for count in workers:
        with serving(tier, count) as server:
            ready = server.memory_mb()
            load.closed(server.port, messages(), CLIENTS, seconds)
            worked = server.memory_mb()
            private = [process.private_mb(pid) for pid in server.workers]
        row = {
            "tier": tier.name,
            "workers": count,
            "processes": len(private),
            "PSS when ready, MB": round(ready),
            "after texts of all lengths": round(worked),
            "private to one, MB": round(statistics.median(private)) if private else "",
            "one more, prompt and patient, adds when ready": "",
            "after texts": "",
        }
        if before is not None and count > before[0]:
            more = count - before[0]
            row["one more, prompt and patient, adds when ready"] = round(
                (ready - before[1]) / more, 1
            )
            row["after texts"] = round((worked - before[2]) / more, 1)
        if count:
            before = count, ready, worked
        rows.append(row)
    return rows


def serving(tier: Tier, workers: int) -> AbstractContextManager[Server]:
    """A server of a tier with so many workers."""
    return tier.start(max_wait_ms=60_000, workers=workers)


def run(
    fast: Path,
    accurate: Path | None = None,
    workers: Sequence[int] = (0, 1, 2),
    rounds: int = 5,
    rehearse: bool = False,
) -> None:
    """Measure every tier whose bundle is there."""
    seconds, rounds = (1.0, 1) if rehearse else (SECONDS, rounds)
    tiers, missing = find(fast, accurate or ACCURATE.folder, (), None)
    tables: list[list[Row]] = [[], [], []]
    for tier in tiers:
        first = tier.bundles[0]
        runtime = CpuRuntime(first.graph)
        sent = Traffic(Classifier(first, runtime))
        tables[2] += footprint(tier, workers, 2 * seconds)
        with ExitStack() as stack:
            servers = {
                f"{count or 'no'} workers": stack.enter_context(serving(tier, count))
                for count in workers
            }
            tables[0] += saturate(servers, runtime, sent, rounds, seconds).rows(tier.name)
            tables[1] += alone(servers, first, tier.name)
    asked = ",".join(map(str, workers))
    command = f"tamis bench workers --workers {asked} --rounds {rounds}"
    record = Record("workers", "Worker processes", command, tables=tables)
    record.notes = [
        *missing,
        f"Texts of real prompts' lengths; {CLIENTS} clients in a closed loop, medians of {rounds} "
        f"rounds of {seconds:g} s each in turns. `raw` is one single-thread run on each core; of a "
        "cascade, the fast bundle's. Ratios are those of the same round; the second leaves out "
        "the share of the cores that the load generator took.",
        "What had not been answered when a turn ended is not counted: of the accurate tier's "
        f"requests of {BATCH} texts, which take seconds, that is most.",
        "Second table: one client, milliseconds. Third: proportional set size of all processes; a "
        "worker is a prompt one and a patient one.",
    ]
    record.write(tiers[0].bundles[0], keep=not rehearse)


if __name__ == "__main__":
    run(bundles.default_bundle())
