"""The same text, the same score, whatever the load: real texts alone, in batches, under load.

    tamis bench invariance --data eval

Scores are compared as the service prints them and, in process, bit by bit.
"""

import asyncio
import gzip
import json
import random
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import load, traffic
from benchmarks.record import Record, Row
from benchmarks.server import WORKERS, Server
from service.engine.classifier import Classifier
from service.engine.engine import Engine
from service.engine.runtime import CpuRuntime
from service.engine.warmup import warm_up
from tamis import bundle as bundles
from tamis.content import prompt
from tamis.verdict import Finding

TEXTS: Final = 2_000
BATCHES: Final = (2, 7, 32, 200)


def sample(data: Path) -> list[str]:
    """Texts of all files of a folder, drawn evenly."""
    texts = []
    for path in sorted(data.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            texts += [row["prompt"] for line in stream if (row := json.loads(line))["prompt"]]
    return random.Random(3).sample(sorted(set(texts)), TEXTS)


def ask(port: int, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Verdicts of one request, without what is no score."""
    body = json.dumps({"input": list(texts)}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/moderate", body, timeout=120) as answer:
        results = json.load(answer)["results"]
    return [{k: v for k, v in result.items() if k not in ("id", "timings")} for result in results]


def in_process(classifier: Classifier, texts: Sequence[str]) -> tuple[list[Finding], ...]:
    """Findings one after the other, and of everything at once, unrounded."""
    alone = [classifier.judge(prompt(text)) for text in texts]
    engine = Engine(
        classifier, warm_up(classifier), workers=4, max_queued_tokens=10**9, max_wait=1e9
    )
    found, _ = asyncio.run(engine.judge([(prompt(text),) for text in texts]))
    engine.close()
    return alone, [one for (one,) in found]


def over_http(bundle_path: Path, texts: Sequence[str], workers: int) -> list[Row]:
    """In requests of several, and among other clients, beside each text in a request of its own."""
    settings = {"max_wait_ms": 60_000, "max_queued_tokens": 10**8, "workers": workers}
    where = f"HTTP, {workers or 'no'} workers"
    rows: list[Row] = []
    with Server(bundle_path, **settings) as server:
        one_by_one = [ask(server.port, [text])[0] for text in texts]
        for size in BATCHES:
            order = random.Random(size).sample(range(TEXTS), TEXTS)
            got: dict[int, dict[str, Any]] = {}
            for at in range(0, TEXTS, size):
                some = order[at : at + size]
                got |= zip(some, ask(server.port, [texts[n] for n in some]), strict=True)
            same = sum(got[n] == one_by_one[n] for n in range(TEXTS))
            rows.append({"scored": f"{where}, requests of {size}", "equal to alone": same})
        messages = [
            load.message("/moderate", json.dumps({"input": text}).encode(), n)
            for text, n in traffic.texts(500, seed=5)
        ]
        done = threading.Event()

        def disturb() -> None:
            while not done.is_set():
                load.closed(server.port, messages, 8, 2, warm=0)

        thread = threading.Thread(target=disturb)
        thread.start()
        loaded = [ask(server.port, [text])[0] for text in texts]
        done.set()
        thread.join()
        same = sum(a == b for a, b in zip(loaded, one_by_one, strict=True))
        rows.append({"scored": f"{where}, eight other clients busy", "equal to alone": same})
    return rows


def run(bundle_path: Path, data: Path) -> None:
    """Compare."""
    bundle = bundles.load(bundle_path)
    texts = sample(data)
    alone, together = in_process(Classifier(bundle, CpuRuntime(bundle.graph)), texts)
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    rows: list[Row] = [{"scored": "in process, 4 threads, all at once", "equal to alone": same}]
    for workers in WORKERS:
        rows += over_http(bundle_path, texts, workers)
    record = Record("invariance", "Batch invariance", "tamis bench invariance --data DIR")
    record.notes = [f"{TEXTS:,} real texts of mixed lengths, every score compared exactly."]
    record.tables = [rows]
    record.write(bundle)
