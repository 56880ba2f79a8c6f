"""Every tier beside the bare runtime, in turns: latency, memory, size, and how often it asks twice.

    tamis bench tiers [--accurate BUNDLE] [--also NAME=BUNDLE] [--data DIR]

A tier whose bundle is not there is left out, and a line says so; ``--also`` measures further
bundles as they would serve alone (the multilingual body, another size). Each server has the machine
to itself. Its memory is read before this process opens a bundle, whose pages both would share.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from benchmarks import load, overblocking, traffic
from benchmarks.latency import LENGTHS, Client, bare_runs, compared
from benchmarks.record import Record, Row
from benchmarks.server import Server
from export.delta import INDEX
from service.engine.classifier import Classifier
from service.engine.runtime import CpuRuntime
from service.engine.warmup import warm_up
from tamis import bundle as bundles
from tamis.bundle import Bundle, BundleError
from tamis.content import Content, Question
from tamis.tiers import ACCURATE, BANDS, FORMAT, OVERALL, load_bands
from training.datasets.schema import data_files, read_rows
from training.evaluation.suite import content_of

ROUNDS: Final = 5
# Of a round, a length's calls: the bare runtime and the service in turns of so many seconds each.
TURNS: Final = 4
SECONDS: Final = 0.4
FEWEST: Final = 3
MIXED: Final = 300
FAST: Final = "fast"
CASCADE: Final = "cascade"
ALWAYS: Final = "cascade, asked twice"


@dataclass(frozen=True, slots=True)
class Tier:
    """A way to serve: what the server is told, its bundles, and those that a sure text meets."""

    name: str
    settings: dict[str, object]
    bundles: tuple[Bundle, ...]
    met: tuple[Bundle, ...]

    @contextmanager
    def start(self, **more: object) -> Iterator[Server]:
        """A server of it, without a reasoner, once it has all its bundles loaded.

        It answers before that, by the fast one alone.

        Raises:
            RuntimeError: where one cannot be loaded.
        """
        with Server(self.bundles[0].path, **more | self.settings) as server:
            while (said := server.health()) is None or said.get("accurate", "ready") != "ready":
                if said is not None and said["accurate"] == "failed":
                    raise RuntimeError(str(said.get("reason")))
                time.sleep(0.02)
            yield server


class Bare:
    """A bundle's graph, run on the token ids of a text alone."""

    def __init__(self, bundle: Bundle) -> None:
        self.classifier = Classifier(bundle, CpuRuntime(bundle.graph))
        warm_up(self.classifier)

    def runs(self, text: str) -> Callable[[], None]:
        """All windows of a text, made beforehand."""
        return bare_runs(self.classifier, self.classifier.encode(Content("prompt", text)).windows)

    def text(self, tokens: int) -> str:
        """Harmless words that are one token each in this bundle's vocabulary."""
        known = [w for w in traffic.WORDS if self._tokens(f"the {w}") == self._tokens("the") + 1]
        return " ".join(random.Random(tokens).choices(known, k=tokens))

    def _tokens(self, text: str) -> int:
        return self.classifier.encode(Content("prompt", text)).tokens


def find(
    fast: Path, accurate: Path, also: Sequence[tuple[str, Path]], scratch: Path | None
) -> tuple[list[Tier], list[str]]:
    """The tiers whose bundles are there, and a line for each that is not.

    ``scratch`` is where a cascade is made that asks twice of everything; none: without it.

    Raises:
        BundleError: where the fast bundle cannot be used, which all others stand beside.
    """
    first = bundles.load(fast)
    found, missing = [Tier(FAST, {"tier": "fast"}, (first,), (first,))], []
    second: Bundle | None = None
    try:
        second = bundles.load(accurate)
        alone = {"tier": "accurate", "accurate": accurate}
        found.append(Tier("accurate", alone, (second,), (second,)))
    except BundleError as error:
        missing.append(f"accurate and cascade are left out: {_said(error, accurate)}")
    if second is not None:
        both = first, second
        try:
            load_bands(accurate).check(first, second)
            cascade = {"tier": CASCADE, "accurate": accurate}
            found.append(Tier(CASCADE, cascade, both, (first,)))
        except BundleError as error:
            missing.append(f"cascade is left out: {_said(error, accurate)}")
        if scratch is not None:
            asked = cascade_of_all(first, second, scratch)
            always = {"tier": CASCADE, "accurate": asked}
            found.append(Tier(ALWAYS, always, both, both))
    for name, path in also:
        try:
            other = bundles.load(path)
            found.append(Tier(name, {"tier": "fast"}, (other,), (other,)))
        except BundleError as error:
            missing.append(f"{name} is left out: {_said(error, path)}")
    return found, missing


