"""The instruments measure what they say."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from benchmarks import load, process, traffic
from benchmarks.record import render
from service.engine.classifier import Classifier
from tamis.content import Content

PAUSE = 0.02


@pytest.fixture
def port() -> Iterator[int]:
    """A server that takes 20 ms for each request, and says 429 to every fourth."""
    count = 0
    connections: set[asyncio.Task[None]] = set()
    # Those that still answer. One whose client has left is about to end, and is left to.
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while True:
            head = await reader.readuntil(load.HEAD_END)
            length = int(head.rpartition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            count += 1
            status = b"429 Busy" if count % 4 == 0 else b"200 OK"
            await asyncio.sleep(PAUSE)
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{")
            await asyncio.sleep(0)
            writer.write(b"}")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Closed here and waited for: a socket left to the garbage collector fails a later test.
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        answering.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await answer(reader, writer)
        finally:
            answering.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            connections.discard(task)

    async def serve(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]]) -> None:
        stop = asyncio.Event()
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            started.set_result((asyncio.get_running_loop(), stop, port))
            await stop.wait()
        for task in answering:
            task.cancel()
        await asyncio.gather(*connections)

    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve(started)))
    thread.start()
    loop, stop, number = started.result(5)
    yield number
    loop.call_soon_threadsafe(stop.set)
    thread.join(5)
    assert not thread.is_alive()


def test_a_closed_loop_keeps_so_many_requests_under_way(port):
    sent = [load.message("/x", b"{}", tokens=7)]
    result = load.closed(port, sent, clients=4, seconds=0.6, warm=0.1)
    done = sum(result.statuses.values())
    assert set(result.statuses) == {200, 429}
    assert result.tokens == 7 * result.statuses[200]
    # No faster than four at a time can be; how much slower is the machine's affair.
    assert 0 < done <= 4 * (0.6 / PAUSE + 1) * 1.1
    assert result.percentile(50) >= PAUSE * 1e3


def test_an_open_loop_keeps_its_rate_whatever_the_answers_take(port):
    sent = [load.message("/x", b"{}", tokens=1)]
    result = load.open_loop(port, sent, rate=200, seconds=1.0, warm=0.1)
    # One after the other they would be 1 / PAUSE.
    assert 1.5 / PAUSE < sum(result.statuses.values()) <= 260
    # It says how far it was behind, so that nobody takes its own lateness for the server's.
    assert len(result.late) == sum(result.statuses.values())
    assert all(late >= 0 for late in result.late)


def test_an_open_loop_counts_connections_that_break_and_goes_on():
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(load.HEAD_END)
        writer.close()

    async def serve(number: "Future[int]", stop: "Future[None]") -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            number.set_result(server.sockets[0].getsockname()[1])
            await asyncio.wrap_future(stop)

    number, stop = Future[int](), Future[None]()
    thread = threading.Thread(target=lambda: asyncio.run(serve(number, stop)))
    thread.start()
    sent = [load.message("/x", b"{}", tokens=1)]
    result = load.open_loop(number.result(5), sent, rate=100, seconds=1.5, warm=0.0)
    stop.set_result(None)
    thread.join(5)
    # More than were open at first, so that some would be asked again.
    assert set(result.statuses) == {0}
    assert result.statuses[0] > 64


def test_at_once_all_are_sent_and_waited_for(port):
    sent = [load.message("/x", b"{}", tokens=3)] * 12
    result = load.at_once(port, sent)
    assert sum(result.statuses.values()) == 12
    assert result.pending == 0
    # One after the other would take twelve.
    assert result.seconds < 11 * PAUSE


def test_percentiles():
    assert load.percentile(list(range(1, 101)), 50) == pytest.approx(50.5)
    assert load.percentile(list(range(1, 101)), 99) == pytest.approx(99, abs=0.1)
    assert load.percentile([3.0], 99) == 3.0


def test_texts_have_exactly_the_tokens_asked_for(classifier: Classifier):
    for tokens in (1, 5, 40, 300):
        text = traffic.text(tokens, random.Random(tokens))
        assert classifier.encode(Content("prompt", text)).tokens == tokens
    drawn = traffic.texts(200, seed=1, longest=50)
    assert len({text for text, _ in drawn}) > 150
    assert max(tokens for _, tokens in drawn) <= 50


def test_cpu_time_and_memory_are_those_of_a_process():
    import os

    before = process.cpu_seconds(os.getpid())
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert process.cpu_seconds(os.getpid()) - before >= 0.15
    assert 20 < process.memory_mb(os.getpid()) < 10_000


def test_a_record_renders_as_markdown():
    about = {"date": "2026-01-01", "machine": "m", "bundle": "b"}
    record = {"title": "T", "command": "c", "about": about, "notes": ["n."]}
    page = render(record | {"tables": [[{"a": 1, "b": 2}]]})
    assert "## T" in page
    assert "| 1 | 2 |" in page
