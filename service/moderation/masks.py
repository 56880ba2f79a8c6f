"""Masking for requests: no more than there is time for, and beside the event loop."""

import time
from collections.abc import Sequence
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from service.engine.scheduler import DeadlineError
from service.errors import RequestError
from service.moderation.disconnect import UntilDisconnect
from service.moderation.masking import Masked, mask, work
from service.moderation.turns import Turns
from tamis.content import Content
from tamis.policy import MaskRule
from tamis.verdict import Evidence

# In characters, once and once again for every country. The dearest that were found took 13 µs each:
# from here on, some five milliseconds, masking would hold up the event loop.
ASIDE: Final = 400
# Likewise, some tens of milliseconds: whoever asks for less does not wait for more.
SHORT: Final = 20_000
# As ``work`` counts them. Most of the dearest took 1 to 4 µs each: from here on it takes a second,
# for which everybody else has half of Python's time.
MOST: Final = 250_000
# So many texts may wait for others; of 64 short ones the last waits for a second at most.
WAITING: Final = 64


class Masks:
    """Masks the texts of requests, those that take long one at a time, beside shorter ones.

    They are Python's own work, under its one lock: several at a time would end no earlier, and
    everybody else's turn would come the later for each of them.
    """

    def __init__(self, patience: float) -> None:
        """``patience``: seconds that a request without a deadline waits for its turn."""
        self._short, self._long = Turns(patience, WAITING), Turns(patience, WAITING)

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
        until: float | None = None,
    ) -> list[list[Masked]]:
        """The contents of items as a policy wants them shown, with the evidence of each item.

        ``until`` is the request's deadline by ``time.perf_counter``.

        Raises:
            RequestError: as ``check``.
            OverloadedError, DeadlineError: as ``Turns``; a text that was begun is masked.
            ClientDisconnect: where the client has left, unless its turn had come.
        """
        contents = [content for item in items for content in item]
        await self.check(contents, rule)

        def one(content: Content, found: Sequence[Evidence]) -> Masked:
            if until is not None and time.perf_counter() > until:
                raise DeadlineError
            return mask(content, rule, found)

        def masked() -> list[list[Masked]]:
            pairs = zip(items, map(_by_field, evidence), strict=True)
            return [
                [one(content, found.get(content.field, ())) for content in item]
                for item, found in pairs
            ]

        if (most := _most(contents, rule)) <= ASIDE:
            return masked()
        turns = self._short if most <= SHORT else self._long
        async with UntilDisconnect(receive), turns.turn(until):
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