def _said(error: BundleError, path: Path) -> str:
    """What is wrong with a bundle; where it lies on this machine is nobody's business."""
    return str(error).replace(str(path), path.name)


def cascade_of_all(fast: Bundle, accurate: Bundle, scratch: Path) -> Path:
    """The accurate bundle with bands that hold every score: what a second opinion costs."""
    folder = scratch / "asked"
    folder.mkdir()
    for path in accurate.path.iterdir():
        if path.name != BANDS:
            (folder / path.name).symlink_to(path.resolve())
    bands = {
        "format": FORMAT,
        "fast": {"fingerprint": fast.fingerprint},
        "accurate": {"fingerprint": accurate.fingerprint},
        "bands": {question: {OVERALL: [0, 1]} for question in get_args(Question)},
    }
    (folder / BANDS).write_text(json.dumps(bands), encoding="utf-8")
    return folder


@contextmanager
def serving(tier: Tier) -> Iterator[tuple[Server, Client]]:
    """A server, and a connection to it."""
    with tier.start() as server, Client(server.port) as client:
        yield server, client


def footprint(tier: Tier, delta: Path | None) -> Row:
    """A tier's size on disk, how soon it serves, and the memory of its process, in MB."""
    began = time.perf_counter()
    with serving(tier) as (server, client):
        whole = time.perf_counter() - began
        ready = server.memory_mb()
        for tokens in LENGTHS:
            wire = _message({"input": {"prompt": traffic.text(tokens, random.Random(tokens))}})
            for _ in range(FEWEST * TURNS):
                client.post(wire)
        return {
            "tier": tier.name,
            "bundles, MB": " + ".join(f"{size_mb(b.path):.1f}" for b in tier.bundles),
            "delta, MB": "" if delta is None else f"{size_mb(delta):.1f}",
            "answers after, s": f"{server.start_seconds:.2f}",
            "whole after, s": f"{whole:.2f}",
            "PSS when whole, MB": round(ready),
            "PSS after texts of all lengths, MB": round(server.memory_mb()),
        }


