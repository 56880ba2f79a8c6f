"""The clients, one that waits and one that awaits."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import httpx

from tamis.client.answers import Moderation, moderation_of
from tamis.client.attempts import Attempts
from tamis.client.errors import UnreachableError
from tamis.client.items import Explain, Item, is_item
from tamis.content import Side
from tamis.corrections.record import Label

T = TypeVar("T")
TIMEOUT: Final = 10.0
RETRIES: Final = 2
KEY: Final = re.compile(r"[\x20-\x7e]*")
Policy = str | Mapping[str, Any] | None
"""By name, written out, or the key's own."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read: the same for both clients."""

    path: str
    body: Mapping[str, Any]
    read: Callable[[Any], T]


def _moderate(
    given: Item | Sequence[Item],
    policy: Policy,
    judge: Sequence[Side] | None,
    explain: Explain | None,
    read: Callable[[Any], T],
) -> Call[T]:
    asked = {"policy": policy, "judge": None if judge is None else list(judge), "explain": explain}
    body = {"input": given, **{name: value for name, value in asked.items() if value is not None}}
    return Call("/moderate", body, read)


def _one(item: Item) -> Item:
    """An item; what a list is answered with has no verdict of its own.

    Raises:
        TypeError: where it is none.
    """
    if not is_item(item):
        raise TypeError(f"an item is a text or a mapping, not a {type(item).__name__}")
    return item


def _many(items: Sequence[Item]) -> list[Item]:
    """Items; one alone is no list of them: a text's letters would be judged one by one.

    Raises:
        TypeError: where it is one.
    """
    if is_item(items):
        raise TypeError(f"items are a list of them, not one {type(items).__name__}")
    return list(items)


def _results(answer: Any) -> list[Moderation]:
    return [moderation_of(one) for one in answer["results"]]


def _feedback(given: Item, label: Label | None, more: Mapping[str, Any]) -> Call[str]:
    body = {"input": given, **({} if label is None else {"label": label}), **more}
    return Call("/feedback", body, lambda answer: str(answer["id"]))


class _Caller:
    """What both clients know of the service."""

    def __init__(self, url: str, key: str | None, timeout: float, retries: int) -> None:
        """White space around a key, as of a file's end, is none of it.

        Raises:
            ValueError: where no header can hold the key; httpx would quote it in what it raises.
        """
        key = (key or "").strip()
        if not KEY.fullmatch(key):
            raise ValueError("the key must be of printable ASCII characters")
        self._url, self._timeout, self._retries = url.rstrip("/"), timeout, retries
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def _attempts(self, deadline: float | None) -> Attempts:
        return Attempts(self._retries, self._timeout, deadline)

    def _sent(self, call: Call[Any], attempts: Attempts) -> dict[str, Any]:
        """What ``httpx`` is told of one attempt."""
        return {
            "url": self._url + call.path,
            "content": _json(call.body),
            "headers": self._headers | attempts.headers,
            "timeout": attempts.timeout,
        }


