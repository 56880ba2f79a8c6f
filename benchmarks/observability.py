"""What logs, audit records and spans cost a request, in turns with a service that has none.

tamis bench observability
"""

import http.server
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks import load, traffic
from benchmarks.record import Record, Row
from benchmarks.server import Server
from tamis import bundle as bundles

TURNS: Final = 7
SECONDS: Final = 2.0
CLIENTS: Final = (1, 8)
# Short texts, since what is added does not grow with the length.
TOKENS: Final = 16
ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Swallow(http.server.BaseHTTPRequestHandler):
    """An OTLP receiver that forgets what it gets."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read and forget."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiver() -> Iterator[str]:
    """A receiver in a process of its own; its address."""
    command = [sys.executable, "-m", "benchmarks.observability", "--receive"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def receive() -> None:
    """Be that process."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Swallow)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def servers(bundle_path: Path) -> Iterator[dict[str, Server]]:
    """All of them at once: an idle one takes nothing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tamis-audit-")))
        logs = {"log_level": "info", "log_format": "json"}
        audit = {"audit": folder / "audit.jsonl"}
        found = {
            "nothing": Server(bundle_path, log_level="warning"),
            "access log": Server(bundle_path, **logs),
            "access and audit log": Server(bundle_path, **logs, **audit),
        }
        for server in found.values():
            stack.enter_context(server)
        os.environ[ENDPOINT] = stack.enter_context(receiver())
        stack.callback(os.environ.pop, ENDPOINT)
        audit = {"audit": folder / "traced.jsonl"}
        found["both, and spans"] = Server(bundle_path, **logs, **audit)
        stack.enter_context(found["both, and spans"])
        yield found


def run(bundle_path: Path) -> None:
    """Measure in turns, the order reversed from one to the next."""
    chance = random.Random(5)
    messages = [
        load.message("/moderate", json.dumps({"input": traffic.text(TOKENS, chance)}).encode(), 1)
        for _ in range(2_000)
    ]
    results: dict[tuple[str, int], list[load.Result]] = {}
    cpu: Counter[tuple[str, int]] = Counter()
    with servers(bundle_path) as found:
        for turn in range(TURNS):
            for name in list(found)[:: 1 if turn % 2 else -1]:
                server = found[name]
                for clients in CLIENTS:
                    before = server.cpu_seconds()
                    # No warm-up but the first turn, so that every answer is counted.
                    result = load.closed(server.port, messages, clients, SECONDS, 0.0)
                    cpu[name, clients] += server.cpu_seconds() - before
                    results.setdefault((name, clients), []).append(result)
    record = Record("observability", "Logs, audit and spans", "tamis bench observability")
    record.tables = [
        [_row(results, name, clients) | _cpu(results, cpu, name, clients) for name in found]
        for clients in CLIENTS
    ]
    record.notes = [
        f"Texts of {TOKENS} tokens in a closed loop, medians of {TURNS} turns of {SECONDS:g} s; "
        f"first table one client, second {CLIENTS[1]}. Milliseconds; ratios are medians of those "
        "to 'nothing' in the same turn. CPU is the server's for each answer, which other work on "
        "the machine disturbs least. Spans go to a receiver on the same cores.",
    ]
    record.write(bundles.load(bundle_path))


def _row(results: dict[tuple[str, int], list[load.Result]], name: str, clients: int) -> Row:
    own, bare = results[name, clients], results["nothing", clients]
    row: Row = {"observed by": name}
    for percent in (50, 99):
        value = statistics.median(result.percentile(percent) for result in own)
        pairs = zip(own, bare, strict=True)
        ratio = statistics.median(a.percentile(percent) / b.percentile(percent) for a, b in pairs)
        row |= {f"p{percent}": round(value, 2), f"ratio p{percent}": round(ratio, 3)}
    rates = [a.rate / b.rate for a, b in zip(own, bare, strict=True)]
    row["requests/s"] = round(statistics.median(result.rate for result in own))
    row["ratio rate"] = round(statistics.median(rates), 3)
    return row


def _cpu(
    results: dict[tuple[str, int], list[load.Result]],
    cpu: Counter[tuple[str, int]],
    name: str,
    clients: int,
) -> Row:
    answers = sum(sum(result.statuses.values()) for result in results[name, clients])
    return {"CPU ms": round(cpu[name, clients] / answers * 1e3, 2)}


if __name__ == "__main__":
    if "--receive" in sys.argv:
        receive()
    else:
        run(bundles.default_bundle())
