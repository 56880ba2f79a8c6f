"""The reasoner: time to verdict and to reason, and what the classifier feels beside it.

tamis bench reasoner
"""

import json
import re
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import yaml

from benchmarks import load
from benchmarks.record import Record, Row
from benchmarks.saturation import Traffic
from benchmarks.server import Server
from service.engine.classifier import Classifier
from service.engine.reasoner.reasoner import Reasoner, go_on
from service.engine.runtime import CpuRuntime, available_threads
from tamis import bundle as bundles
from tamis import content
from tamis.reasoner import bundle as reasoners
from tamis.reasoner import protocol

EXPLAINS: Final = 4.0
SECONDS: Final = 60
SHARE: Final = 0.3
LONGEST: Final = 64
BANK: Final = yaml.safe_load(files("training.reasoner").joinpath("bank.yaml").read_text("utf-8"))
POLICY: Final = protocol.guidelines(BANK["categories"])
TEXTS: Final = tuple(example["prompt"] for example in BANK["examples"])


def run(bundle_path: Path, reasoner_path: Path | None = None) -> None:
    """Measure one reasoner alone, then beside the classifier."""
    bundle = bundles.load(bundle_path)
    ours = reasoners.load(reasoner_path or reasoners.default_reasoner())
    record = Record("reasoner", "The reasoner", "tamis bench reasoner")
    record.tables = [
        [_latency(Reasoner(ours, n, 1 << 28), n) for n in sorted({1, available_threads()})],
        _beside(bundle_path, bundle, ours.path),
    ]
    record.notes = [
        f"The invented bank's policy and its {len(TEXTS)} requests; milliseconds. Warm: the policy "
        "was read before. An explanation is a warm verdict and its whole reason.",
        f"Then over HTTP: the classifier at {SHARE:.0%} of its saturating rate for {SECONDS} s, "
        f"without and with {EXPLAINS:g} explain requests a second, more than two cores can write "
        "beside it: all get their verdict, and who is not counted under reasons is told that too "
        "many wait or that time is over.",
    ]
    served = (f"{one.name}@{one.fingerprint[:12]}" for one in (bundle, ours))
    record.write(bundle, bundle=", ".join(served))


def _latency(model: Reasoner, threads: int) -> Row:
    cold, warm, whole, written = [], [], [], []
    for text in map(content.prompt, TEXTS):
        model.prefixes.clear()
        for times in (cold, warm):
            began = time.perf_counter()
            model.judge(POLICY, text, go_on)
            times.append(_since(began))
        began = time.perf_counter()
        written.append(model.explain(POLICY, [text], go_on, LONGEST)[1])
        whole.append(_since(began))
    counts = [model.count(POLICY, content.prompt(text)) for text in TEXTS]
    row: Row = {
        "threads": threads,
        "tokens of policy, text, reason": f"{counts[0][0]}, "
        f"{statistics.median(case for _, case in counts):g}, "
        f"{statistics.median(found.written for found in written):g}",
    }
    for name, values in (("cold verdict", cold), ("warm verdict", warm), ("explanation", whole)):
        row[f"{name} p50"] = round(load.percentile(values, 50))
        row[f"{name} p95"] = round(load.percentile(values, 95))
    return row


def _beside(bundle_path: Path, bundle: bundles.Bundle, ours: Path) -> list[Row]:
    classifier = Classifier(bundle, CpuRuntime(bundle.graph))
    singles = Traffic(classifier, 256).singles
    policy = {"name": "bank", "categories": {n: {"definition": d} for n, d in POLICY}}
    bodies = ({"input": text, "explain": "reason", "policy": policy} for text in TEXTS)
    asking = [load.message("/moderate", json.dumps(body).encode(), 0) for body in bodies]
    rows = []
    with Server(bundle_path, reasoner=ours) as server:
        while load.closed(server.port, asking, 1, 0.5).statuses.keys() - {200}:
            time.sleep(0.5)
        rate = SHARE * load.closed(server.port, singles, 8, 10).rate
        before = _counted(server.port)
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
            row |= dict.fromkeys(("explanation p50", "explanation p95", "answers", "reasons"), "–")
            if explains:
                explained = asked.result()
                row["explanation p50"] = round(explained.percentile(50))
                row["explanation p95"] = round(explained.percentile(95))
                row["answers"] = ", ".join(f"{s}: {n}" for s, n in explained.statuses.items())
                after = _counted(server.port)
                new = {status: after[status] - before[status] for status in after}
                row["reasons"] = ", ".join(f"{s}: {n}" for s, n in new.items() if n)
            rows.append(row)
    return rows


def _counted(port: int) -> Counter[str]:
    """Explanations so far, by how they ended."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'tamis_explanations_total{status="(\w+)"} (\S+)', text)
    return Counter({status: int(float(count)) for status, count in found})


def _since(began: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - began) * 1e3