def _json(body: Mapping[str, Any]) -> bytes:
    """Half of a surrogate pair, which UTF-8 has not, is sent as "?": one character for one."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def _read(call: Call[T], answer: httpx.Response) -> T:
    """What an answer says.

    Raises:
        UnreachableError: where it is none of the service's.
    """
    try:
        return call.read(answer.json())
    except (ValueError, LookupError, TypeError, AttributeError):
        # A proxy's page, perhaps. Nothing is quoted of it: it may repeat the text.
        raise UnreachableError("what answered is no Tamis") from None


class _Timed(httpx.SyncByteStream):
    """A body whose pieces come in time: httpx bounds each, of which a slow proxy may send many."""

    def __init__(self, body: httpx.SyncByteStream, until: float) -> None:
        self._body, self._until = body, until

    def __iter__(self) -> Iterator[bytes]:
        """Raises TimeoutError, at the first piece that comes too late."""
        for piece in self._body:
            if time.monotonic() > self._until:
                raise TimeoutError("the answer took too long")
            yield piece

    def close(self) -> None:
        self._body.close()


class Client(_Caller):
    """Asks a service, and waits for it. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        http: httpx.Client | None = None,
    ) -> None:
        """``http`` is a client to use in place of one's own, and stays the caller's to close."""
        super().__init__(url, key, timeout, retries)
        self._owned = http is None
        self._http = http or httpx.Client()

    def moderate(
        self,
        item: Item,
        *,
        policy: Policy = None,
        judge: Sequence[Side] | None = None,
        explain: Explain | None = None,
        deadline: float | None = None,
    ) -> Moderation:
        """Judge one item; ``deadline`` is in seconds, tries and waits included.

        Raises:
            ApiError: where the service refuses; UnreachableError, LateError: where it does not
                answer, or not in time; TypeError: where the item is none, as a list of them.
        """
        call = _moderate(_one(item), policy, judge, explain, moderation_of)
        return self._ask(call, deadline)

    def moderate_many(
        self,
        items: Sequence[Item],
        *,
        policy: Policy = None,
        judge: Sequence[Side] | None = None,
        explain: Explain | None = None,
        deadline: float | None = None,
    ) -> list[Moderation]:
        """Judge several items in one request, in their order; raises as ``moderate``."""
        return self._ask(_moderate(_many(items), policy, judge, explain, _results), deadline)

    def feedback(self, item: Item, label: Label | None = None, **more: Any) -> str:
        """Store what a person says of an item (fields as ``POST /feedback`` has them); its id."""
        return self._ask(_feedback(item, label, more), None)

    def close(self) -> None:
        """Close the connections, where they are the client's own."""
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, call: Call[T], deadline: float | None) -> T:
        attempts = self._attempts(deadline)
        while True:
            try:
                answer = self._tried(self._sent(call, attempts))
                if answer.is_success:
                    return _read(call, answer)
                wait = attempts.refused(answer)
            except (httpx.RequestError, TimeoutError) as error:
                wait = attempts.failed(error)
            time.sleep(wait)

    def _tried(self, sent: Mapping[str, Any]) -> httpx.Response:
        """One try.

        Raises:
            httpx.RequestError, TimeoutError: where there is no answer in time.
        """
        until = time.monotonic() + sent["timeout"]
        with self._http.stream("POST", **sent) as answer:
            assert isinstance(answer.stream, httpx.SyncByteStream)
            answer.stream = _Timed(answer.stream, until)
            answer.read()
        return answer


class AsyncClient(_Caller):
    """Asks a service, and awaits it."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """``http`` is a client to use in place of one's own, and stays the caller's to close."""
        super().__init__(url, key, timeout, retries)
        self._owned = http is None
        self._http = http or httpx.AsyncClient()

    async def moderate(
        self,
        item: Item,
        *,
        policy: Policy = None,
        judge: Sequence[Side] | None = None,
        explain: Explain | None = None,
        deadline: float | None = None,
    ) -> Moderation:
        """See ``Client.moderate``."""
        call = _moderate(_one(item), policy, judge, explain, moderation_of)
        return await self._ask(call, deadline)

    async def moderate_many(
        self,
        items: Sequence[Item],
        *,
        policy: Policy = None,
        judge: Sequence[Side] | None = None,
        explain: Explain | None = None,
        deadline: float | None = None,
    ) -> list[Moderation]:
        """See ``Client.moderate_many``."""
        return await self._ask(_moderate(_many(items), policy, judge, explain, _results), deadline)

    async def feedback(self, item: Item, label: Label | None = None, **more: Any) -> str:
        """See ``Client.feedback``."""
        return await self._ask(_feedback(item, label, more), None)

    async def close(self) -> None:
        """Close the connections, where they are the client's own."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, call: Call[T], deadline: float | None) -> T:
        attempts = self._attempts(deadline)
        while True:
            sent = self._sent(call, attempts)
            try:
                # httpx's own bounds each piece, see ``_Timed``.
                async with asyncio.timeout(sent["timeout"]):
                    answer = await self._http.post(**sent)
                if answer.is_success:
                    return _read(call, answer)
                wait = attempts.refused(answer)
            except (httpx.RequestError, TimeoutError) as error:
                wait = attempts.failed(error)
            await asyncio.sleep(wait)
