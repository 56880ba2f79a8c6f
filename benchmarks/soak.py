"""Memory over time, with texts of all lengths; and what ONNX Runtime's arena would do to it.

    tamis bench soak [--minutes 10]

Asked are a server of threads and one of two workers, so many minutes each.
"""

import json
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnxruntime as ort

from benchmarks import load, process, traffic
from benchmarks.record import Record, Row
from benchmarks.server import WORKERS, Server
from service.engine.runtime import PROVIDERS, cpu_options
from tamis import bundle as bundles

LONGEST: Final = 8_000
CLIENTS: Final = 4
# Memory counts from here on: before it, threads and shapes are met for the first time.
WARM: Final = 0.2
ARENA_RUNS: Final = 1_500
SHARES: Final = (0, 0.1, 0.2, 0.4, 0.7, 1)


def messages() -> list[load.Message]:
    """Texts of 1 to 8,000 tokens, short ones as often as long ones by the digit."""
    chance = random.Random(11)
    sent = []
    for _ in range(600):
        tokens = round(math.exp(chance.uniform(0, math.log(LONGEST))))
        body = json.dumps({"input": traffic.text(tokens, chance), "explain": "evidence"})
        sent.append(load.message("/moderate", body.encode(), tokens))
    return sent


def soak(
    bundle_path: Path, minutes: float, workers: int
) -> tuple[list[tuple[float, float]], load.Result]:
    """(minute, MB of all its processes) of the server, and what it answered."""
    samples: list[tuple[float, float]] = []
    # A cache of some hundred entries, which the texts, met in turn, always miss and always fill.
    settings = {"cache_bytes": 200_000, "max_wait_ms": 60_000, "workers": workers}
    with Server(bundle_path, **settings) as server:
        done = threading.Event()

        def watch() -> None:
            began = time.perf_counter()
            while not done.wait(1):
                at = (time.perf_counter() - began) / 60
                samples.append((at, server.memory_mb()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        result = load.closed(server.port, messages(), CLIENTS, minutes * 60)
        done.set()
        watcher.join()
    return samples, result


def arena(graph: Path, on: bool) -> None:
    """In a process of its own: runs of changing length, then the resident memory."""
    options = cpu_options(1)
    options.enable_cpu_mem_arena = on
    session = ort.InferenceSession(str(graph), options, providers=[PROVIDERS["cpu"]])
    chance = random.Random(3)
    began = time.perf_counter()
    for _ in range(ARENA_RUNS):
        session.run(None, traffic.feed(chance.randint(3, 256)))
    each = (time.perf_counter() - began) / ARENA_RUNS * 1e3
    print(json.dumps({"MB": round(process.resident_mb(None)), "ms a run": round(each, 2)}))


def compare_arenas(graph: Path) -> list[Row]:
    """Both settings in turns, all shown."""
    rows: list[Row] = []
    for turn in range(2):
        for on in (False, True):
            command = [sys.executable, "-m", "benchmarks.soak", str(graph), str(int(on))]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append({"arena": "on" if on else "off", "turn": turn + 1} | json.loads(out))
    return rows


def _soaked(samples: Sequence[tuple[float, float]], result: load.Result, minutes: float) -> Row:
    settled = [mb for at, mb in samples if at > WARM * minutes]
    fifth = max(len(settled) // 5, 1)
    first, last = (sum(part) / fifth for part in (settled[:fifth], settled[-fifth:]))
    marks = {f"{share:.0%}": round(samples[int(share * (len(samples) - 1))][1]) for share in SHARES}
    return {
        "answers": ", ".join(f"{status}: {n:,}" for status, n in result.statuses.items()),
        "tokens/s": round(result.token_rate),
        **marks,
        "growth": f"{last / first - 1:+.1%}",
    }


def run(bundle_path: Path, minutes: float) -> None:
    """Soak, then compare the arenas."""
    bundle = bundles.load(bundle_path)
    rows = [{"workers": n} | _soaked(*soak(bundle_path, minutes, n), minutes) for n in WORKERS]
    record = Record("soak", "Soak", f"tamis bench soak --minutes {minutes:g}")
    record.notes = [
        f"{minutes:g} minutes for each row, {CLIENTS} clients, texts of 1 to {LONGEST:,} tokens "
        "with evidence. Memory in MB is the proportional set size of all processes, at shares of "
        f"the time; growth is the last fifth's mean beside the first's, after {WARM:.0%} of it.",
        f"Second table: ONNX Runtime's arena, which ours has on: one session, one thread, "
        f"{ARENA_RUNS:,} runs of 3 to 256 tokens.",
    ]
    record.tables = [rows, compare_arenas(bundle.graph)]
    record.write(bundle)


if __name__ == "__main__":
    arena(Path(sys.argv[1]), sys.argv[2] == "1")
