"""Short texts beside bursts of long ones; then everything at once while workers are killed.

    tamis bench mixed [--workers 0,2] [--minutes 10] [--kill 20] [--accurate BUNDLE] [--rehearse]

First, for each number of workers: short texts at a share of what the server can do, with and
without long texts that come all at once, in turns. Then, with the last number of workers, every
kind of request at 70 % of what the server can do, while one worker is killed every 20 s: of the
cascade, where both bundles are there, since it runs both.
"""

import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks import load, traffic
from benchmarks.record import Record, Row
from benchmarks.saturation import CLIENTS, SHORT
from benchmarks.server import Server
from benchmarks.tiers import CASCADE, FAST, find
from benchmarks.workers import serving
from tamis import bundle as bundles
from tamis.tiers import ACCURATE

# Of what saturates, short texts alone in the first part; everything together in the second.
CALM: Final = 0.4
LOADED: Final = 0.7
TURN: Final = 20.0
BURST: Final = 10
BURST_EVERY: Final = 5.0
LONG: Final = 4_000
# Each kind's share of the tokens that are asked for.
SHARES: Final = {"short": 0.5, "evidence": 0.1, "batch of 16": 0.15, "long": 0.15, "stream": 0.1}
STEP: Final = 20
SENT: Final = 800


def kinds(seed: int = 5) -> dict[str, list[load.Message]]:
    """Requests by kind; a stream's are sent in the order in which it grows."""
    chance = random.Random(seed)

    def ask(tokens: int, path: str = "/moderate", **body: object) -> load.Message:
        return load.message(path, json.dumps(body).encode(), tokens)

    short = traffic.texts(SENT, seed, longest=SHORT)
    many = traffic.texts(SENT, seed + 1, longest=SHORT)
    found = {
        "short": [ask(n, input=text) for text, n in short],
        "evidence": [ask(n, input=text, explain="evidence") for text, n in many],
        "batch of 16": [
            ask(sum(n for _, n in many[i : i + 16]), input=[text for text, _ in many[i : i + 16]])
            for i in range(0, SENT, 16)
        ],
        "long": [ask(LONG, input=traffic.text(LONG, chance)) for _ in range(30)],
        "stream": [],
    }
    for name in range(20):
        words = traffic.text(300, chance).split()
        for n in range(STEP, len(words), STEP):
            path = f"/moderate/stream/mixed-{name}"
            found["stream"].append(ask(2 * STEP, path, text=" ".join(words[:n])))
    return found


def burst(server: Server, seconds: float, rounds: int) -> Row:
    """Short texts with and without bursts of long ones, in turns."""
    sent = kinds()
    most = load.closed(server.port, sent["short"], CLIENTS, seconds / 4).rate
    calm: list[float] = []
    busy: list[float] = []
    ratios: list[float] = []
    asked: Counter[int] = Counter()
    for _ in range(rounds):
        alone = load.open_loop(server.port, sent["short"], CALM * most, seconds)
        with ThreadPoolExecutor(1) as pool:
            end = time.perf_counter() + seconds
            other = pool.submit(_bursts, server.port, sent["long"], end)
            beside = load.open_loop(server.port, sent["short"], CALM * most, seconds)
            asked += other.result()
        calm.append(alone.percentile(99))
        busy.append(beside.percentile(99))
        ratios.append(busy[-1] / calm[-1])
    return {
        "short texts/s": round(CALM * most),
        "p99 alone": round(statistics.median(calm), 1),
        "p99 beside bursts": round(statistics.median(busy), 1),
        "ratio": round(statistics.median(ratios), 2),
        "long texts": ", ".join(f"{status}: {n}" for status, n in sorted(asked.items())),
    }


