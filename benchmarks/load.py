"""A load generator: HTTP/1.1 on keep-alive connections, closed loop or open loop.

One asyncio process; a request costs it some 30 us, because messages are built beforehand and an
answer is read no further than its length. It shares the machine with the server, and says what it
used.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import uvloop

HEAD_END: Final = b"\r\n\r\n"
IDLE: Final = 2.0
# Seconds to wait for the last answers.
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it goes over the wire, and the tokens it asks to judge."""

    wire: bytes
    tokens: int


def message(path: str, body: bytes, tokens: int, headers: Sequence[str] = ()) -> Message:
    """A POST with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    head = "\r\n".join([*lines, f"content-length: {len(body)}"]).encode()
    return Message(head + HEAD_END + body, tokens)


@dataclass(slots=True)
class Result:
    """What came back. Latencies in milliseconds by status; tokens of the answers with 200.

    ``late`` is by how many milliseconds each request of an open loop was sent after its time.
    """

    seconds: float
    tokens: int = 0
    latencies: dict[int, list[float]] = field(default_factory=dict)
    own_cpu: float = 0.0
    late: list[float] = field(default_factory=list)
    pending: int = 0
    """Requests without an answer when patience was over."""

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers of each status; 0 is a connection that broke."""
        return dict(Counter({s: len(v) for s, v in sorted(self.latencies.items())}))

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return len(self.latencies.get(200, ())) / self.seconds

    @property
    def token_rate(self) -> float:
        """Tokens of the answers with 200 a second."""
        return self.tokens / self.seconds

    def percentile(self, percent: float, status: int = 200) -> float:
        """A percentile of latency in milliseconds; NaN where nothing came back."""
        return percentile(self.latencies.get(status, []), percent)


def percentile(values: Sequence[float], percent: float) -> float:
    """A percentile by linear interpolation; NaN of nothing."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    return cuts[min(max(round(percent * 10) - 1, 0), 998)]


class Connection(asyncio.Protocol):
    """One request at a time; ``done`` hears the status and the seconds it took."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: Callable[[int, float], None] | None = None
        self._began = 0.0
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self.transport = cast("asyncio.Transport", transport)

    def send(self, wire: bytes, done: Callable[[int, float], None]) -> None:
        """Start a request."""
        assert self.transport is not None
        self.done = done
        self._data = b""
        self._began = time.perf_counter()
        self.transport.write(wire)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._data += data
        end = self._data.find(HEAD_END)
        if end < 0:
            return
        _, _, rest = self._data[:end].lower().partition(b"content-length:")
        if len(self._data) >= end + len(HEAD_END) + int(rest.split(b"\r\n", 1)[0]):
            self._finish(int(self._data[9:12]))

    def connection_lost(self, _: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self.transport = None
        self._finish(0)

    def _finish(self, status: int) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(status, time.perf_counter() - self._began)


class _Run:
    """One measurement in progress."""

    def __init__(self, port: int, messages: Sequence[Message], warm: float) -> None:
        self._port = port
        self._messages = messages
        self._next = 0
        self.result = Result(0.0)
        self.counting_from = time.perf_counter() + warm
        self.pending = 0

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return connection

    def fire(self, connection: Connection, then: Callable[[], None]) -> None:
        message = self._messages[self._next % len(self._messages)]
        self._next += 1
        self.pending += 1

        def done(status: int, seconds: float) -> None:
            self.pending -= 1
            if time.perf_counter() - seconds >= self.counting_from:
                self.result.latencies.setdefault(status, []).append(seconds * 1e3)
                if status == 200:
                    self.result.tokens += message.tokens
            then()

        connection.send(message.wire, done)


def closed(
    port: int, messages: Sequence[Message], clients: int, seconds: float, warm: float = 1.0
) -> Result:
    """So many clients, each with its next request as soon as it has its answer."""

    async def go() -> Result:
        run = _Run(port, messages, warm + 0.01 * clients)
        until = run.counting_from + seconds
        connections = []
        for _ in range(clients):
            connections.append(await run.connect())
            # All at once, and one of a server's workers might accept them all.
            await asyncio.sleep(0.01)
        finished = asyncio.Event()
        cpu = 0.0

        def turn(connection: Connection) -> None:
            if time.perf_counter() >= until or connection.transport is None:
                finished.set()
            else:
                run.fire(connection, lambda: turn(connection))

        for connection in connections:
            turn(connection)
        await asyncio.sleep(warm)
        cpu = time.process_time()
        await finished.wait()
        run.result.seconds = time.perf_counter() - run.counting_from
        run.result.own_cpu = time.process_time() - cpu
        snapshot = run.result
        _close(connections)
        return snapshot

    return uvloop.run(go())


def open_loop(
    port: int, messages: Sequence[Message], rate: float, seconds: float, warm: float = 1.0
) -> Result:
    """Requests at Poisson times, whatever has become of the earlier ones.

    Latency counts from the moment of sending. Every request gets a connection that is free, or a
    new one, as a gateway would do it.
    """

    async def go() -> Result:
        run = _Run(port, messages, warm)
        chance = random.Random(7)
        free = [(await run.connect(), time.perf_counter()) for _ in range(64)]
        everything = [connection for connection, _ in free]
        at = time.perf_counter()
        until = run.counting_from + seconds
        cpu_from = time.process_time()
        while at < until:
            at += chance.expovariate(rate)
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            connection, since = free.pop() if free else (None, 0.0)
            # Servers close connections that idle for long, some after 5 s, and may break any.
            idle = time.perf_counter() - since > IDLE
            if connection is None or connection.transport is None or idle:
                connection = await run.connect()
                everything.append(connection)
            if (now := time.perf_counter()) >= run.counting_from:
                # A timer of the loop has milliseconds, and may be early by one.
                run.result.late.append(max(now - at, 0.0) * 1e3)
            run.fire(connection, lambda c=connection: free.append((c, time.perf_counter())))  # type: ignore[misc]
        run.result.seconds = seconds
        run.result.own_cpu = time.process_time() - cpu_from
        patience = time.perf_counter() + PATIENCE
        while run.pending and time.perf_counter() < patience:
            await asyncio.sleep(0.05)
        run.result.pending = run.pending
        _close(everything)
        return run.result

    return uvloop.run(go())


def at_once(port: int, messages: Sequence[Message]) -> Result:
    """All of them in the same moment, until all are answered or patience is over."""

    async def go() -> Result:
        run = _Run(port, messages, 0.0)
        connections = [await run.connect() for _ in messages]
        began = run.counting_from = time.perf_counter()
        for connection in connections:
            run.fire(connection, lambda: None)
        while run.pending and time.perf_counter() < began + PATIENCE:
            await asyncio.sleep(0.01)
        run.result.seconds = time.perf_counter() - began
        run.result.pending = run.pending
        _close(connections)
        return run.result

    return uvloop.run(go())


def _close(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.done = None
        if connection.transport is not None:
            connection.transport.close()
