"""Around every request: an id, a body limit, a time, and an answer in JSON whatever happens."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.dialects.dialect import refuse
from service.dialects.registry import PATHS, find
from service.errors import RequestError, frames
from service.observing.answered import Answered
from service.observing.context import WATCHERS
from service.observing.metrics import Metrics, outcome
from service.observing.observers import Observers
from service.web.bodies import Bodies
from service.web.lifecycle import Lifecycle

logger = logging.getLogger("tamis.service")

# nginx's "client closed request": nobody reads it, but the metrics should not call it a success.
CLIENT_GONE: Final = 499
GIVEN_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)
ROUTES: Final = WATCHERS | PATHS | {"/", "/admin/reload"}
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Envelope:
    """Pure ASGI, because Starlette's BaseHTTPMiddleware costs a task and a stream per request."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        bodies: Bodies,
        enter: Callable[[Scope], None] | None,
        lifecycle: Lifecycle,
        observers: Observers,
        overload_status: int,
    ) -> None:
        """``enter`` may refuse a request before its body is read; None: all may come in.

        ``overload_status`` is what hooks answer where there is no room.
        """
        self._overload_status = overload_status
        self._app = app
        self._enter = enter
        self._lifecycle = lifecycle
        self._observers = observers
        self._metrics = metrics
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (path := scope["path"].rstrip("/")) in ROUTES:
            # As a base URL that ends in a slash makes it. A redirect would name the scheme and host
            # behind a proxy that ends TLS, and many clients do not repeat a body for one.
            scope["path"] = path
        began = time.perf_counter()
        # Blanks around a value are none of it (RFC 9110 §5.5), and the server leaves those behind.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        # Both bounded, for labels, logs and spans.
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        path, dialect = find(scope["path"])
        state["dialect"], state["route"] = dialect, path
        state["judging"] = dialect is not None and method == "POST" and path in dialect.judging
        route = path or (scope["path"] if scope["path"] in ROUTES else "other")
        trace = self._observers.tracing.begin(method, route, scope["headers"])
        status, body = 0, None

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"traceparent", trace.header),
                ]
                if self._lifecycle.leaving:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self._metrics.in_flight.inc()
        try:
            if scope["path"] not in WATCHERS:
                self._lifecycle.asked()
            if self._enter is not None:
                self._enter(scope)
            _check_encoding(headers)
            lasting = dialect is not None and path in dialect.lasting
            body = self._bodies.begin(receive, headers.get(b"content-length", b"0"), lasting)
            await self._app(scope, body.receive, tagged)
        except RequestError as error:
            state["code"] = error.code
            await refuse(error, dialect, self._overload_status)(scope, receive, tagged)
        except ClientDisconnect:
            status = CLIENT_GONE
        except asyncio.CancelledError:
            status = 0  # The time for a shutdown is over: what began well has no end.
            raise
        except Exception as error:
            # Frames name code; an exception's message may quote a caller's text, so it stays out.
            logger.error("request %s: %s\n%s", request_id, type(error).__name__, frames(error))
            state["code"] = "internal_error"
            if not status:
                failure = RequestError("internal error", code="internal_error", status=500)
                await refuse(failure, dialect, self._overload_status)(scope, receive, tagged)
        finally:
            if body is not None:
                body.end()
            # A stream that began well may have ended otherwise.
            status = state.get("ended", status)
            self._metrics.in_flight.dec()
            self._observers.tell(
                Answered(
                    at=time.time(),
                    seconds=time.perf_counter() - began,
                    request_id=request_id,
                    trace=trace,
                    caller=getattr(state.get("caller"), "name", None),
                    method=method,
                    route=route,
                    status=status,
                    outcome=outcome(status, state.get("code")),
                    code=state.get("code"),
                    judgement=state.get("judgement"),
                )
            )


def _check_encoding(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a compressed body, whose size would say nothing about that of its texts.

    What asks by its headers alone, as Envoy may, has none.
    """
    given = headers.get(b"content-encoding", b"").lower()
    has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
    if has_body and given not in (b"", b"identity"):
        raise RequestError(
            "content-encoding: bodies are taken as they are, not compressed",
            param="content-encoding",
            code="unsupported_encoding",
            status=415,
            headers={"accept-encoding": "identity"},
        )


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    # Unique, not secret: uuid4 would ask the kernel for each.
    return text if GIVEN_ID.fullmatch(text) else f"{random.getrandbits(128):032x}"
