"""Who answers: the bundles that are loaded, why none is, and which of them judged a content."""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter

from service.engine.runtime import ProviderError
from service.observing.metrics.series import Series
from tamis.bundle import BundleError
from tamis.verdict import Finding, Missed, Role

LoadFailure = Literal["provider", "bundle", "other"]
LOAD_FAILURES: Final[tuple[LoadFailure, ...]] = get_args(LoadFailure)
# Who can answer: the tier "cascade" is the first two, and in each tier the last may.
Answering = Literal["fast", "accurate", "multilingual"]


class Bundles(Series):
    """What is served, by whom and on what."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing is loaded yet."""
        super().__init__(registry)
        self.ready = self.gauge("tamis_ready", "Processes whose bundle is loaded and warm.")
        self._bundle = self.gauge(
            "tamis_bundle_info",
            "The bundle that is served.",
            *("name", "fingerprint"),
            over="livemax",
        )
        self._runtime = self.gauge(
            "tamis_runtime_info",
            "What it runs on: the provider that the session really got.",
            *("provider", "threads", "workers"),
            over="livemax",
        )
        self._load_failed = self.gauge(
            "tamis_load_failed",
            "Why the model could not be loaded: provider (not the configured one), bundle, other.",
            "reason",
            over="livemax",
        )
        self._none_failed()
        self._tiers = self.gauge(
            "tamis_tier_info",
            "The bundle that answers in a tier.",
            *("tier", "name", "fingerprint"),
            over="livemax",
        )
        self._first: Answering = "fast"
        self._beside: dict[Role, tuple[str, str]] = {}
        answers = self.counter(
            "tamis_answers_total", "Contents judged, by the tier whose bundle answered.", "tier"
        )
        self._answers: dict[str, Counter] = {t: answers.labels(t) for t in get_args(Answering)}
        opinions = self.counter(
            "tamis_second_opinions_total",
            "Contents that the fast tier was unsure of: given, or why none was.",
            "result",
        )
        self._opinions = {r: opinions.labels(r) for r in ("given", *get_args(Missed))}

    def serving(
        self, bundle: Mapping[str, str], runtime: Mapping[str, str], tier: Answering = "fast"
    ) -> None:
        """The engine is loaded, and this is what it serves on what."""
        self._bundle.labels(**bundle).set(1)
        self._runtime.labels(**runtime).set(1)
        self._first = tier
        self._tiers.labels(tier=tier, **bundle).set(1)
        self._none_failed()

    def beside(self, role: Role, name: str, fingerprint: str) -> None:
        """The engine can ask another bundle beside the first: for second opinions, or languages."""
        self.unasked(role)
        self._beside[role] = name, fingerprint
        self._tiers.labels(role, name, fingerprint).set(1)

    def unasked(self, role: Role) -> None:
        """The engine asks nobody, or nobody any more, beside the first for that."""
        if (before := self._beside.pop(role, None)) is not None:
            self._tiers.labels(role, *before).set(0)

    def failed(self, error: Exception) -> None:
        """The engine could not be loaded."""
        kinds: dict[type[Exception], LoadFailure] = {
            ProviderError: "provider",
            BundleError: "bundle",
        }
        found = (reason for kind, reason in kinds.items() if isinstance(error, kind))
        self._load_failed.labels(next(found, "other")).set(1)

    def _none_failed(self) -> None:
        for reason in LOAD_FAILURES:
            self._load_failed.labels(reason).set(0)

    def answered(self, finding: Finding) -> None:
        """Count who judged a content."""
        role = None if finding.second is None else finding.second.role
        self._answers[role or self._first].inc()
        if role == "accurate" or finding.missed is not None:
            self._opinions[finding.missed or "given"].inc()