def _bursts(port: int, sent: Sequence[load.Message], end: float) -> Counter[int]:
    """Long texts, so many at once, every few seconds; answers by status."""
    found: Counter[int] = Counter()
    while time.perf_counter() < end:
        began = time.perf_counter()
        found.update(load.at_once(port, sent[:BURST]).statuses)
        time.sleep(max(0.0, min(end, began + BURST_EVERY) - time.perf_counter()))
    return found


def together(server: Server, seconds: float, kill: float) -> tuple[list[Row], int]:
    """Everything at once, by kind, and how many workers were killed meanwhile."""
    sent = kinds()
    most = load.closed(server.port, sent["short"], CLIENTS, min(seconds / 4, 10)).token_rate
    rates = {
        kind: LOADED * share * most / statistics.fmean(m.tokens for m in sent[kind])
        for kind, share in SHARES.items()
    }
    stop, killed = threading.Event(), 0

    def strike() -> None:
        nonlocal killed
        chance = random.Random(3)
        while not stop.wait(kill):
            if pids := server.workers:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    killed += 1

    with ThreadPoolExecutor(len(rates) + 1) as pool:
        striking = pool.submit(strike)
        runs = {
            kind: pool.submit(load.open_loop, server.port, sent[kind], rate, seconds)
            for kind, rate in rates.items()
        }
        results = {kind: run.result() for kind, run in runs.items()}
        stop.set()
        striking.result()
    return [_row(kind, rates[kind], result) for kind, result in results.items()], killed


def _row(kind: str, rate: float, result: load.Result) -> Row:
    statuses = result.statuses
    return {
        "kind": kind,
        "offered/s": f"{rate:.1f}",
        "answered": statuses.get(200, 0),
        "refused": statuses.get(429, 0),
        "lost": statuses.get(0, 0) + result.pending,
        "5xx": sum(n for status, n in statuses.items() if status >= 500),
        "other": sum(n for s, n in statuses.items() if s not in (0, 200, 429) and s < 500),
    } | {f"p{p}": round(result.percentile(p), 1) for p in (50, 95, 99)}


def run(
    fast: Path,
    accurate: Path | None = None,
    workers: Sequence[int] = (0, 2),
    minutes: float = 10.0,
    kill: float = 20.0,
    rounds: int = 3,
    rehearse: bool = False,
) -> None:
    """Bursts for every number of workers; the mix with the last one."""
    seconds, turn = 60 * minutes, TURN
    if rehearse:
        seconds, turn, rounds, kill = 6.0, 4.0, 1, 2.0
    tiers, missing = find(fast, accurate or ACCURATE.folder, (), None)
    by_name = {tier.name: tier for tier in tiers}
    fast_tier = by_name[FAST]
    mixed_tier = by_name.get(CASCADE, fast_tier)
    moved: list[Row] = []
    for count in workers:
        with serving(fast_tier, count) as server:
            moved.append({"workers": count} | burst(server, turn, rounds))
    with serving(mixed_tier, workers[-1]) as server:
        mix, killed = together(server, seconds, kill)
    asked = ",".join(map(str, workers))
    command = f"tamis bench mixed --workers {asked} --minutes {minutes:g} --rounds {rounds}"
    record = Record("mixed", "Mixed load, and workers killed", command)
    record.tables = [moved, mix]
    record.notes = [
        *missing,
        f"First table: texts of up to {SHORT} tokens at {CALM:.0%} of the rate that saturates, "
        f"alone and beside {BURST} texts of {LONG:,} tokens at once every {BURST_EVERY:g} s, in "
        f"{rounds} turns of {turn:g} s; milliseconds.",
        f"Second table: {mixed_tier.name}, {workers[-1]} workers, every kind at once at "
        f"{LOADED:.0%} of the tokens that saturate, {seconds / 60:g} minutes; a worker was killed "
        f"every {kill:g} s, {killed} in all. Lost are requests that got no answer within a minute.",
    ]
    record.write(fast_tier.bundles[0], keep=not rehearse)


if __name__ == "__main__":
    run(bundles.default_bundle())
