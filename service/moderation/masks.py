"""Masking for requests: no more than there is time for, and beside the event loop."""

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from service.errors import RequestError
from service.moderation.disconnect import UntilDisconnect
from service.moderation.masking import Masked, mask, work
from tamis.content import Content
from tamis.policy import MaskRule
from tamis.verdict import Evidence

# In characters, once and once again for every country. The dearest that were found took 13 µs each:
# from here on, some five milliseconds, masking would hold up the event loop.
ASIDE: Final = 400
# As ``work`` counts them. Most of the dearest took 1 to 5 µs each: over so many it takes seconds.
MOST: Final = 500_000


class Masks:
    """Masks the texts of requests, those that take long one at a time.

    They are Python's own work, under its one lock: several at a time would end no earlier, and
    everybody else's turn would come the later for each of them.
    """

    def __init__(self) -> None:
        self._one = asyncio.Semaphore(1)

    async def check(self, contents: Sequence[Content], rule: MaskRule) -> None:
        """Refuse what takes too long.

        Raises:
            RequestError: naming the field that takes longest, and the limit.
        """
        if _most(contents, rule) <= MOST:
            return
        costs = await run_in_threadpool(lambda: [work(content.text, rule) for content in contents])
        if (found := sum(costs)) > MOST:
            field = contents[costs.index(max(costs))].field
            raise RequestError(
                f"{field}: {found} characters of what may be numbers, counted for each kind and "
                f"country that the policy masks, are over the limit of {MOST}",
                param=field,
                code="text_too_long",
            )

    async def mask(
        self,
        receive: Receive,
        items: Sequence[Sequence[Content]],
        rule: MaskRule,
        evidence: Sequence[Sequence[Evidence]],
    ) -> list[list[Masked]]:
        """The contents of items as a policy wants them shown, with the evidence of each item.

        Raises:
            RequestError: as ``check``.
            ClientDisconnect: where the client has left, unless its turn had come.
        """
        contents = [content for item in items for content in item]
        await self.check(contents, rule)

        def masked() -> list[list[Masked]]:
            pairs = zip(items, map(_by_field, evidence), strict=True)
            return [
                [mask(content, rule, found.get(content.field, ())) for content in item]
                for item, found in pairs
            ]

        if _most(contents, rule) <= ASIDE:
            return masked()
        async with UntilDisconnect(receive), self._one:
            return await run_in_threadpool(masked)


def _most(contents: Sequence[Content], rule: MaskRule) -> int:
    """What masking takes at most, without a look at the texts."""
    return sum(len(content.text) for content in contents) * (1 + len(rule.countries))


def _by_field(evidence: Sequence[Evidence]) -> dict[str, list[Evidence]]:
    """Each content is masked by its own: of many, none is asked of the others'."""
    found: dict[str, list[Evidence]] = {}
    for one in evidence:
        found.setdefault(one.field, []).append(one)
    return found
