"""What every dialect does: check limits, judge, decide, count."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from service.access import credentials
from service.configuration import Configuration
from service.engine.engine import Engine
from service.engine.memory import Memory, Work
from service.engine.pairs import Rulings
from service.engine.timings import Timings
from service.errors import RequestError
from service.moderation import limits
from service.moderation.answering import Answering
from service.moderation.disconnect import UntilDisconnect
from service.moderation.explaining import Reasoning
from service.moderation.judged import Judged
from service.moderation.limits import deadline_of, deadline_under
from service.moderation.masking import Masked, missing
from service.moderation.masks import Masks
from service.moderation.serving import Serving
from service.moderation.streams import Streams
from service.moderation.trials import Trials
from service.observing.answered import Digest, Judgement
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.content import Content, NotThereError, Side, judged
from tamis.deciding import decide, withhold
from tamis.policy import MaskRule, Policy
from tamis.reasoner.protocol import Guideline
from tamis.verdict import Evidence, Finding, Provenance, Verdict

POLICY: Final = "x-tamis-policy"
REFUSALS: Final = {"invalid_api_key": "key", "missing_scope": "scope", "rate_limited": "rate"}


def name_in(headers: Headers, header: str) -> str | None:
    """A policy's name in a header: in UTF-8, as it is sent today, or else in Latin-1."""
    given = headers.get(header)
    if given is None or given.isascii():
        return given
    try:
        return given.encode("latin-1").decode()
    except UnicodeDecodeError:
        return given


