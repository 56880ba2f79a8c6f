"""Bodies that stall, or are too many: nobody keeps a part of one for ever."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from service.app import create_app
from service.dialects import streams
from service.errors import RequestError
from service.moderation.disconnect import UntilDisconnect
from service.moderation.moderator import Moderator
from service.settings import Settings

WHOLE = b'{"input": "Hello."}'


class Ask:
    """A request whose body comes in pieces, and stalls behind them unless the last one ends it."""

    def __init__(self, *pieces: bytes, whole: bool = False) -> None:
        self._pieces: Iterator[tuple[int, bytes]] = enumerate(pieces, 1 - len(pieces))
        self._whole = whole
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def receive(self) -> Message:
        for behind, piece in self._pieces:
            return {
                "type": "http.request",
                "body": piece,
                "more_body": behind < 0 or not self._whole,
            }
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.headers |= dict(message.get("headers", ()))
        self.body += message.get("body", b"")

    async def of(self, app: FastAPI, path: str = "/moderate") -> tuple[int, str | None]:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await app(scope, self.receive, self.send)
        return self.status, json.loads(self.body.split(b"data: ")[-1])["error"]["code"]


def application(settings: Settings, **limits: Any) -> FastAPI:
    return create_app(settings.model_copy(update=limits))


@pytest.mark.parametrize("path", ["/moderate", "/v1/decisions", "/ext-authz/v1", "/feedback"])
async def test_a_body_that_stalls_is_refused_and_its_connection_ends(settings, path):
    app, ask = application(settings, body_seconds=0.05), Ask(b'{"input": ', b'"He')
    assert await ask.of(app, path) == (408, "body_too_slow")
    assert ask.headers[b"connection"] == b"close"
    assert b"within 0.05 s" in ask.body


async def test_a_whole_body_may_take_its_time_to_be_judged(settings, monkeypatch):
    async def judge(_: Moderator, request: Any, *__: Any, **___: Any) -> None:
        async with UntilDisconnect(request.receive):
            await asyncio.sleep(0.2)
        raise RequestError("done", code="done", status=418)

    monkeypatch.setattr(Moderator, "judge", judge)
    app = application(settings, body_seconds=0.05)
    assert await Ask(WHOLE, whole=True).of(app) == (418, "done")


async def test_a_stream_in_one_request_has_a_patience_of_its_own(settings, monkeypatch):
    monkeypatch.setattr(Moderator, "loaded", lambda _: None)
    app = application(settings, body_seconds=0.05, stream_seconds=0.2)
    assert await Ask(b'{"te').of(app, streams.LINES) == (408, "stream_idle")


async def test_all_bodies_under_way_have_one_limit(settings):
    app = application(settings, body_seconds=5.0, bodies_bytes=30, max_body_bytes=20)
    stalled = asyncio.create_task(Ask(WHOLE).of(app))
    await asyncio.sleep(0.01)
    ask = Ask(WHOLE, whole=True)
    assert await ask.of(app) == (429, "overloaded")
    assert ask.headers[b"retry-after"] == b"1"
    assert b"bodies of 19 bytes are being read, the limit is 30" in ask.body
    assert await Ask(WHOLE, whole=True).of(app, "/response") == (503, "overloaded")
    stalled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stalled
    # Nothing is left of those that were refused, either.
    for _ in range(3):
        assert await Ask(WHOLE, whole=True).of(app) == (503, "not_ready")
