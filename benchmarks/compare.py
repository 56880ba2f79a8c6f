"""Tamis beside other servers: same cores, same traffic, same weights, in turns.

    python -m benchmarks.peers.install && tamis bench peers

LitServe and BentoML serve our own graph, so what differs is the server. infinity and transformers
cannot load our pooling head: they serve the same encoder under a standard one, infinity's optimum
engine in int8 by its own recipe. Every peer runs at the settings that were its best here
(``benchmarks/peers``). Texts fit one window, because peers cut at one.
"""

import json
import random
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from benchmarks import load, traffic
from benchmarks.peers import LARGE, PEERS, Running
from benchmarks.record import Record, Row
from benchmarks.server import Server
from service.engine.runtime import available_threads
from tamis import bundle as bundles
from tamis.tiers import ACCURATE

TURNS: Final = 3
SECONDS: Final = 4.0
LONGEST: Final = 250
CLIENTS: Final = (8, 32)
OURS: Final = "tamis"
OURS_LARGE: Final = "tamis, accurate"


class Measured(Protocol):
    """A server that runs."""

    port: int

    def cpu_seconds(self) -> float: ...  # noqa: D102
    def memory_mb(self) -> float: ...  # noqa: D102


Start = Callable[[], AbstractContextManager[Measured]]


def measure(start: Start, messages: list[load.Message]) -> dict[str, float]:
    """One turn of one server."""
    with start() as server:
        load.closed(server.port, messages, 8, 2)
        lone = load.closed(server.port, messages, 1, SECONDS, warm=0.2)
        found = {"p50, one client": lone.percentile(50)}
        for clients in CLIENTS:
            before = server.cpu_seconds()
            result = load.closed(server.port, messages, clients, SECONDS, warm=0.01)
            spent = server.cpu_seconds() - before
            answers = sum(result.statuses.values())
            if result.statuses != {200: answers}:
                raise RuntimeError(f"answers by status: {result.statuses}")
            found[f"requests/s, {clients} clients"] = result.rate
            found[f"p99, {clients} clients"] = result.percentile(99)
            found[f"CPU-s per 1,000, {clients} clients"] = spent / answers * 1e3
        return found | {"MB": server.memory_mb()}


def run(bundle_path: Path, accurate: Path | None = None) -> None:
    """All servers in turns; medians, and how our rate compares with the same body's elsewhere."""
    accurate = accurate or ACCURATE.folder
    bundle = bundles.load(bundle_path)
    texts = traffic.texts(600, seed=1, longest=LONGEST)
    threads = available_threads()
    starts: dict[str, Start] = {OURS: lambda: Server(bundle_path)}
    if (accurate / bundles.MANIFEST).is_file():
        starts[OURS_LARGE] = lambda: Server(bundle_path, tier="accurate", accurate=accurate)
    wires = {
        name: ("/moderate", lambda text: json.dumps({"input": text}).encode()) for name in starts
    }
    for name, peer in PEERS.items():
        if peer.model == LARGE and OURS_LARGE not in starts:
            continue
        starts[name] = lambda peer=peer: Running(peer, threads)  # type: ignore[misc]
        wires[name] = peer.path, peer.body
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in starts}
    for turn in range(TURNS):
        order = random.Random(turn).sample(list(starts), len(starts))
        for name in order:
            path, body = wires[name]
            messages = [load.message(path, body(text), n) for text, n in texts]
            turns[name].append(measure(starts[name], messages))
            print(turn, name, {k: round(v, 2) for k, v in turns[name][-1].items()}, flush=True)
    rate = f"requests/s, {CLIENTS[0]} clients"
    rows: list[Row] = []
    for name, found in turns.items():
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        large = name == OURS_LARGE or (name in PEERS and PEERS[name].model == LARGE)
        own = turns[OURS_LARGE if large else OURS]
        ratio = statistics.median(
            ours[rate] / theirs[rate] for ours, theirs in zip(own, found, strict=True)
        )
        digits = {key: round(v, 2) if v < 100 else round(v) for key, v in middle.items()}
        rows.append({"server": name} | digits | {"Tamis is faster by": f"{ratio:.2f} ×"})
    record = Record("peers", "Peers", "tamis bench peers")
    mean = sum(n for _, n in texts) / len(texts)
    record.notes = [
        f"{threads} threads for everybody; texts of real prompts' lengths up to {LONGEST} tokens "
        f"(mean {mean:.0f}), closed loop, medians of {TURNS} turns of {SECONDS:.0f} s in changing "
        "order. Milliseconds; memory is proportional set size of all processes; the last column "
        f"compares requests/s of {CLIENTS[0]} clients within a turn.",
        "LitServe and BentoML serve our graph; infinity and transformers the same encoder with a "
        "standard head; `-110m` is the accurate tier's, and compared with its row. Nobody can be "
        "faster than the graph: see Saturation for how far that is.",
    ]
    record.tables = [rows]
    record.write(bundle)


if __name__ == "__main__":
    run(bundles.default_bundle())
