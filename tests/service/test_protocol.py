"""What comes over the wire: offers of other protocols, bodies shorter than announced."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from benchmarks.server import free_port
from service.web import admin, protocol
from service.web.protocol import Protocol
from tests.service.test_gateways import client
from tests.service.test_server import options_of
from tests.service.wire import ATTACK, ENVOY

__all__ = ["client"]

BODY = b'{"input": "What a lovely garden."}'
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
WEBSOCKET = (
    b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
)
CHUNKED = b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
ANNOUNCED = b"Content-Length: %d\r\n" % len(BODY), BODY


async def _echo(request: Request) -> JSONResponse:
    body = await request.body()
    return JSONResponse({"path": request.url.path, "body": body.decode(), **request.headers})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server, as the operator's is made, that says what it was asked."""
    app = Starlette()
    app.add_route("/{path:path}", _echo, methods=["GET", "POST"])
    port = free_port()
    async with admin.listening(app, "127.0.0.1", port):
        yield port


async def asked(port: int, *segments: bytes, answers: int = 1) -> list[tuple[int, Any]]:
    """What is answered to segments that are sent one after the other, by status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for segment in segments:
        writer.write(segment)
        await writer.drain()
        await asyncio.sleep(0.02)
    found = []
    for _ in range(answers):
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        found.append((int(head.split()[1]), json.loads(body) if body[:1] == b"{" else body))
    writer.close()
    assert await reader.read() == b""
    return found


def head(path: bytes, *headers: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: here\r\n%s\r\n" % (path, b"".join(headers))


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
@pytest.mark.parametrize("sent", [ANNOUNCED, CHUNKED], ids=["announced", "chunked"])
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "in two segments"])
async def test_a_request_that_offers_another_protocol_keeps_its_body(
    port: int, offer: bytes, sent: tuple[bytes, bytes], apart: bool, caplog
):
    caplog.set_level(logging.WARNING)
    length, body = sent
    first = head(b"/moderate?x=1", offer, b"X-Own: 1\r\n", length)
    segments = [first, body] if apart else [first + body]
    ((status, said),) = await asked(port, *segments)
    assert status == 200
    assert (said["path"], said["body"], said["x-own"]) == ("/moderate", BODY.decode(), "1")
    assert "upgrade" not in said
    assert not caplog.records


async def test_what_follows_such_a_request_is_read_as_its_own(port: int):
    first = head(b"/first", H2C, ANNOUNCED[0]) + BODY
    second = head(b"/second", WEBSOCKET, ANNOUNCED[0]) + BODY
    third = b"GET /third HTTP/1.1\r\nHost: here\r\n\r\n"
    found = await asked(port, first + second + third, answers=3)
    assert [said["path"] for _, said in found] == ["/first", "/second", "/third"]
    assert [said["body"] for _, said in found] == [BODY.decode(), BODY.decode(), ""]


async def test_a_body_is_no_request(port: int):
    smuggled = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
    first = head(b"/moderate", H2C, b"Content-Length: %d\r\n" % len(smuggled))
    ((_, said),) = await asked(port, first, smuggled)
    assert said["body"] == smuggled.decode()


@pytest.mark.parametrize("to", [b"here:443", b"/moderate"])
async def test_there_are_no_tunnels(port: int, to: bytes):
    ((status, _),) = await asked(port, b"CONNECT %s HTTP/1.1\r\nHost: here\r\n\r\nabc" % to)
    assert status == 400


def test_the_command_serves_so(monkeypatch: pytest.MonkeyPatch):
    assert options_of(monkeypatch)["http"] is Protocol


@pytest.mark.parametrize("path", [ENVOY, "/moderate", "/moderate/stream"])
@pytest.mark.parametrize("there", [b"", json.dumps({"input": ATTACK}).encode()])
def test_a_body_that_is_shorter_than_announced_is_refused(client, path: str, there: bytes):
    announced = {"content-length": str(len(there) + 1)}
    answer = client.post(path, content=there, headers=announced)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "incomplete_body"


async def test_a_head_that_does_not_come_ends_the_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    whole = b"POST /a HTTP/1.1\r\nHost: x\r\n%s\r\n%s" % ANNOUNCED
    for before, begun in ((b"", b""), (b"", b"POST /a HTTP/1.1\r\nHos"), (whole, b"POST /b HT")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(before)
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        for byte in begun:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        said = await asyncio.wait_for(reader.read(), 5)
        assert asyncio.get_running_loop().time() - began < 1
        assert said.count(b"HTTP/1.1 200") == bool(before)
        assert said.endswith(protocol.LATE) if begun else not said
        writer.close()


async def test_a_body_has_its_own_time(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    await asyncio.sleep(0.3)
    writer.write(BODY)
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
