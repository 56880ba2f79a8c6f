"""Policy encoders as the service offers them: found, loaded beside the classifier, and bounded."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool

from service.engine.engine import Engine
from service.engine.policy_encoder import Encoder
from service.engine.split import encoder_of
from service.errors import RequestError
from service.moderation import arrival
from service.moderation.arrival import Joining, State
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis import rules
from tamis.content import Content
from tamis.policies.parsing import check_unscored
from tamis.policy import Policy, PolicyError
from tamis.reasoner.protocol import Guideline, GuidelineError

logger = logging.getLogger("tamis.service")

WAITING: Final[dict[State, str]] = {
    "off": "this service has no policy encoder (TAMIS_POLICY_ENCODER is empty)",
    "absent": "the policy encoder's bundle is not there",
    "building": "the policy encoder's bundle is being built",
    "loading": "the policy encoder is still loading",
}
# What a pair takes however short rule and text are, in characters: some 3 ms on a core.
PAIR: Final = 64
# Of warm-up: a pair as most are, and one as long as may be.
LENGTHS: Final = (64, 256)
REPEATS: Final = 3


class Encoders(Joining):
    """A policy encoder's bundle, which comes when it comes."""

    def __init__(self, path: Path | None, what: str, taken: "Taken") -> None:
        super().__init__(path, f"{what}'s bundle", what)
        self._taken = taken

    async def _take(self, engine: Engine, path: Path) -> None:
        await self._taken(engine, path)


Taken = Callable[[Engine, Path], Awaitable[None]]


class Rules:
    """Policy encoders' state in a process. What needs no rules of its own needs none of it.

    There may be two: where the accurate one is there, it judges, and until then the other one.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        best = settings.policy_encoder_accurate
        self._accurate = Encoders(best, "the accurate policy encoder", self._take)
        self._default = Encoders(settings.policy_encoder, "the policy encoder", self._take)

    @property
    def state(self) -> State:
        """How the bundle of whoever judges stands, or is to."""
        return "ready" if self._accurate.state == "ready" else self._default.state

    @property
    def accurate(self) -> State:
        """How the accurate one's bundle stands."""
        return self._accurate.state

    @property
    def reason(self) -> str | None:
        """Why a bundle that is there does not judge; None where it does, or where none is there."""
        return self._accurate.reason or self._default.reason

    async def join(self, engine: Engine) -> None:
        """Have an engine that nobody asks yet ask what is there already."""
        await self._accurate.join(engine)
        if self._accurate.state != "ready":
            await self._default.join(engine)

    async def watch(self, engine: Engine) -> None:
        """Look for bundles until cancelled, and have the engine ask the best; later ones, too."""
        while True:
            await self.join(engine)
            await asyncio.sleep(arrival.LOOK)

    def check(self, policy: Policy, judged: bool, reasoned: bool) -> None:
        """Refuse categories of a policy's own that cannot be read, or that nobody would judge.

        ``judged``: there is an encoder. ``reasoned``: the reasoner is asked.

        Raises:
            RequestError: 400, naming the category.
        """
        if not policy.own:
            return
        try:
            _ = policy.rules
            if not judged:
                check_unscored(policy, "policy")
        except (GuidelineError, PolicyError) as error:
            said = str(error).removeprefix("policy: ")
            raise RequestError(f"policy: {said}", param="policy", code="invalid_policy") from None
        if not judged and not reasoned:
            why = self.reason or WAITING.get(self.state, "the policy encoder is still loading")
            raise RequestError(
                f"policy: the classifier does not know the category {policy.own[0]!r}, and {why}; "
                "ask /moderate with explain: 'reason'",
                param="policy",
                code="invalid_policy",
            )

    def check_work(
        self, items: Sequence[tuple[str, Sequence[Content]]], asked: Sequence[Guideline]
    ) -> None:
        """Refuse what would keep all cores busy for too long.

        Raises:
            RequestError: naming the limit.
        """
        self._check("input", len(asked), work_of([c for _, item in items for c in item], asked))

    def check_count(self, param: str, count: int) -> None:
        """Refuse rules that are too many for any text, before they are made.

        Raises:
            RequestError: naming the field and the limit.
        """
        self._check(param, count, PAIR * count)

    def _check(self, param: str, count: int, work: int) -> None:
        if work > (limit := self._settings.rules_max_characters):
            raise RequestError(
                f"{param}: {count} rules beside these texts are {work} characters to read, {PAIR} "
                f"of them for each pair, over the limit of {limit}",
                param=param,
                code="too_many_rules",
            )

    def fits(self, contents: Sequence[Content], asked: Sequence[Guideline]) -> bool:
        """Whether ``check_work`` would let it pass."""
        return work_of(contents, asked) <= self._settings.rules_max_characters

    async def _take(self, engine: Engine, path: Path) -> None:
        encoder, speed = await run_in_threadpool(self._load, path)
        engine.rule_by(encoder, speed)
        bundle = encoder.bundle
        self._metrics.beside("rules", bundle.name, bundle.fingerprint)
        logger.info("policies' own rules: %s@%s", bundle.name, bundle.fingerprint[:12])

    def _load(self, path: Path) -> tuple[Encoder, float]:
        settings = self._settings
        encoder = encoder_of(
            rules.load(path), settings.rules_cache_bytes, settings.rules_states_bytes
        )
        return encoder, warm_up(encoder)


def work_of(contents: Sequence[Content], asked: Sequence[Guideline]) -> int:
    """Characters to read: each rule with each text, and what the text is read behind."""
    lengths = [len(one.text) + min(len(one.context or ""), len(one.text)) for one in contents]
    rule = sum(len(name) + len(definition or "") for name, definition in asked)
    return rule * len(contents) + len(asked) * sum(PAIR + length for length in lengths)


def warm_up(encoder: Encoder) -> float:
    """Tokens a second on one core, by a few first runs."""
    speeds = []
    for most in LENGTHS:
        tokens = min(most, encoder.bundle.shape.max_tokens)
        pair = encoder.trial(tokens)
        said = encoder.read(pair)
        for _ in range(REPEATS):
            began = time.perf_counter()
            encoder.score(pair, said)
            speeds.append(tokens / (time.perf_counter() - began))
    encoder.clear()
    return max(speeds)
