"""Replacing processes under load: what a rolling update costs the callers.

    tamis bench rolling

Clients ask without pause through a balancer that looks at readiness, as Kubernetes does; meanwhile
every process is replaced by a new one, more than once. A failure is whatever is not a 200: an
error, a refusal, a connection cut.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from benchmarks.record import Record, Row
from benchmarks.server import WORKERS, Server
from tamis import bundle as bundles

CLIENTS: Final = 200
ROLLS: Final = 6
LOOK: Final = 0.5
# Seconds after which a caller that found nobody ready asks again.
UNREADY: Final = 0.02
BODY: Final = {"input": "What would be a good soup for a cold evening?"}
# The question is whether anything is lost, not whether two cores can be shared by 200 in a second.
HEADERS: Final = {"x-request-timeout-ms": "60000"}


@dataclass(slots=True)
class Balancer:
    """Sends to the processes that were ready when it last looked, each in turn."""

    ports: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    by_port: Counter[int] = field(default_factory=Counter)
    _turn: "itertools.count[int]" = field(default_factory=itertools.count)

    async def look(self, client: httpx.AsyncClient, every: float) -> None:
        """Keep ``ready`` up to date."""
        while True:
            found = []
            for port in self.ports:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get(f"http://127.0.0.1:{port}/health/ready")
                    found += [port] * (answer.status_code == 200)
            self.ready = found
            await asyncio.sleep(every)

    async def ask(self, client: httpx.AsyncClient) -> None:
        """One caller, without pause."""
        while True:
            if not self.ready:  # or every caller would end here, and nobody would count it
                self.answers["nobody ready"] += 1
                await asyncio.sleep(UNREADY)
                continue
            port = self.ready[next(self._turn) % len(self.ready)]
            try:
                url = f"http://127.0.0.1:{port}/moderate"
                answer = await client.post(url, json=BODY, headers=HEADERS)
                self.answers[str(answer.status_code)] += 1
                self.by_port[port] += 1
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1

    @contextlib.asynccontextmanager
    async def traffic(self, clients: int, every: float) -> AsyncIterator[None]:
        """So many callers, for the length of the block."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            httpx.AsyncClient(timeout=90, limits=limits) as callers,
            httpx.AsyncClient(timeout=10) as looking,
        ):
            tasks = [asyncio.create_task(self.look(looking, every))]
            while not self.ready:
                await asyncio.sleep(0.05)
            tasks += [asyncio.create_task(self.ask(callers)) for _ in range(clients)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def roll(
    bundle: Path, clients: int, rolls: int, linger: float, every: float = LOOK, workers: int = 0
) -> tuple[Balancer, list[int]]:
    """Replace two servers in turn; the balancer with its counts, and the exit statuses."""
    balancer, statuses = Balancer(), []
    settings = {"linger_seconds": linger, "workers": workers}
    first = [Server(bundle, **settings) for _ in range(2)]
    running = [await asyncio.to_thread(server.__enter__) for server in first]
    try:
        balancer.ports = [server.port for server in running]
        async with balancer.traffic(clients, every):
            for _ in range(rolls):
                new = await asyncio.to_thread(Server(bundle, **settings).__enter__)
                running.append(new)
                balancer.ports.append(new.port)
                while new.port not in balancer.ready:
                    await asyncio.sleep(every)
                statuses.append(await asyncio.to_thread(running[0].leave))
                balancer.ports.remove(running.pop(0).port)
    finally:
        for server in running:
            await asyncio.to_thread(server.leave)
    return balancer, statuses


def run(bundle_path: Path) -> None:
    """Measure, and write the record."""
    linger = 5.0  # the default
    rows: list[Row] = []
    for workers in WORKERS:
        balancer, statuses = asyncio.run(roll(bundle_path, CLIENTS, ROLLS, linger, workers=workers))
        asked = sum(balancer.answers.values())
        rows.append(
            {
                "workers of each": workers,
                "clients": CLIENTS,
                "servers replaced": len(statuses),
                "requests": asked,
                "answered 200": balancer.answers["200"],
                "failed": asked - balancer.answers["200"],
                "answers by kind": ", ".join(f"{k}: {n}" for k, n in balancer.answers.items()),
                "exit statuses": ", ".join(map(str, sorted(set(statuses)))),
            }
        )
    record = Record("rolling", "Rolling update", "tamis bench rolling", tables=[rows])
    record.notes = [
        f"{CLIENTS} callers without pause, a balancer that looks at readiness every {LOOK} s, two "
        f"servers replaced in turn, each answering on for {linger:g} s after SIGTERM."
    ]
    record.write(bundles.load(bundle_path))
