"""HTTP latency of one client beside the bare runtime's, for the same tokens, in one run.

    tamis bench                      (or: python -m benchmarks.latency)

Both are measured in turns, so that a noisy neighbour hits both; the figures are medians and 95th
percentiles over all turns, and their difference is what the service adds.
"""

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from service.engine.classifier import Classifier, load_classifier
from service.engine.runtime import CpuRuntime, available_threads
from tamis import bundle as bundles
from tamis.content import Content

LENGTHS = (16, 32, 128, 512)
TURNS = 12
CALLS = 25
WORDS = "the garden was calm and we had some tea with a friend who likes to read old books . "


def text_of(classifier: Classifier, tokens: int) -> str:
    """A harmless text of exactly so many tokens."""
    words = (WORDS * tokens).split()
    for count in range(1, len(words)):
        text = " ".join(words[:count])
        if classifier.encode(Content("prompt", text)).tokens == tokens:
            return text
    raise ValueError(f"no text of {tokens} tokens")


def timed(call: Callable[[], object]) -> list[float]:
    """Milliseconds of each of CALLS calls."""
    spent = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1e3)
    return spent


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


class Server:
    """The real command in a process of its own, and one keep-alive connection to it."""

    def __init__(self, bundle: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        command = [sys.executable, "-m", "tamis", "serve", "--port", str(self.port)]
        began = time.perf_counter()
        self.process = subprocess.Popen([*command, "--bundle", str(bundle)])
        while not self._ready():
            time.sleep(0.01)
        self.start_seconds = time.perf_counter() - began
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("the server did not start")
        try:
            probe = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            probe.request("GET", "/health/ready")
            return probe.getresponse().status == 200
        except OSError:
            return False

    def moderate(self, body: bytes) -> None:
        """One request; anything but 200 is an error."""
        self.connection.request("POST", "/moderate", body)
        answer = self.connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")

    def memory_mb(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """Terminate and wait."""
        self.process.terminate()
        self.process.wait(30)


def run(bundle_path: Path, out: Path | None = None) -> None:
    """Measure, print a table, and write JSON where asked."""
    bundle = bundles.load(bundle_path)
    classifier = load_classifier(bundle, CpuRuntime(bundle.graph))
    server = Server(bundle_path)
    rows = []
    try:
        for tokens in LENGTHS:
            text = text_of(classifier, tokens)
            body = json.dumps({"input": text}).encode()
            encoded = classifier.encode(Content("prompt", text))

            def bare(windows: list = encoded.windows) -> None:
                for window in windows:
                    classifier.score([window], wide=True)

            def over_http(body: bytes = body) -> None:
                server.moderate(body)

            timed(bare), timed(over_http)
            raw: list[float] = []
            served: list[float] = []
            for _ in range(TURNS):
                raw += timed(bare)
                served += timed(over_http)
            rows.append(
                {
                    "tokens": tokens,
                    "windows": len(encoded.windows),
                    "raw_p50": round(statistics.median(raw), 2),
                    "raw_p95": round(p95(raw), 2),
                    "http_p50": round(statistics.median(served), 2),
                    "http_p95": round(p95(served), 2),
                    "added_p50": round(statistics.median(served) - statistics.median(raw), 2),
                    "ratio_p50": round(statistics.median(served) / statistics.median(raw), 2),
                }
            )
        memory = server.memory_mb()
    finally:
        server.stop()
    print("| " + " | ".join(rows[0]) + " |\n|" + "--:|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    about = {
        "start_to_ready_s": round(server.start_seconds, 2),
        "memory_mb_after": round(memory),
        "bundle": bundle.fingerprint,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{available_threads()} cores, {platform.processor() or platform.machine()}",
    }
    print("\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    if out:
        out.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=bundles.default_bundle())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    run(arguments.bundle, arguments.json)
