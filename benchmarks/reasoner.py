"""The reasoner: time to verdict and to reason, tokens a second, and what the classifier feels.

    tamis bench reasoner

Tokens a second stand beside llama.cpp's where ``llama-cpp-python`` can be imported and
``TAMIS_BENCH_GGUF`` names the same base.
"""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks import load
from benchmarks.record import Record, Row
from benchmarks.server import Server
from benchmarks.traffic import Traffic
from service.engine.classifier import Classifier
from service.engine.reasoner import Reasoner, go_on
from service.engine.runtime import CpuRuntime, available_threads
from tamis import bundle as bundles
from tamis import content, reasoning
from tamis import reasoner as reasoners

REPEATS: Final = 20
WRITTEN: Final = 32
EXPLAINS: Final = 4.0
SECONDS: Final = 60
SHARE: Final = 0.3
POLICY: Final = {
    "investment advice": "Recommends buying, holding or selling a particular security, fund or "
    "coin, or says how much of one's money to put into it.",
    "loan promises": "Promises that a loan, card or mortgage will be granted, or names a rate as "
    "certain before anybody has checked the customer.",
    "tax avoidance": "Explains how to hide income, accounts or gifts from the tax office, or how "
    "to make a payment look like something else.",
    "account sharing": "Asks for or gives away passwords, one-time codes or card numbers, or "
    "describes how to use another person's account.",
    "competitor talk": "Compares our products with those of another bank, or speaks ill of another "
    "bank, its staff or its customers.",
    "rude service": "Insults, mocks or threatens a customer or a member of staff, or refuses to "
    "help because of who somebody is.",
}
TEXT: Final = (
    "I have ten thousand put aside and my neighbour says that the new battery fund will double by "
    "spring. Should I put all of it in, or is half of it enough to begin with?"
)


def run(bundle_path: Path, reasoner_path: Path | None = None) -> None:
    """Measure one reasoner alone, then beside the classifier."""
    bundle = bundles.load(bundle_path)
    ours = reasoners.load(reasoner_path or reasoners.default_reasoner())
    record = Record("reasoner", "The reasoner", "tamis bench reasoner")
    threads = sorted({1, available_threads()})
    speeds = [_speed(Reasoner(ours, n, 1 << 28), n) for n in threads]
    gguf = os.environ.get("TAMIS_BENCH_GGUF")
    if gguf:
        speeds += [row for n in threads if (row := _llama(Path(gguf), n))]
    record.tables = [
        [_latency(Reasoner(ours, threads[-1], 1 << 28))],
        speeds,
        _beside(bundle_path, bundle, ours.path),
    ]
    record.notes = [
        f"A policy of {len(POLICY)} categories with definitions, a text of "
        f"{len(TEXT.split())} words; milliseconds over {REPEATS} runs. Warm: the policy was read "
        f"before. A reason is {WRITTEN} tokens here.",
        "Tokens a second, read and written, and CPU milliseconds a token; the runs of both sides "
        "follow each other.",
        f"The classifier at {SHARE:.0%} of its saturating rate for {SECONDS} s, without and with "
        f"{EXPLAINS:g} explain requests a second.",
    ]
    record.write(bundle, reasoner=f"{ours.name}@{ours.fingerprint[:12]}")


def _latency(model: Reasoner) -> Row:
    policy, text = reasoning.guidelines(dict(POLICY)), content.prompt(TEXT)
    cold, warm, whole = [], [], []
    for _ in range(REPEATS):
        model.prefixes.clear()
        cold.append(_ms(lambda: model.judge(policy, text, go_on)))
        warm.append(_ms(lambda: model.judge(policy, text, go_on)))
        whole.append(_ms(lambda: _write(model, policy, text)))
    prefix, case = model.count(policy, text)
    row: Row = {"policy tokens": prefix, "text tokens": case}
    for name, values in (("cold verdict", cold), ("warm verdict", warm), ("explanation", whole)):
        row[f"{name} p50"] = round(load.percentile(values, 50))
        row[f"{name} p95"] = round(load.percentile(values, 95))
    return row


def _write(model: Reasoner, policy: tuple[reasoning.Guideline, ...], text: content.Content) -> None:
    """A warm verdict and as many tokens behind it as a reason has, whatever the model says."""
    model.judge(policy, text, go_on)
    for token in range(WRITTEN):
        model.decoder.read([100 + token]).argmax()


def _speed(model: Reasoner, threads: int) -> Row:
    decoder, ids = model.decoder, list(range(100, 356))

    def read() -> None:
        decoder.rewind(0)
        decoder.read(ids)

    def write() -> None:
        decoder.rewind(256)
        for token in ids[:WRITTEN]:
            decoder.read([token]).argmax()

    read()
    return _rates("ours", threads, len(ids), read, write)


def _llama(gguf: Path, threads: int) -> Row | None:
    try:
        from llama_cpp import Llama  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    model = Llama(
        str(gguf),
        n_ctx=1024,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=512,
        verbose=False,
    )
    ids = list(range(100, 356))

    def read() -> None:
        model.reset()
        model.eval(ids)

    def write() -> None:
        model.n_tokens = 256
        for token in ids[:WRITTEN]:
            model.eval([token])

    read()
    return _rates("llama.cpp", threads, len(ids), read, write)


def _rates(
    who: str, threads: int, tokens: int, read: Callable[[], None], write: Callable[[], None]
) -> Row:
    row: Row = {"": who, "threads": threads}
    for name, count, work in (("read", tokens, read), ("written", WRITTEN, write)):
        wall, cpu = [], []
        for _ in range(5):
            spent = time.process_time()
            wall.append(_ms(work))
            cpu.append((time.process_time() - spent) * 1e3)
        row[f"{name}/s"] = round(count * 1e3 / min(wall), 1)
        row[f"CPU ms a token {name}"] = round(min(cpu) / count, 2)
    return row


def _beside(bundle_path: Path, bundle: bundles.Bundle, ours: Path) -> list[Row]:
    classifier = Classifier(bundle, CpuRuntime(bundle.graph))
    singles = Traffic(classifier, 256).singles
    policy = {"name": "bank", "categories": {n: {"definition": d} for n, d in POLICY.items()}}
    body = json.dumps({"input": TEXT, "explain": "reason", "policy": policy}).encode()
    asking = [load.message("/moderate", body, 0)]
    rows = []
    with Server(bundle_path, reasoner=ours) as server:
        while load.closed(server.port, asking, 1, 0.5).statuses.keys() - {200}:
            time.sleep(0.5)
        rate = SHARE * load.closed(server.port, singles, 8, 10).rate
        for explains in (0.0, EXPLAINS):
            with ThreadPoolExecutor(1) as pool:
                if explains:
                    asked = pool.submit(load.open_loop, server.port, asking, explains, SECONDS)
                result = load.open_loop(server.port, singles, rate, SECONDS)
            row: Row = {
                "explain requests/s": explains,
                "classifier requests/s": round(rate),
                "p50": round(result.percentile(50), 1),
                "p99": round(result.percentile(99), 1),
            }
            if explains:
                explained = asked.result()
                row["explanation p50"] = round(explained.percentile(50))
                row["explanation p95"] = round(explained.percentile(95))
                row["answers"] = ", ".join(f"{s}: {n}" for s, n in explained.statuses.items())
            rows.append(row)
    return rows


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
