"""The clients, one that waits and one that awaits."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx

from tamis.client.answers import Moderation, moderation_of
from tamis.client.attempts import Attempts
from tamis.client.items import Explain, Item
from tamis.content import Side
from tamis.corrections.record import Label

TIMEOUT: Final = 10.0
RETRIES: Final = 2
Policy = str | Mapping[str, Any] | None
"""By name, written out, or the key's own."""


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _body(
    given: Item | Sequence[Item], policy: Policy, judge: Sequence[Side] | None, explain: Any
) -> dict[str, Any]:
    asked = {"policy": policy, "judge": None if judge is None else list(judge), "explain": explain}
    return {"input": given} | {name: value for name, value in asked.items() if value is not None}


def _correction(given: Item, label: Label | None, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"input": given, **({} if label is None else {"label": label}), **more}


class Client:
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
        self._timeout, self._retries = timeout, retries
        self._owned = http is None
        self._http = http or httpx.Client()
        self._url, self._headers = url.rstrip("/"), _headers(key)

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
                answer, or not in time.
        """
        return moderation_of(self._ask("/moderate", _body(item, policy, judge, explain), deadline))

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
        body = _body(list(items), policy, judge, explain)
        return [moderation_of(one) for one in self._ask("/moderate", body, deadline)["results"]]

    def feedback(self, item: Item, label: Label | None = None, **more: Any) -> str:
        """Store what a person says of an item (fields as ``POST /feedback`` has them); its id."""
        stored: str = self._ask("/feedback", _correction(item, label, more), None)["id"]
        return stored

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

    def _ask(self, path: str, body: Mapping[str, Any], deadline: float | None) -> Any:
        attempts = Attempts(self._retries, self._timeout, deadline)
        while True:
            headers = self._headers | attempts.headers
            try:
                answer = self._http.post(
                    self._url + path, json=body, headers=headers, timeout=attempts.timeout
                )
                if answer.is_success:
                    return answer.json()
                wait = attempts.refused(answer)
            except httpx.TransportError as error:
                wait = attempts.failed(error)
            time.sleep(wait)


class AsyncClient:
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
        self._timeout, self._retries = timeout, retries
        self._owned = http is None
        self._http = http or httpx.AsyncClient()
        self._url, self._headers = url.rstrip("/"), _headers(key)

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
        body = _body(item, policy, judge, explain)
        return moderation_of(await self._ask("/moderate", body, deadline))

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
        body = _body(list(items), policy, judge, explain)
        answer = await self._ask("/moderate", body, deadline)
        return [moderation_of(one) for one in answer["results"]]

    async def feedback(self, item: Item, label: Label | None = None, **more: Any) -> str:
        """See ``Client.feedback``."""
        answer = await self._ask("/feedback", _correction(item, label, more), None)
        stored: str = answer["id"]
        return stored

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

    async def _ask(self, path: str, body: Mapping[str, Any], deadline: float | None) -> Any:
        attempts = Attempts(self._retries, self._timeout, deadline)
        while True:
            headers = self._headers | attempts.headers
            try:
                answer = await self._http.post(
                    self._url + path, json=body, headers=headers, timeout=attempts.timeout
                )
                if answer.is_success:
                    return answer.json()
                wait = attempts.refused(answer)
            except httpx.TransportError as error:
                wait = attempts.failed(error)
            await asyncio.sleep(wait)
