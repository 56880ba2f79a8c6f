"""Three times more than the machine can do, for a minute, with a deadline on every request.

    tamis bench overload [--accurate BUNDLE]

Goodput counts answers within the deadline; refusals should be quick, memory flat. Measured are the
fast tier and the cascade, where its bundle is there.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import load, tiers
from benchmarks.load import Message, Result
from benchmarks.record import Record, Row
from benchmarks.saturation import Traffic
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles
from tamis.tiers import ACCURATE

FACTOR: Final = 3
SECONDS: Final = 60
SATURATING: Final = 10
CLIENTS: Final = 8
# What Envoy's ext_authz filter waits for by default.
DEADLINE_MS: Final = 200
# One text must be feasible within the deadline: longer ones would be refused with 400.
LONGEST: Final = 1_000
TIERS: Final = (tiers.FAST, tiers.CASCADE)


def overload(tier: tiers.Tier, messages: Sequence[Message]) -> tuple[Row, Result]:
    """Saturate, overload, saturate again."""
    with tier.start() as server:
        before = load.closed(server.port, messages, CLIENTS, SATURATING)
        memory = [server.memory_mb()]
        result = load.open_loop(server.port, messages, FACTOR * before.rate, SECONDS)
        memory.append(server.memory_mb())
        after = load.closed(server.port, messages, CLIENTS, SATURATING)
    in_time = sum(ms <= DEADLINE_MS for ms in result.latencies.get(200, ())) / result.seconds
    saturated = (before.rate + after.rate) / 2
    row: Row = {
        "tier": tier.name,
        "saturation, requests/s": round(saturated),
        "offered": round(sum(result.statuses.values()) / result.seconds),
        "goodput": round(in_time),
        "goodput/saturation": round(in_time / saturated, 3),
        "accepted p50": round(result.percentile(50), 1),
        "accepted p99": round(result.percentile(99), 1),
        **{f"refused p{p}": round(result.percentile(p, 429), 2) for p in (50, 95, 99)},
        "sent late p99": round(load.percentile(result.late, 99), 2),
        "memory before, MB": round(memory[0]),
        "after": round(memory[1]),
    }
    return row, result


def run(bundle_path: Path, accurate: Path | None = None) -> Record:
    """Measure each tier."""
    bundle = bundles.load(bundle_path)
    classifier = Classifier(bundle, CpuRuntime(bundle.graph))
    header = f"x-request-timeout-ms: {DEADLINE_MS}\r\n".encode()
    messages = [
        Message(m.wire.replace(b"content-length", header + b"content-length", 1), m.tokens)
        for m in Traffic(classifier, LONGEST).singles
    ]
    rows, answers = [], []
    with tempfile.TemporaryDirectory() as scratch:
        found, missing = tiers.find(bundle_path, accurate or ACCURATE.folder, (), Path(scratch))
        for tier in found:
            if tier.name in TIERS:
                row, result = overload(tier, messages)
                rows.append(row)
                counted = ", ".join(f"{status}: {n:,}" for status, n in result.statuses.items())
                answers.append(
                    f"Answers of {tier.name} by status: {counted}. The load generator took "
                    f"{result.own_cpu / result.seconds:.0%} of a core."
                )
    record = Record("overload", "Overload", "tamis bench overload", tables=[rows])
    record.notes = [
        f"{FACTOR} times the saturating rate for {SECONDS} s, Poisson arrivals, texts of up to "
        f"{LONGEST:,} tokens, a deadline of {DEADLINE_MS} ms in every request. Milliseconds. "
        f"Saturation is the mean of {SATURATING} s in a closed loop before and after. *Sent late* "
        "is how far the load generator, on the same cores, was behind its own plan: as much of "
        "the other times may be its own.",
        *answers,
        *missing,
    ]
    record.write(bundle)
    return record


if __name__ == "__main__":
    run(bundles.default_bundle())
