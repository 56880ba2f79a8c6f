"""What is asked beside verdicts: why they are what they are, and questions of one's own."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.requests import Request

from service.configuration import Configuration
from service.engine.reasoner.explanation import Explanation
from service.errors import RequestError
from service.moderation import limits
from service.moderation.disconnect import UntilDisconnect
from service.moderation.explaining import Asked, Explained, Reasoning, Unexplained
from service.moderation.judged import Judged
from service.moderation.limits import deadline_of, deadline_under
from service.moderation.questions import answered, rules_of
from service.moderation.serving import Serving
from service.observing.metrics import Metrics
from tamis.content import Content
from tamis.deciding import breach
from tamis.policy import Policy
from tamis.reasoner.protocol import Guideline

# Codes of refusals that leave an item without an explanation, but with its verdict.
UNEXPLAINED: Final[Mapping[str | None, Unexplained]] = {
    "overloaded": "overloaded",
    "deadline_exceeded": "late",
}


class Answering:
    """The policy encoder and the reasoner, in what is left of a request's time."""

    def __init__(
        self,
        serving: Serving,
        reasoning: Reasoning,
        configuration: Configuration,
        metrics: Metrics,
    ) -> None:
        """What a moderator has."""
        self._serving, self._reasoning = serving, reasoning
        self._configuration, self._metrics = configuration, metrics

    async def explain(
        self,
        request: Request,
        items: Sequence[tuple[str, Sequence[Content]]],
        policy: Policy,
        judged: Judged,
        emit: Callable[[str], None] | None = None,
    ) -> list[Explained | Unexplained | None]:
        """Explain items one after the other; judging them has cost their deadline its time already.

        Where there is a policy encoder, the verdicts stand, and the reasoner is given them to word;
        else it judges by itself.

        ``emit`` is given the reasons as they are written, in pieces, on the event loop. Without it
        the verdicts are still to be answered, and are not lost because there is no time or room to
        explain them.

        Raises:
            RequestError: 400 where a text or the policy is too long, 503 where there is no
                reasoner; with ``emit`` 429 where too many wait, 504 past the deadline.
            ClientDisconnect: where the client has left; the work ends at its next pause.
        """
        deadline = deadline_under(policy, request.headers)
        guidelines = self._reasoning.guidelines(policy)
        began = time.perf_counter() - judged.timings.total / 1e3
        found: list[Explained | Unexplained | None] = []
        async with UntilDisconnect(request.receive):
            for n, (name, contents) in enumerate(items):
                left = None if deadline is None else deadline + began - time.perf_counter()
                asked = name, contents, guidelines
                if self._serving.rulings is None:
                    explain = self._reasoning.explain(*asked, judged.verdicts[n], left, emit)
                else:
                    thresholds = self._serving.loaded().bundle.thresholds
                    broken = breach(judged.findings[n], policy, thresholds)
                    explain = self._reasoning.word(*asked, broken, left, emit)
                try:
                    with limits.refusals(self._metrics, deadline):
                        found.append(await explain)
                except RequestError as error:
                    if emit is not None or error.code not in UNEXPLAINED:
                        raise
                    found.append(UNEXPLAINED[error.code])
        return found

    async def decide(
        self, request: Request, asked: Sequence[Asked], content: Content, reasoned: bool
    ) -> list[Explanation]:
        """Answer questions about one content, one after the other, so that others come between.

        By the policy encoder, where there is one, which answers them all at once; the reasoner then
        says why, where that is wanted (``reasoned``).

        Raises:
            RequestError, ClientDisconnect: as ``explain``; 400 where they are too much to read.
        """
        deadline = deadline_of(request.headers, None)
        began = time.perf_counter()
        found: list[Explanation] = []
        rulings = self._serving.rulings
        rules: tuple[Guideline, ...] = ()
        if rulings is not None:
            rules = tuple(dict.fromkeys(rule for one in asked for rule in rules_of(one)))
            self._serving.rules.check_work([("input", [content])], rules)

        def left() -> float | None:
            return None if deadline is None else deadline + began - time.perf_counter()

        with limits.refusals(self._metrics, deadline):
            async with UntilDisconnect(request.receive):
                # Let in with its first question: the others' answers are not thrown away.
                if rulings is None:
                    for n, one in enumerate(asked):
                        run = self._reasoning.decide(one, content, reasoned, left(), n > 0)
                        found.append(await run)
                else:
                    scores = await self._serving.loaded().rule(content, rules, deadline)
                    found = [answered(one, scores) for one in asked]
                    for n, one in enumerate(asked if reasoned else ()):
                        said = self._reasoning.worded(one, content, found[n].reading, left(), n > 0)
                        found[n] = (await said)[0]
        self._configuration.access.charge(request.state.caller, len(asked))
        return found
