"""Bodies while they come: how long one may be, how long it may take, and how much all are."""

import asyncio

from starlette.types import Message, Receive

from service.errors import RequestError, retry_after
from service.observing.metrics import Metrics
from service.settings import Settings


class Bodies:
    """The bodies of a process's requests, which are in memory until they are answered."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.limit, self._seconds = settings.max_body_bytes, settings.body_seconds
        # One alone always has room.
        self._most = max(settings.bodies_bytes, self.limit)
        self._metrics = metrics
        self._held = 0

    def begin(self, receive: Receive, announced: bytes, lasting: bool) -> "Body":
        """A request's body; ``lasting`` ones come for as long as their caller has something to say.

        Raises:
            RequestError: 413 where it is announced too long.
        """
        least = int(announced) if announced.isdigit() else 0
        if least > self.limit:
            raise self.too_large()
        now = asyncio.get_running_loop().time()
        return Body(self, receive, least, None if lasting else now + self._seconds)

    def hold(self, more: int) -> None:
        """Count bytes that came.

        Raises:
            RequestError: 429 where they are too many for the process.
        """
        if self._held + more > self._most:
            self._metrics.refused.labels("capacity").inc()
            raise RequestError(
                f"bodies of {self._held} bytes are being read, the limit is {self._most}",
                code="overloaded",
                status=429,
                headers=retry_after(1.0),
            )
        self._held += more

    def release(self, held: int) -> None:
        """Bytes that are no longer needed."""
        self._held -= held

    def too_large(self) -> RequestError:
        """Of one body."""
        return RequestError(
            f"the body is over the limit of {self.limit} bytes", code="body_too_large", status=413
        )

    def too_slow(self) -> RequestError:
        """Of one whose client stalls. The connection ends: what it holds of the body goes, too."""
        return RequestError(
            f"the body did not come within {self._seconds:g} s",
            code="body_too_slow",
            status=408,
            headers={"connection": "close"},
        )


class Body:
    """One request's body, as it comes."""

    __slots__ = ("_bodies", "_held", "_least", "_receive", "_seen", "_until", "_whole")

    def __init__(self, bodies: Bodies, receive: Receive, least: int, until: float | None) -> None:
        self._bodies, self._receive, self._least, self._until = bodies, receive, least, until
        self._whole, self._seen, self._held = False, 0, 0

    async def receive(self) -> Message:
        """The next message; once the body is whole, its client may take its time to leave.

        Raises:
            RequestError: 408, 413 or 429 as ``Bodies``; 400 where it is shorter than announced: the
                part of it that a server loses may be the one to judge.
        """
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise self._bodies.too_slow() from None
        self._whole = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._seen += size
        if self._seen > self._bodies.limit:
            raise self._bodies.too_large()
        if message["type"] == "http.request" and self._whole and self._seen < self._least:
            raise RequestError(
                f"the body ends after {self._seen} of {self._least} bytes", code="incomplete_body"
            )
        self._bodies.hold(size)
        self._held += size
        return message

    def end(self) -> None:
        """The request is answered."""
        self._bodies.release(self._held)
        self._held = 0