def size_mb(folder: Path) -> float:
    """A folder's files on disk, in MB."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6


def measure(client: Client, bare: Sequence[Bare], tokens: int) -> dict[str, float]:
    """One length in one round: the bare runtime and the service in turns."""
    text = bare[0].text(tokens)
    runs = [one.runs(text) for one in bare]
    wire = _message({"input": {"prompt": text}})

    def raw() -> None:
        for run in runs:
            run()

    def served() -> None:
        client.post(wire)

    raw()
    served()
    alone: list[float] = []
    http: list[float] = []
    for _ in range(TURNS):
        alone += _timed(raw)
        http += _timed(served)
    return compared(alone, http)


def mix(data: Path | None) -> tuple[list[Content], str]:
    """Ordinary traffic, and what it is."""
    if data is None:
        rows = [row.content for row in overblocking.rows() if row.lang is None]
        about = "rows of the benign set (`tests/data/benign`)"
    else:
        rows = [content_of(row) for path in data_files(data) for row in read_rows(path)]
        about = f"rows of `{data.name}`"
    drawn = random.Random(0).sample(rows, min(MIXED, len(rows)))
    return drawn, f"{len(drawn)} {about}"


def through(client: Client, wires: Sequence[bytes]) -> dict[str, float]:
    """All requests of the mix, one after the other; how many were asked twice, counted before."""
    answers = [json.loads(client.post(wire)) for wire in wires]
    spent = []
    for wire in wires:
        began = time.perf_counter()
        client.post(wire)
        spent.append((time.perf_counter() - began) * 1e3)
    return {
        "p50": statistics.median(spent),
        "p95": load.percentile(spent, 95),
        "mean": statistics.fmean(spent),
        "twice": statistics.fmean(one.get("second_opinion") == "given" for one in answers),
    }


def build_seconds(delta: Path) -> tuple[float, float]:
    """What `tamis export accurate` takes, fetching what is not in the cache; and once more."""
    with tempfile.TemporaryDirectory() as scratch:
        spent = []
        for name in ("first", "again"):
            command = ["export", "accurate", "--delta", str(delta), "--out", f"{scratch}/{name}"]
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "tamis", *command], check=True, capture_output=True
            )
            spent.append(time.perf_counter() - began)
    return spent[0], spent[1]


def run(
    bundle_path: Path,
    accurate: Path | None = None,
    also: Sequence[tuple[str, Path]] = (),
    data: Path | None = None,
    rounds: int = ROUNDS,
    rehearse: bool = False,
) -> Record:
    """Measure; a rehearsal is one round, and keeps nothing."""
    rounds = 1 if rehearse else rounds
    delta = ACCURATE.delta if (ACCURATE.delta / INDEX).is_file() else None
    with tempfile.TemporaryDirectory() as scratch:
        tiers, missing = find(bundle_path, accurate or ACCURATE.folder, also, Path(scratch))
        for line in missing:
            print(line, flush=True)
        sizes = [footprint(t, delta if t.name == "accurate" else None) for t in tiers]
        lengths, mixed, about = _rounds(tiers, data, rounds)
    built = f"There is no delta (`{ACCURATE.delta.name}`), so nothing is said of the time to build."
    if delta is not None:
        first, again = build_seconds(delta)
        built = (
            f"`tamis export accurate` took {first:.0f} s with what had to be fetched, and "
            f"{again:.0f} s with the base in the cache."
        )
    command = ["tamis bench tiers", *(f"--also {name}={path.name}" for name, path in also)]
    command += [] if data is None else [f"--data {data.name}"]
    record = Record("tiers", "Tiers", " ".join(command))
    record.notes = [
        f"One client, milliseconds, medians of rounds ({rounds}); in each every tier has the "
        "machine to itself, in changing order. `raw` is `session.run` on the windows' arrays, of "
        "all that the text goes through, in the benchmark's own process, in turns with `HTTP`, "
        "from text to verdict. These texts leave the fast bundle sure; "
        f"`{ALWAYS}` is the cascade with bands that hold every score.",
        f"The last table is {about}. `× fast` compares p50 of the same round.",
        built,
        *missing,
    ]
    record.tables = [table for table in (sizes, lengths, mixed) if table]
    met = {bundle.path: bundle for tier in tiers for bundle in tier.bundles}
    names = ", ".join(f"{bundle.name}@{bundle.fingerprint[:12]}" for bundle in met.values())
    record.write(tiers[0].bundles[0], keep=not rehearse, bundle=names)
    return record


def _rounds(
    tiers: Sequence[Tier], data: Path | None, rounds: int
) -> tuple[list[Row], list[Row], str]:
    """The tables of lengths and of the mix, and what the mix is."""
    bare = {bundle.path: Bare(bundle) for tier in tiers for bundle in tier.bundles}
    contents, about = mix(data)
    wires = [_message(body_of(content)) for content in contents]
    lengths: dict[tuple[str, int], list[dict[str, float]]] = {
        (tier.name, tokens): [] for tier in tiers for tokens in LENGTHS
    }
    mixed: dict[str, list[dict[str, float]]] = {tier.name: [] for tier in tiers}
    for number in range(rounds):
        for tier in random.Random(number).sample(tiers, len(tiers)):
            with serving(tier) as (_, client):
                mine = [bare[bundle.path] for bundle in tier.met]
                for tokens in LENGTHS:
                    lengths[tier.name, tokens].append(measure(client, mine, tokens))
                mixed[tier.name].append(through(client, wires))
            print(number, tier.name, f"{mixed[tier.name][-1]['p50']:.2f} ms", flush=True)
    by_length: list[Row] = [
        {"tier": name, "tokens": tokens} | _rounded(_middle(found))
        for (name, tokens), found in lengths.items()
    ]
    by_tier: list[Row] = []
    for name, found in mixed.items():
        ratio = statistics.median(
            one["p50"] / fast["p50"] for one, fast in zip(found, mixed[FAST], strict=True)
        )
        middle = _middle(found)
        twice = middle.pop("twice")
        shown = {"× fast": f"{ratio:.2f}", "asked twice": f"{twice:.1%}"}
        by_tier.append({"tier": name} | _rounded(middle) | shown)
    return by_length, by_tier, about


def _middle(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def _rounded(figures: dict[str, float]) -> Row:
    return {key: round(value, 2) for key, value in figures.items()}


def _timed(call: Callable[[], object]) -> list[float]:
    """Milliseconds of each call of a turn."""
    spent: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(spent) < FEWEST or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1e3)
    return spent


def _message(body: dict[str, Any]) -> bytes:
    return load.message("/moderate", json.dumps(body).encode(), 0).wire


def body_of(content: Content) -> dict[str, Any]:
    """The request that asks for one content's verdict."""
    match content.question:
        case "prompt":
            return {"input": {"prompt": content.text}}
        case "response":
            exchange = {"prompt": content.context or "", "response": content.text}
            return {"input": exchange, "judge": ["response"]}
        case "attack":
            return {"input": {"document": content.text}}
        case "toxicity":
            return {"input": {"text": content.text}}
