"""Middleware for FastAPI, Starlette and other ASGI applications: judge a request before it is read.

app.add_middleware(
    ModerationMiddleware,
    client=AsyncClient("http://tamis:8000"),
    paths={"/chat"},
    item=lambda body: {"prompt": body["question"]},
)
"""

import json
from collections.abc import Awaitable, Callable, Container, Iterator, MutableMapping
from typing import Any, Final

from tamis.client.attempts import TOO_SHORT
from tamis.client.client import AsyncClient, Policy
from tamis.client.errors import ApiError, ClientError
from tamis.client.items import Item, is_item

# As ASGI's specification has them (Starlette's names; nothing of it is needed).
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
MAX_BODY_BYTES: Final = 1024 * 1024
DEADLINE: Final = 0.5
# Whatever else is refused is no fault of the text: a key, a rate, an address that is no Tamis.
FAULTS: Final = frozenset({400, 413})
UNREADABLE: Final = 400, "invalid_request", "the body has nothing that could be judged"


class ModerationMiddleware:
    """Answers in the application's place where the policy blocks; hands on everything else.

    The verdict is in ``request.state.moderation``. A body that is not JSON, or of which ``item``
    can make nothing, is refused: what cannot be judged must not slip through.
    """

    def __init__(
        self,
        app: App,
        *,
        client: AsyncClient,
        paths: Container[str],
        item: Callable[[Any], Item | None],
        policy: Policy = None,
        deadline: float = DEADLINE,
        fail_open: bool = False,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        """Take requests with a body to ``paths``.

        Args:
            app: the application.
            client: asks the service; who made it closes it.
            paths: where requests are judged; with or without what the application is mounted at.
            item: makes what is judged of the parsed body; None: nothing is.
            policy: as the client takes it.
            deadline: seconds that a verdict is worth waiting for.
            fail_open: let through what got no verdict, rather than answer 503.
            max_body_bytes: longer bodies are refused.
        """
        self._app, self._client, self._paths, self._item = app, client, paths, item
        self._policy, self._deadline, self._fail_open = policy, deadline, fail_open
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] != "http"
            or not any(path in self._paths for path in _paths_of(scope))
            or scope["method"] not in METHODS
        ):
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body_bytes:
                limit = f"the body is over the limit of {self._max_body_bytes} bytes"
                await _refuse(send, 413, "body_too_large", limit)
                return
        if (refusal := await self._judge(scope, body)) is not None:
            await _refuse(send, *refusal)
            return
        given = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    async def _judge(self, scope: Scope, body: bytes) -> tuple[int, str, str] | None:
        """Why a request does not pass: status, code, message; None where it does."""
        try:
            item = self._item(json.loads(body))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return UNREADABLE
        if item is None:
            return None
        if not is_item(item):
            # A list would be judged as a batch, whose answer is none of one item, and pass unread.
            return UNREADABLE
        try:
            found = await self._client.moderate(item, policy=self._policy, deadline=self._deadline)
        except ApiError as error:
            # A policy that is unknown, or cannot be had yet, is no fault of the text either; nor is
            # the deadline, which is ours, and which the same text keeps on a machine with room.
            if error.status in FAULTS and error.param != "policy" and error.code != TOO_SHORT:
                # The text's own fault, say its length: no state of the service would change it.
                return 400, error.code or "invalid_request", error.message
            return self._unavailable()
        except ClientError:
            return self._unavailable()
        except (ValueError, RecursionError):
            # What Python reads as a number and JSON has not (NaN, 1e999), or just too deep to send.
            return UNREADABLE
        scope.setdefault("state", {})["moderation"] = found
        if found.blocked:
            return 403, "content_blocked", "blocked by the moderation policy"
        return None

    def _unavailable(self) -> tuple[int, str, str] | None:
        if self._fail_open:
            return None
        return 503, "moderation_unavailable", "moderation is not available at present"


def _paths_of(scope: Scope) -> Iterator[str]:
    """A request's path as it came, and as routes see it: without what the application is at."""
    path, root = scope["path"], scope.get("root_path", "")
    yield path
    if root and path.startswith(f"{root}/"):
        yield path.removeprefix(root)


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
