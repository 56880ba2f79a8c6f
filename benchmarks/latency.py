"""HTTP latency of one client beside the bare runtime's, for the same tokens, in turns.

    tamis bench latency            (or: python -m benchmarks.latency)

The bare runtime runs the same windows as the service does for a lone request, on one thread or on
all, whichever takes it less. It is given its arrays; the service has to make them from text. The
client is a plain socket: Python's http.client would add 0.4 ms of its own.
"""

import json
import random
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from benchmarks import load, traffic
from benchmarks.record import Record, Row
from benchmarks.server import Server
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from service.engine.warmup import warm_up
from tamis import bundle as bundles
from tamis.content import Content
from tamis.windows import Window

LENGTHS = (16, 32, 128, 512)
TURNS = 16
CALLS = 25
TRIED = 7


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def post(self, wire: bytes) -> bytes:
        """Send a request and read its answer's body; anything but 200 is an error."""
        self._socket.sendall(wire)
        answer = self._socket.recv(1 << 16)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:12].decode())
        head, _, body = answer.partition(load.HEAD_END)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(1 << 16)
        return body


def timed(call: Callable[[], object], calls: int = CALLS) -> list[float]:
    """Milliseconds of each of so many calls."""
    spent = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1e3)
    return spent


def bare_runs(classifier: Classifier, windows: Sequence[Window]) -> Callable[[], None]:
    """All windows, one by one: on one thread each or on all, whichever is faster as it is asked.

    What warm-up found is the server's own choice, and may be another on a noisy machine: raw runs
    on one thread took longer than answers over HTTP.
    """
    feeds = [classifier.feed([window]) for window in windows]

    def run(wide: bool) -> None:
        for feed in feeds:
            classifier.runtime.run(feed, wide)

    ways = [partial(run, wide) for wide in (False, True)]
    return min(ways, key=lambda way: statistics.median(timed(way, TRIED)))


def measure(classifier: Classifier, client: Client, tokens: int) -> Row:
    """One length, in turns."""
    shape = classifier.bundle.shape
    text = traffic.text(tokens, random.Random(tokens))
    windows = classifier.encode(Content("prompt", text)).windows
    wire = load.message("/moderate", json.dumps({"input": text}).encode(), tokens).wire

    def served() -> None:
        client.post(wire)

    assert shape.max_tokens >= max(len(w.ids) for w in windows)
    timed(served)
    bare = bare_runs(classifier, windows)
    raw: list[float] = []
    http: list[float] = []
    for _ in range(TURNS):
        raw += timed(bare)
        http += timed(served)
    figures = {name: round(value, 2) for name, value in compared(raw, http).items()}
    return {"tokens": tokens, "windows": len(windows), **figures}


def compared(raw: Sequence[float], http: Sequence[float]) -> dict[str, float]:
    """Milliseconds of the bare runtime beside those over HTTP."""
    p50, http50 = statistics.median(raw), statistics.median(http)
    return {
        "raw p50": p50,
        "raw p95": load.percentile(raw, 95),
        "HTTP p50": http50,
        "HTTP p95": load.percentile(http, 95),
        "added p50": http50 - p50,
        "ratio p50": http50 / p50,
    }


def run(bundle_path: Path) -> None:
    """Measure all lengths."""
    bundle = bundles.load(bundle_path)
    classifier = Classifier(bundle, CpuRuntime(bundle.graph))
    warm_up(classifier)
    with Server(bundle_path) as server, Client(server.port) as client:
        started = server.memory_mb()
        rows = [measure(classifier, client, tokens) for tokens in LENGTHS]
        ended = server.memory_mb()
    record = Record("latency", "One client", "tamis bench latency", tables=[rows])
    record.notes = [
        f"Milliseconds; {TURNS * CALLS} calls each, in {TURNS} turns. `raw` is `session.run` on "
        "the windows' arrays in the benchmark's own process; `HTTP` the whole request over one "
        "keep-alive connection, from text to verdict.",
        f"From the start of the process to ready: {server.start_seconds:.2f} s. Memory (PSS): "
        f"{started:.0f} MB when ready, {ended:.0f} MB after the run.",
    ]
    record.write(bundle)


if __name__ == "__main__":
    run(bundles.default_bundle())
