"""How much of the bare runtime's throughput is left over HTTP, and latency at 70 % of it.

    tamis bench saturation

Traffic has the token lengths of real prompts (``lengths.json``). The bare runtime is at its best:
one single-thread run on each core, or one run on all, whichever does more tokens a second.
"""

import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import load, traffic
from benchmarks.record import Record, Row
from benchmarks.server import Server
from service.engine.classifier import Classifier, Feed
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles
from tamis.content import Content

TEXTS: Final = 2_000
TURNS: Final = 5
SECONDS: Final = 4.0
BATCH: Final = 16
CLIENTS: Final = 8
SHORT: Final = 128


class Traffic:
    """Texts, the windows they make, and the requests that ask for them."""

    def __init__(self, classifier: Classifier, longest: int = 10**9) -> None:
        drawn = traffic.texts(TEXTS, seed=1, longest=longest)
        windows = [classifier.encode(Content("prompt", text)).windows for text, _ in drawn]
        self.tokens = [sum(len(w.ids) for w in cut) for cut in windows]
        self.feeds = [classifier.feed([w]) for cut in windows for w in cut]
        self.singles = [
            load.message("/moderate", json.dumps({"input": text}).encode(), n)
            for (text, _), n in zip(drawn, self.tokens, strict=True)
        ]
        self.batches = [
            load.message(
                "/moderate",
                json.dumps({"input": [text for text, _ in drawn[i : i + BATCH]]}).encode(),
                sum(self.tokens[i : i + BATCH]),
            )
            for i in range(0, TEXTS, BATCH)
        ]


def raw(
    runtime: CpuRuntime, feeds: Sequence[Feed], threads: int, wide: bool, seconds: float = SECONDS
) -> float:
    """Tokens per second of bare runs side by side."""
    until = time.perf_counter() + seconds
    tokens = [0] * threads

    def work(mine: int) -> None:
        at = mine
        while time.perf_counter() < until:
            feed = feeds[at % len(feeds)]
            runtime.run(feed, wide)
            tokens[mine] += feed["input_ids"].shape[1]
            at += threads

    began = time.perf_counter()
    pool = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(tokens) / (time.perf_counter() - began)


def saturate(server: Server, runtime: CpuRuntime, sent: Traffic) -> list[Row]:
    """Bare and served in turns; medians."""
    kinds: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for _ in range(TURNS):
        kinds.setdefault("raw, one thread on each core", []).append(
            raw(runtime, sent.feeds, runtime.threads, wide=False)
        )
        kinds.setdefault("raw, all threads on one window", []).append(
            raw(runtime, sent.feeds, 1, wide=True)
        )
        for name, messages in (
            ("HTTP, one text a request", sent.singles),
            (f"HTTP, {BATCH} texts a request", sent.batches),
        ):
            before = server.cpu_seconds()
            result = load.closed(server.port, messages, CLIENTS, SECONDS, warm=0.01)
            spent = server.cpu_seconds() - before
            kinds.setdefault(name, []).append(result.token_rate)
            costs.setdefault(name, []).append(spent / result.tokens * 1e6)
    best = [max(pair) for pair in zip(*list(kinds.values())[:2], strict=True)]
    return [
        {
            "what": name,
            "tokens/s": round(statistics.median(rates)),
            "of raw's best": round(
                statistics.median(r / b for r, b in zip(rates, best, strict=True)), 3
            ),
            "CPU-s per million tokens": round(statistics.median(costs[name]), 1)
            if name in costs
            else "",
        }
        for name, rates in kinds.items()
    ]


def under_load(server: Server, sent: Traffic) -> Row:
    """Latency of short texts at 70 % of the rate that saturates."""
    rows = []
    for _ in range(3):
        most = load.closed(server.port, sent.singles, CLIENTS, SECONDS).rate
        result = load.open_loop(server.port, sent.singles, 0.7 * most, 20)
        rows.append((most, *(result.percentile(p) for p in (50, 95, 99)), result.rate))
    most, p50, p95, p99, rate = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "saturated at, requests/s": round(most),
        "offered": round(0.7 * most),
        "answered": round(rate),
        "p50": round(p50, 2),
        "p95": round(p95, 2),
        "p99": round(p99, 2),
        "p99/p50": round(p99 / p50, 2),
    }


def run(bundle_path: Path) -> None:
    """Measure both."""
    bundle = bundles.load(bundle_path)
    runtime = CpuRuntime(bundle.graph)
    classifier = Classifier(bundle, runtime)
    everything, short = Traffic(classifier), Traffic(classifier, longest=SHORT)
    with Server(bundle_path) as server:
        rows = saturate(server, runtime, everything)
        loaded = under_load(server, short)
    record = Record("saturation", "Saturation", "tamis bench saturation", tables=[rows, [loaded]])
    mean = sum(everything.tokens) / TEXTS
    record.notes = [
        f"{TEXTS:,} texts of real prompts' lengths, {mean:.0f} tokens on average as windows; "
        f"{CLIENTS} clients in a closed loop, medians of {TURNS} turns of {SECONDS:.0f} s. The "
        "ratio is that of the same turn.",
        "What is missing is Python on either side of a run, and waiting for its lock: see the "
        "[lab log](lab-log.md).",
        f"Second table: texts of up to {SHORT} tokens arriving at random (Poisson) at 70 % of the "
        "rate that saturates, milliseconds, medians of three runs of 20 s.",
    ]
    record.write(bundle)


if __name__ == "__main__":
    run(bundles.default_bundle())
