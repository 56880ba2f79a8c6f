"""A policy's own rules: what they add to a verdict, and what the classifier feels beside them.

    tamis bench rules              (--rehearse: a few requests, nothing is kept)

Rules have 30 tokens, as written ones have in the middle. Cold: neither rules nor text were seen.
Warm: the rules were. Again: both were. Each request's text is new but for the last kind.
"""

import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks import load, traffic
from benchmarks.latency import Client
from benchmarks.record import Record, Row
from benchmarks.saturation import Traffic
from benchmarks.server import Server
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from tamis import bundle as bundles
from tamis import rules

COUNTS: Final = (1, 8, 24)
TOKENS: Final = (50, 200)
RULE_TOKENS: Final = 30
CALLS: Final = 100
# Of the classifier's saturating rate; requests with eight rules a second beside it, and how long.
SHARE: Final = 0.3
ASKED: Final = 4.0
SECONDS: Final = 60.0
SHORT: Final = 256


def run(
    bundle_path: Path, encoder_paths: Sequence[Path] | None = None, rehearse: bool = False
) -> None:
    """Measure one client, then both kinds of traffic side by side, with one encoder after another.

    By default with both of ours, as far as they are there.
    """
    bundle = bundles.load(bundle_path)
    paths = encoder_paths or [
        path
        for path in (rules.default_policy_encoder(), rules.ACCURATE.folder)
        if (path / bundles.MANIFEST).is_file()
    ]
    encoders = [rules.load(path) for path in paths or [rules.default_policy_encoder()]]
    calls, seconds = (3, 2.0) if rehearse else (CALLS, SECONDS)
    record = Record("rules", "A policy's own rules", "tamis bench rules")
    record.tables = [[], []]
    for encoder in encoders:
        who = {"encoder": encoder.name}
        with Server(bundle_path, policy_encoder=encoder.path) as server:
            with Client(server.port) as client:
                chance = random.Random(1)
                for count in (0, *COUNTS):
                    rows = [_row(client, chance, count, tokens, calls) for tokens in TOKENS]
                    record.tables[0] += [who | row for row in rows]
            beside = _beside(server, Classifier(bundle, CpuRuntime(bundle.graph)), seconds)
            record.tables[1] += [who | row for row in beside]
    record.notes = [
        f"Milliseconds of whole requests over one connection, {calls} of each kind in turns; rules "
        f"of {RULE_TOKENS} tokens. Cold: neither the rules nor the text were seen before. Warm: "
        "the rules were. Again: both were, and the classifier alone runs. Without rules: the same "
        "texts under the default policy.",
        f"Then the classifier at {SHARE:.0%} of its saturating rate for {seconds:g} s, without and "
        f"with {ASKED:g} requests a second beside it of 8 rules and {TOKENS[0]} tokens.",
    ]
    all_ = (f"{one.name}@{one.fingerprint[:12]}" for one in (bundle, *encoders))
    record.write(bundle, keep=not rehearse, bundle=", ".join(all_))


def _row(client: Client, chance: random.Random, count: int, tokens: int, calls: int) -> Row:
    kept = policy(count, chance)
    times: dict[str, list[float]] = {"cold": [], "warm": [], "again": []}
    client.post(_message(traffic.text(tokens, chance), kept))
    for _ in range(calls):
        text = traffic.text(tokens, chance)
        for name, rules_of, said in (
            ("cold", policy(count, chance), traffic.text(tokens, chance)),
            ("warm", kept, text),
            ("again", kept, text),
        ):
            wire = _message(said, rules_of)
            began = time.perf_counter()
            client.post(wire)
            times[name].append((time.perf_counter() - began) * 1e3)
    row: Row = {"rules": count, "tokens": tokens}
    for name, spent in times.items():
        known = count or name == "warm"
        for percent in (50, 95):
            value = round(load.percentile(spent, percent), 1) if known else "–"
            row[f"{name} p{percent}"] = value
    return row


def _beside(server: Server, classifier: Classifier, seconds: float) -> list[Row]:
    singles, chance = Traffic(classifier, SHORT).singles, random.Random(2)
    kept = policy(8, chance)
    asking = [
        load.message("/moderate", _body(traffic.text(TOKENS[0], chance), kept), TOKENS[0])
        for _ in range(round(2 * ASKED * seconds))
    ]
    rate = SHARE * load.closed(server.port, singles, 8, min(seconds, 10.0)).rate
    found = []
    for asked in (0.0, ASKED):
        with ThreadPoolExecutor(1) as pool:
            if asked:
                other = pool.submit(load.open_loop, server.port, asking, asked, seconds)
            result = load.open_loop(server.port, singles, rate, seconds)
        row: Row = {
            "requests with rules/s": asked,
            "classifier requests/s": round(rate),
            "p50": round(result.percentile(50), 1),
            "p99": round(result.percentile(99), 1),
        }
        row |= dict.fromkeys(("with rules p50", "with rules p95", "answers"), "–")
        if asked:
            ruled = other.result()
            row["with rules p50"] = round(ruled.percentile(50), 1)
            row["with rules p95"] = round(ruled.percentile(95), 1)
            row["answers"] = ", ".join(f"{s}: {n}" for s, n in ruled.statuses.items())
        found.append(row)
    return found


def policy(count: int, chance: random.Random) -> dict[str, Any] | None:
    """A policy of so many rules, none like any other; None: the default policy."""
    if not count:
        return None
    # Of the name two words, a number and a colon, and each word of the definition, are a token.
    names = (f"{traffic.text(2, chance)} {n}" for n in range(count))
    words = RULE_TOKENS - 4
    definitions = {name: {"definition": traffic.text(words, chance)} for name in names}
    return {"name": "measured", "categories": definitions}


def _message(text: str, rules_of: dict[str, Any] | None) -> bytes:
    return load.message("/moderate", _body(text, rules_of), 0).wire


def _body(text: str, rules_of: dict[str, Any] | None) -> bytes:
    return json.dumps({"input": text} | ({"policy": rules_of} if rules_of else {})).encode()


if __name__ == "__main__":
    run(bundles.default_bundle())
