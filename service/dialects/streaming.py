"""An explanation as it is written: the verdict at once, then the reason piece by piece.

Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): ``verdict``,
any number of ``reason``, and one ``explanation`` or ``error``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from service.errors import RequestError, frames
from service.moderation.explaining import explanation_json
from service.moderation.judged import Judged
from service.moderation.moderator import Moderator
from tamis.content import Content
from tamis.policy import Policy

logger = logging.getLogger("tamis.service")

Tell = Callable[[str, JSONResponse], Awaitable[None]]
"""Sends an event: its name, and what an answer of its own would hold (JSON on one line)."""


class EventStream(Response):
    """A response that a coroutine writes, event by event.

    Not Starlette's StreamingResponse: it pulls from a generator, whose cleanup is left to the
    garbage collector where the client leaves during a send, and which ends as if all were well.
    """

    media_type = "text/event-stream"

    def __init__(self, write: Callable[[Tell], Awaitable[None]]) -> None:
        """``write`` sends the events, and raises ClientDisconnect where nobody reads them."""
        self.status_code = 200
        self.background = None
        # Events hold what callers wrote, and are late if a proxy (nginx) collects them first.
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._write = write

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Send the stream.

        Raises:
            ClientDisconnect: where the client has left.
        """

        async def tell(name: str, content: JSONResponse) -> None:
            event = b"event: %s\ndata: %s\n\n" % (name.encode(), bytes(content.body))
            await send({"type": "http.response.body", "body": event, "more_body": True})

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            await self._write(tell)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:  # how servers since ASGI 2.4 say that the client has left
            raise ClientDisconnect from None


async def ending(
    request: Request, work: Awaitable[tuple[str, JSONResponse]]
) -> tuple[str, JSONResponse]:
    """The last event: what the work says, or why it could not.

    Raises:
        ClientDisconnect: where the client has left.
    """
    try:
        return await work
    except RequestError as error:
        failure = error
    except ClientDisconnect:
        raise
    except Exception as error:
        where = type(error).__name__, frames(error)
        logger.error("request %s: %s\n%s", request.state.request_id, *where)
        failure = RequestError("internal error", code="internal_error", status=500)
    # The answer began as a 200; who counts and logs requests should hear how it ended.
    request.state.code, request.state.ended = failure.code, failure.status
    return "error", failure.response()


def explanation_stream(
    request: Request,
    moderator: Moderator,
    item: tuple[str, Sequence[Content]],
    policy: Policy,
    judged: Judged,
    verdict: dict[str, Any],
) -> EventStream:
    """The stream of an item that has its verdict.

    The reasoner never waits for a client that reads slowly: what it has written waits.
    """

    async def write(tell: Tell) -> None:
        await tell("verdict", JSONResponse(verdict))
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        forwarding = asyncio.create_task(_forward(pieces, tell))
        try:
            explaining = _explain(request, moderator, item, policy, judged, pieces.put_nowait)
            last = await ending(request, explaining)
            pieces.put_nowait(None)
            await forwarding
        finally:
            forwarding.cancel()
        await tell(*last)

    return EventStream(write)


async def _forward(pieces: "asyncio.Queue[str | None]", tell: Tell) -> None:
    """Send what is written of the reason, up to a None."""
    # Whoever has left is noticed by the explanation, which then ends, or by the last event.
    with suppress(OSError):
        while (piece := await pieces.get()) is not None:
            await tell("reason", JSONResponse({"text": piece}))


async def _explain(
    request: Request,
    moderator: Moderator,
    item: tuple[str, Sequence[Content]],
    policy: Policy,
    judged: Judged,
    emit: Callable[[str], None],
) -> tuple[str, JSONResponse]:
    """An explanation, once it is whole.

    Raises:
        RequestError: why there is none.
        ClientDisconnect: where the client has left; the work ends at its next pause.
    """
    (found,) = await moderator.answering.explain(request, [item], policy, judged, emit)
    return "explanation", JSONResponse(explanation_json(found))
