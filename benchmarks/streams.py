"""What streams save, what LiteLLM's cost, and whether many at once leave memory flat.

    python -m benchmarks.streams [--streams 200] [--seconds 120] [--rehearse]

``--rehearse`` takes the shortest text alone and keeps no result. Windows and tokens are counts, the
same on every machine.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import process
from benchmarks.load import percentile
from benchmarks.record import Record, Row
from benchmarks.server import Server
from tamis import bundle as bundles

WORDS: Final = (
    *("garden", "many", "paths", "each", "of", "small", "bench", "people", "drink", "tea", "rain"),
)
# Characters of the text, and of what is added before it is sent again.
CASES: Final = ((409, 15), (2_000, 15), (8_000, 30))
PROMPT: Final = "Tell me of it."
RUN: Final = 'tamis_run_tokens_total{kind="text"}'
HOOK: Final = "/beta/litellm_basic_guardrail_api"
LENGTHS: Final = range(200, 3_000)
STEP: Final = 60
# One in so many is left in the middle.
ABANDONED: Final = 20
# Memory counts from here on, as a share of the time: before it, all is met for the first time.
WARM: Final = 0.2


def text(length: int, seed: int | None = None) -> str:
    """Random words."""
    draw = random.Random(length if seed is None else seed)
    return " ".join(draw.choice(WORDS) for _ in range(length))[:length]


def grown(whole: str, step: int) -> list[str]:
    """A text as it is sent while it is written."""
    return [*(whole[:n] for n in range(step, len(whole), step)), whole]


def saved(client: httpx.Client, cases: Sequence[tuple[int, int]]) -> list[Row]:
    """Windows and tokens of texts sent whole, and as named streams."""
    rows: list[Row] = []
    for length, step in cases:
        whole = text(length)
        sent = grown(whole, step)
        windows = tokens = run = cost = 0
        for part in sent:
            item = {"prompt": PROMPT, "response": part}
            alone = _post(client, "/moderate", {"input": item, "judge": ["response"]})
            windows, tokens = windows + alone["windows"], tokens + alone["tokens"]
            body = {"text": part, "prompt": PROMPT, "final": part == whole}
            told = _post(client, f"/moderate/stream/{length}", body)
            run, cost = run + told["run"]["windows"], cost + told["run"]["tokens"]
        assert told["fields"] == alone["fields"]
        rows.append(
            {
                "characters": length,
                "sent": len(sent),
                "windows, each text whole": windows,
                "tokens of those": tokens,
                "windows, as a stream": run,
                "tokens": cost,
            }
        )
    return rows


def through_litellm(client: httpx.Client, cases: Sequence[tuple[int, int]]) -> list[Row]:
    """What LiteLLM's guardrail calls take: with the id of their call, and each text anew."""
    rows: list[Row] = []
    for length, step in cases:
        sent = grown(text(length, seed=1), step)
        for how, named in (("incremental", True), ("whole text", False)):
            before, waits = _run_tokens(client), []
            for part in sent:
                body: Row = {"input_type": "response", "texts": [part]}
                began = time.perf_counter()
                _post(client, HOOK, body | ({"litellm_call_id": f"{length}"} if named else {}))
                waits.append((time.perf_counter() - began) * 1e3)
            rows.append(
                {
                    "characters": length,
                    "read": how,
                    "guard calls": len(sent),
                    "tokens run": round(_run_tokens(client) - before),
                    "ms a call, median": round(percentile(waits, 50), 1),
                    "ms of the last call": round(waits[-1], 1),
                    "ms in all": round(sum(waits)),
                }
            )
    return rows


@dataclass(slots=True)
class Crowd:
    """Streams at once: what they were answered, and the server's memory meanwhile."""

    statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    ended: int = 0
    abandoned: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)