class Moderator:
    """The application's state: settings, configuration, metrics, and the bundles that serve."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Read policies and keys.

        Raises:
            PolicyError, KeysError: where a file cannot be used.
        """
        self.settings = settings
        self.metrics = metrics
        self.configuration = Configuration(settings, metrics)
        self.serving = Serving(settings, metrics)
        self.reasoning = Reasoning(settings, metrics, lambda: self.serving.busy)
        self.answering = Answering(self.serving, self.reasoning, self.configuration, metrics)
        self.streams = Streams(self, settings, metrics)
        self._masks = Masks(settings.max_wait_ms / 1e3)
        self._trials = Trials(self.serving, metrics)
        secret = settings.audit_secret
        self._digest = Digest(secret.get_secret_value() if secret else None)

    def policy(
        self,
        request: Request,
        asked: str | Mapping[str, Any] | None = None,
        reasoned: bool = False,
    ) -> Policy:
        """The policy of a request: as asked for, in the body or a header, its key's, the default.

        Raises:
            RequestError: where there is none of that name, or it is not a policy; or where it has
                categories of its own, and there is neither a policy encoder nor is the reasoner
                asked (``reasoned``).
        """
        if asked is None:
            asked = name_in(request.headers, POLICY)
        policy = self.configuration.policy(asked, request.state.caller)
        # While the model is loading, what is asked of it is not refused for good.
        judged = self.serving.engine is None or self.rulings is not None
        self.serving.rules.check(policy, judged, reasoned)
        for kind in () if policy.mask is None else policy.mask.pii:
            if (package := missing(kind)) is not None:
                raise RequestError(
                    f"policy: 'mask' cannot find {kind!r} here: the package {package} is missing "
                    "(pip install 'tamis[pii]')",
                    param="policy",
                    code="invalid_policy",
                )
        return policy

    @property
    def rulings(self) -> Rulings | None:
        """See ``Serving``."""
        return self.serving.rulings

    def loaded(self) -> Engine:
        """See ``Serving``."""
        return self.serving.loaded()

    def _rules_of(
        self, policy: Policy, items: Sequence[tuple[str, Sequence[Content]]]
    ) -> tuple[Guideline, ...]:
        """The rules to judge beside items; none where nobody could.

        Raises:
            RequestError: where they are too much to read.
        """
        if self.rulings is None or not policy.own:
            return ()
        self.serving.rules.check_work(items, policy.rules)
        return policy.rules

    def offered(self, model: str | None) -> str | None:
        """A model's name that is a policy's: where a contract has no other place for it."""
        return model if model in self.configuration.policies else None

    def select(
        self,
        items: Sequence[tuple[str, Sequence[Content]]],
        policy: Policy,
        asked: Collection[Side] | None = None,
    ) -> Sequence[tuple[str, Sequence[Content]]]:
        """Items with those contents alone that the request, else the policy, wants judged.

        Raises:
            RequestError: naming the item that lacks one of them; or as ``check_lengths``, since
                what is not judged is read as context.
        """
        sides = policy.judge if asked is None else asked
        if sides is None:
            return items
        self.check_lengths(items)
        found = []
        for name, contents in items:
            try:
                found.append((name, judged(contents, sides)))
            except NotThereError as error:
                who = "the policy's 'judge'" if asked is None else "'judge'"
                raise RequestError(
                    f"{name}: {error}, which {who} asks for", param=name, code="nothing_to_judge"
                ) from None
        return found

    def enter(self, scope: Scope) -> None:
        """Let a request in before its body is read, or refuse it.

        Three times more requests than the machine can do must not take its cores by being parsed.

        Raises:
            RequestError: without a key that may; and as ``judge``, where no text would be short
                enough. A policy's deadline counts where it is offered by name.
        """
        headers, path, state = Headers(scope=scope), scope["path"], scope["state"]
        try:
            state["caller"] = self.configuration.access.enter(path, credentials(scope))
        except RequestError as error:
            self.metrics.refused.labels(REFUSALS[error.code]).inc()
            raise
        if state["judging"]:
            self.check_room(headers)

    def check_room(self, headers: Headers) -> None:
        """Refuse a request that would be refused however short its texts are.

        Raises:
            RequestError: as ``judge``.
        """
        if (engine := self.serving.engine) is not None:
            deadline = deadline_of(headers, self.configuration.patience)
            with self._refusals(deadline):
                engine.scheduler.check(deadline)

    def check_items(self, count: int, param: str = "input") -> None:
        """See ``limits``."""
        limits.check_items(count, self.settings.max_items, param)

    def check_lengths(self, items: Sequence[tuple[str, Sequence[Content]]]) -> None:
        """Refuse too many texts, or too long a one: see ``limits``."""
        limits.check_contents(items, self.settings.max_contents)
        limits.check_lengths(items, self.settings.max_text_characters)

    async def judge(
        self,
        request: Request,
        items: Sequence[tuple[str, Sequence[Content]]],
        policy: Policy,
        evidence: bool = False,
        alone: bool = False,
    ) -> Judged:
        """Judge items under a policy; each comes with its name in the request (``input[3]``).

        ``alone`` asks the first bundle and no other, as the engine does.

        Raises:
            RequestError: 400 over a limit of texts or with a deadline under the work, 429 where the
                queue is full or too slow, 503 while loading, 504 past the deadline.
            ClientDisconnect: where the client has left; what waited is dropped.
        """
        self.check_lengths(items)
        deadline = self._deadline(request, policy)
        engine = self.loaded()
        rules = self._rules_of(policy, items)
        evidence = evidence or (policy.mask is not None and policy.mask.evidence)
        with self._refusals(deadline):
            async with UntilDisconnect(request.receive):
                contents = [c for _, c in items]
                findings, timings = await engine.judge(contents, evidence, deadline, rules, alone)
        return self._judged(request, contents, policy, findings, timings, evidence)

    async def check_masking(
        self, items: Sequence[tuple[str, Sequence[Content]]], policy: Policy
    ) -> None:
        """See ``Masks.check``: for whoever can say it before anything is judged."""
        if policy.mask is not None:
            self.check_lengths(items)
            await self._masks.check([one for _, item in items for one in item], policy.mask)

    async def mask(
        self,
        request: Request,
        items: Sequence[Sequence[Content]],
        rule: MaskRule,
        evidence: Sequence[Sequence[Evidence]],
    ) -> list[list[Masked]]:
        """See ``Masks``: what was judged, in what is left of its deadline.

        Raises:
            RequestError: as ``judge``; 429 where too many wait.
        """
        until: float | None = request.state.until
        with self._refusals(None):
            return await self._masks.mask(request.receive, items, rule, evidence, until)

    async def judge_growing(
        self,
        request: Request,
        texts: Sequence[tuple[Content, Memory]],
        policy: Policy,
        whole: bool,
    ) -> tuple[Judged, list[Work]]:
        """Judge one item's texts so far, of which only what is not in their memory is run.

        Raises:
            RequestError: as ``judge``.
        """
        contents = [content for content, _ in texts]
        deadline = self._deadline(request, policy)
        engine = self.loaded()
        rules = self._rules_of(policy, [("text", contents)])
        with self._refusals(deadline):
            findings, timings, work = await engine.judge_growing(texts, deadline, whole, rules)
        judged = self._judged(request, [contents], policy, [findings], timings, evidence=False)
        return judged, work

    def decide_on(self, findings: Sequence[Finding], policy: Policy) -> Verdict:
        """What a policy makes of one item's findings, as a caller is told it."""
        bundle = self.loaded().bundle
        provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        verdict = decide(findings, policy, bundle.thresholds, provenance)
        return withhold(verdict) if policy.mode == "score" else verdict

    def _judged(
        self,
        request: Request,
        contents: Sequence[Sequence[Content]],
        policy: Policy,
        findings: list[list[Finding]],
        timings: Timings,
        evidence: bool,
    ) -> Judged:
        """Decide, charge the caller, and leave word for those who observe."""
        bundle = self.loaded().bundle
        provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        verdicts = [decide(found, policy, bundle.thresholds, provenance) for found in findings]
        self.configuration.access.charge(request.state.caller, len(contents))
        # Told to the observers, and judged on trial, once the answer is on its way.
        request.state.judgement = Judgement(
            at=time.time(),
            bundle=bundle,
            policy=policy,
            inline=self.configuration.policies.get(policy.name) is not policy,
            evidence=evidence,
            timings=timings,
            digest=self._digest,
            items=contents,
            findings=findings,
            verdicts=verdicts,
        )
        if (shadow := self.configuration.shadow(policy)) is not None:
            self._trials.begin(shadow, contents, findings, verdicts)
        if policy.mode == "score":
            return Judged([withhold(verdict) for verdict in verdicts], timings, findings)
        return Judged(verdicts, timings, findings)

    def _deadline(self, request: Request, policy: Policy) -> float | None:
        """Seconds that a request has from now on; what comes later is done within them, too."""
        deadline = deadline_under(policy, request.headers)
        request.state.until = None if deadline is None else time.perf_counter() + deadline
        return deadline

    def _refusals(self, deadline: float | None) -> AbstractContextManager[None]:
        return limits.refusals(self.metrics, deadline)

    def close(self) -> None:
        """Finish what is queued."""
        self.serving.leave()
        self.reasoning.close()
        self.serving.close()


def moderator_of(request: Request) -> Moderator:
    """The application's moderator."""
    found = request.app.state.moderator
    assert isinstance(found, Moderator)
    return found
