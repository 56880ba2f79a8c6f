"""Three times more than the machine can do, for a minute, with a deadline on every request.

    tamis bench overload

Goodput counts answers within the deadline; refusals should be quick, memory flat.
"""

from pathlib import Path
from typing import Final

from benchmarks import load
from benchmarks.record import Record
from benchmarks.saturation import Traffic
from benchmarks.server import Server
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles

FACTOR: Final = 3
SECONDS: Final = 60
# What Envoy's ext_authz filter waits for by default.
DEADLINE_MS: Final = 200
# One text must be feasible within the deadline: longer ones would be refused with 400.
LONGEST: Final = 1_000


def run(bundle_path: Path) -> None:
    """Saturate, overload, saturate again."""
    bundle = bundles.load(bundle_path)
    classifier = Classifier(bundle, CpuRuntime(bundle.graph))
    header = f"x-request-timeout-ms: {DEADLINE_MS}\r\n".encode()
    messages = [
        load.Message(m.wire.replace(b"content-length", header + b"content-length", 1), m.tokens)
        for m in Traffic(classifier, LONGEST).singles
    ]
    with Server(bundle_path) as server:
        before = load.closed(server.port, messages, 8, 10)
        memory = [server.memory_mb()]
        result = load.open_loop(server.port, messages, FACTOR * before.rate, SECONDS)
        memory.append(server.memory_mb())
        after = load.closed(server.port, messages, 8, 10)
    in_time = sum(ms <= DEADLINE_MS for ms in result.latencies[200]) / result.seconds
    saturated = (before.rate + after.rate) / 2
    row = {
        "saturation, requests/s": round(saturated),
        "offered": round(sum(result.statuses.values()) / result.seconds),
        "goodput": round(in_time),
        "goodput/saturation": round(in_time / saturated, 3),
        "accepted p50": round(result.percentile(50), 1),
        "accepted p99": round(result.percentile(99), 1),
        "refused p50": round(result.percentile(50, 429), 2),
        "refused p99": round(result.percentile(99, 429), 2),
        "memory before, MB": round(memory[0]),
        "after": round(memory[1]),
    }
    record = Record("overload", "Overload", "tamis bench overload", tables=[[row]])
    share = result.own_cpu / SECONDS
    record.notes = [
        f"{FACTOR} times the saturating rate for {SECONDS} s, Poisson arrivals, texts of up to "
        f"{LONGEST:,} tokens, a deadline of {DEADLINE_MS} ms in every request. Milliseconds. "
        f"Saturation is the mean of 10 s in a closed loop before and after. The load generator "
        f"took {share:.0%} of a core.",
        f"Answers by status: {', '.join(f'{s}: {n:,}' for s, n in result.statuses.items())}.",
    ]
    record.write(bundle)


if __name__ == "__main__":
    run(bundles.default_bundle())