async def crowd(server: Server, streams: int, seconds: float) -> Crowd:
    """So many streams, each a text after the other, for so long."""
    found, began = Crowd(), time.perf_counter()
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=streams)
    url = f"http://127.0.0.1:{server.port}"

    async def one(client: httpx.AsyncClient, place: int) -> None:
        draw = random.Random(place)
        for turn in range(10**9):
            whole = text(draw.choice(LENGTHS), seed=draw.randrange(10**9))
            sent = grown(whole, STEP)
            leave = draw.randrange(ABANDONED) == 0
            for part in sent[: len(sent) // 2] if leave else sent:
                if time.perf_counter() - began > seconds:
                    return
                body = {"text": part, "prompt": PROMPT, "final": part == whole}
                asked = time.perf_counter()
                answer = await client.post(f"/moderate/stream/{place}:{turn}", json=body)
                found.statuses[answer.status_code] += 1
                found.waits.append((time.perf_counter() - asked) * 1e3)
            found.abandoned += leave
            found.ended += not leave

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            at = time.perf_counter() - began
            found.memory.append((at, process.resident_mb(server.pid)))

    watcher = asyncio.create_task(watch())
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120) as client:
        await asyncio.gather(*(one(client, place) for place in range(streams)))
    watcher.cancel()
    return found


def slope(memory: Sequence[tuple[float, float]], seconds: float) -> float:
    """Mean memory of the last fifth over that of the first, after warm-up, less one."""
    settled = [mb for at, mb in memory if at > WARM * seconds]
    fifth = max(len(settled) // 5, 1)
    return sum(settled[-fifth:]) / sum(settled[:fifth]) - 1


def run(bundle_path: Path, streams: int, seconds: float, keep: bool) -> None:
    """Measure all three; a rehearsal, which is not kept, of the first case only."""
    cases = CASES if keep else CASES[:1]
    bundle = bundles.load(bundle_path)
    usual: dict[str, Any] = {"max_wait_ms": 60_000, "feedback": "", "reasoner": ""}
    with Server(bundle_path, **usual) as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=120) as client:
            counts, calls = saved(client, cases), through_litellm(client, cases)
        found = asyncio.run(crowd(server, streams, seconds))
    marks = [
        found.memory[round(share * (len(found.memory) - 1))]
        for share in (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    command = f"python -m benchmarks.streams --streams {streams} --seconds {seconds:g}"
    record = Record("streams", "Streams", command)
    record.notes = [
        "First table: answers of random words, sent whole again and again, each judged alone, and "
        "as a [stream](streams.md) by name. Tokens of a stream count the markers and the prompt "
        "in each window, the others do not.",
        "Second: the calls that LiteLLM makes of such a stream (every fifth chunk of three "
        "characters; of the last case of six), one after the other, read incrementally by the id "
        "of their call, and each anew. LiteLLM waits for each before it lets more out.",
        f"Third: {streams} streams at once for {seconds:g} s, each sending its text every {STEP} "
        f"characters as soon as it is answered: {found.ended:,} ended, {found.abandoned:,} were "
        f"abandoned, {sum(found.statuses.values()):,} answers (by status: "
        f"{dict(found.statuses)}), median {percentile(found.waits, 50):,.0f} ms, p99 "
        f"{percentile(found.waits, 99):,.0f} ms. Resident memory after warm-up ({WARM:.0%} of the "
        f"time), mean of the last fifth against the first: {slope(found.memory, seconds):+.1%}.",
    ]
    memory: list[Row] = [{"second": f"{at:.0f}", "MB": round(mb)} for at, mb in marks]
    record.tables = [counts, calls, memory]
    record.write(bundle, keep=keep)


def _post(client: httpx.Client, path: str, body: Row) -> Any:
    answer = client.post(path, json=body)
    answer.raise_for_status()
    return answer.json()


def _run_tokens(client: httpx.Client) -> float:
    """Tokens that were run so far."""
    lines = client.get("/metrics").text.splitlines()
    counted = next(line for line in lines if line.startswith(RUN))
    return float(counted.rpartition(" ")[2])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=bundles.default_bundle())
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rehearse", action="store_true", help="short, and keeps nothing")
    args = parser.parse_args()
    run(args.bundle, args.streams, args.seconds, not args.rehearse)


if __name__ == "__main__":
    main()
