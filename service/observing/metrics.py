"""Prometheus metrics: seconds in millisecond buckets, labels of bounded number."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.engine.engine import EngineEvents
from service.engine.flights import Lookup
from service.engine.policy_encoder import RuleScore
from service.engine.reasoner.queue import ExplainerEvents
from service.engine.reasoner.reasoner import Explanation, Status
from service.engine.runtime import ProviderError
from service.engine.scheduler import Loss
from service.engine.timings import STAGES, Timings
from service.engine.workers.crew import CrewEvents
from service.observing.answered import Answered
from tamis.bundle import BundleError
from tamis.policy import Mode
from tamis.reading import TRANSFORMS
from tamis.verdict import Finding, Missed, Role, Verdict

BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
)
LoadFailure = Literal["provider", "bundle", "other"]
LOAD_FAILURES: Final[tuple[LoadFailure, ...]] = get_args(LoadFailure)
# Who can answer: the tier "cascade" is the first two, and in each tier the last may.
Answering = Literal["fast", "accurate", "multilingual"]
# What flagged categories are counted as that callers wrote out: their names are without number.
OWN: Final = "own"
# Set by ``tamis serve --processes``: prometheus_client then keeps values in files of this folder,
# and reads the variable when it is imported.
SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"


class Metrics(EngineEvents, ExplainerEvents, CrewEvents):
    """One registry per app, so that two apps in one process (tests) do not mix.

    Gauges are set where their value changes rather than asked at the scrape: whichever of several
    processes answers a scrape must know the values of the others.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Histogram(
            "tamis_request_duration_seconds",
            "Time from the request line to the last byte of the answer.",
            ["route", "outcome"],
            buckets=BUCKETS,
            registry=registry,
        )
        stages = Histogram(
            "tamis_stage_duration_seconds",
            "Time in one stage of a moderation request.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self.in_flight = Gauge(
            "tamis_requests_in_flight",
            "Requests being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._queued = Gauge(
            "tamis_queued_tokens",
            "Tokens waiting or running.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "tamis_ready",
            "Processes whose bundle is loaded and warm.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.verdicts = Counter(
            "tamis_verdicts_total",
            "Items judged, by what the policy asks for and whether it is enforced or only scored.",
            ["action", "mode"],
            registry=registry,
        )
        self._contents = Counter(
            "tamis_contents_total",
            "Contents judged, by what was asked of them and how bad they are.",
            ["question", "severity"],
            registry=registry,
        )
        self._refusals = Counter(
            "tamis_refusals_total",
            "Responses judged by a bundle that knows refusals, by whether they decline.",
            ["refuses"],
            registry=registry,
        )
        for answer in ("true", "false"):
            self._refusals.labels(answer)
        self._shadow = Counter(
            "tamis_shadow_verdicts_total",
            "Items judged under a policy and, on trial, under its shadow.",
            ["policy", "shadow", "action", "shadow_action"],
            registry=registry,
        )
        self._untried = Counter(
            "tamis_shadow_untried_total",
            "Items that a policy with rules of its own was not tried on: there was no room.",
            ["policy", "shadow"],
            registry=registry,
        )
        reloads = Counter(
            "tamis_config_reloads_total",
            "Changes of policies or keys, put in force or refused.",
            ["result"],
            registry=registry,
        )
        self._reloads = {True: reloads.labels("applied"), False: reloads.labels("refused")}
        self._reload_successful = Gauge(
            "tamis_config_last_reload_successful",
            "Whether what lies in the files is what is in force.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._policies = Gauge(
            "tamis_policy_info",
            "The policies offered by name.",
            ["policy", "version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._offered: dict[str, str] = {}
        self.flags = Counter(
            "tamis_flagged_categories_total", "Categories flagged.", ["category"], registry=registry
        )
        transforms = Counter(
            "tamis_transforms_total",
            "Items in which a kind of obfuscation was undone, or that could not be read.",
            ["transform"],
            registry=registry,
        )
        self._transforms = {name: transforms.labels(name) for name in TRANSFORMS}
        self.windows = Counter("tamis_windows_total", "Windows in verdicts.", registry=registry)
        self.tokens = Counter("tamis_tokens_total", "Tokens in verdicts.", registry=registry)
        self._batch = Histogram(
            "tamis_run_windows",
            "Windows of one run of the model.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        ran = Counter(
            "tamis_run_tokens_total",
            "Tokens given to the model, those of texts and those of padding.",
            ["kind"],
            registry=registry,
        )
        self._real, self._padding = ran.labels("text"), ran.labels("padding")
        self.refused = Counter(
            "tamis_refused_total",
            "Requests refused on arrival: no room, deadline out of reach, deadline under the work, "
            "no key, scope or rate.",
            ["reason"],
            registry=registry,
        )
        self._lost = Counter(
            "tamis_lost_total",
            "Requests given up while they waited or ran.",
            ["reason"],
            registry=registry,
        )
        for loss in get_args(Loss):
            # A series that begins with its first event hides that event from rate().
            self._lost.labels(loss)
        self._lookups = Counter(
            "tamis_cache_lookups_total",
            "Texts sought in the cache; joined means an equal text was being judged.",
            ["result"],
            registry=registry,
        )
        answers = Counter(
            "tamis_answers_total",
            "Contents judged, by the tier whose bundle answered.",
            ["tier"],
            registry=registry,
        )
        self._answers: dict[str, Counter] = {t: answers.labels(t) for t in get_args(Answering)}
        opinions = Counter(
            "tamis_second_opinions_total",
            "Contents that the fast tier was unsure of: given, or why none was.",
            ["result"],
            registry=registry,
        )
        self._opinions = {r: opinions.labels(r) for r in ("given", *get_args(Missed))}
        self._tiers = Gauge(
            "tamis_tier_info",
            "The bundle that answers in a tier.",
            ["tier", "name", "fingerprint"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._first: Answering = "fast"
        self._beside: dict[Role, tuple[str, str]] = {}
        self.feedback = Counter(
            "tamis_feedback_total",
            "Corrections stored, by label, and whether the service says the same.",
            ["label", "agrees"],
            registry=registry,
        )
        self.streams = Gauge(
            "tamis_streams",
            "Streams that are remembered or open.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        pieces = Counter(
            "tamis_stream_pieces_total",
            "Pieces of streams: judged, or held until there is more.",
            ["result"],
            registry=registry,
        )
        self._pieces = {True: pieces.labels("judged"), False: pieces.labels("held")}
        windows = Counter(
            "tamis_stream_windows_total",
            "Windows of streams' verdicts: run, or known from before.",
            ["kind"],
            registry=registry,
        )
        self._stream_windows = {kind: windows.labels(kind) for kind in ("run", "known")}
        self._bundle = Gauge(
            "tamis_bundle_info",
            "The bundle that is served.",
            ["name", "fingerprint"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._runtime = Gauge(
            "tamis_runtime_info",
            "What it runs on: the provider that the session really got.",
            ["provider", "threads", "workers"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._workers = Gauge(
            "tamis_workers",
            "Inference workers that are alive; none where the server's own process judges.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._replaced = Counter(
            "tamis_worker_restarts_total",
            "Inference workers that ended and were replaced.",
            registry=registry,
        )
        self.reasoner_ready = Gauge(
            "tamis_reasoner_ready",
            "Processes whose reasoner is loaded.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._reasoner_waiting = Gauge(
            "tamis_reasoner_requests",
            "Explain requests that wait or run.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._explanations = Counter(
            "tamis_explanations_total",
            "Explanations by outcome: ok, malformed, unfinished at the limit of tokens, late.",
            ["status"],
            registry=registry,
        )
        explaining = Histogram(
            "tamis_explanation_duration_seconds",
            "Time in one stage of an explanation.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._explaining = {s: explaining.labels(s) for s in ("queue", "verdict", "reason")}
        reasoned = Counter(
            "tamis_reasoner_tokens_total",
            "Tokens of explanations: found in the cache, read, written.",
            ["kind"],
            registry=registry,
        )
        self._reasoned = {kind: reasoned.labels(kind) for kind in ("cached", "read", "written")}
        for status in get_args(Status):
            self._explanations.labels(status)
        self._ruling = Histogram(
            "tamis_rules_duration_seconds",
            "Time to judge the texts of a request by rules of the policy's own.",
            buckets=BUCKETS,
            registry=registry,
        )
        self._rules_held = Gauge(
            "tamis_rules_states_bytes",
            "Memory of rules that were read alone, by a split encoder.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._rules = Counter(
            "tamis_rules_total",
            "Rules of policies' own judged, each beside each text.",
            registry=registry,
        )
        ruled = Counter(
            "tamis_rules_tokens_total",
            "Tokens of rules beside texts: read, or known from before.",
            ["kind"],
            registry=registry,
        )
        self._ruled = {kind: ruled.labels(kind) for kind in ("read", "known")}
        self._load_failed = Gauge(
            "tamis_load_failed",
            "Why the model could not be loaded: provider (not the configured one), bundle, other.",
            ["reason"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        for reason in LOAD_FAILURES:
            self._load_failed.labels(reason).set(0)

    def scrape(self) -> bytes:
        """The exposition text; over all processes where there are several."""
        if not (folder := os.environ.get(SHARED)):
            return generate_latest(self.registry)
        _bury_dead(Path(folder))
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)

    def observe(self, answered: Answered) -> None:
        """Count a request and, if it got verdicts, those."""
        self.requests.labels(answered.route, answered.outcome).observe(answered.seconds)
        if (judgement := answered.judgement) is not None:
            policy = judgement.policy
            written = policy.own if judgement.inline else ()
            self.judged(judgement.verdicts, policy.mode, judgement.timings, written)
            for findings in judgement.findings:
                for finding in findings:
                    self._answered(finding)

    def judged(
        self,
        verdicts: Sequence[Verdict],
        mode: Mode,
        timings: Timings,
        written: Collection[str] = (),
    ) -> None:
        """Count the verdicts of one request as their policy means them, and note its stages.

        ``written`` are categories that the caller wrote out.
        """
        for verdict in verdicts:
            self._count(verdict, mode, written)
        for stage, histogram in self._stages.items():
            histogram.observe(getattr(timings, stage) / 1e3)

    def _answered(self, finding: Finding) -> None:
        """Count who judged a content."""
        role = None if finding.second is None else finding.second.role
        self._answers[role or self._first].inc()
        if role == "accurate" or finding.missed is not None:
            self._opinions[finding.missed or "given"].inc()

    def _count(self, verdict: Verdict, mode: Mode, written: Collection[str]) -> None:
        self.verdicts.labels(verdict.action.value, mode).inc()
        self.windows.inc(verdict.windows)
        self.tokens.inc(verdict.tokens)
        for field in verdict.fields.values():
            self._contents.labels(field.question, field.severity.value).inc()
            if field.refusal is not None:
                self._refusals.labels(str(field.refusal.flagged).lower()).inc()
        for name, category in verdict.categories.items():
            if category.flagged:
                self.flags.labels(OWN if name in written else name).inc()
        if verdict.attack is not None and verdict.attack.flagged:
            self.flags.labels("attack").inc()
        for name in verdict.transforms:
            self._transforms[name].inc()

    def shadowed(self, verdicts: Sequence[Verdict], trial: Sequence[Verdict]) -> None:
        """Count how a policy on trial would have judged the same items."""
        for one, other in zip(verdicts, trial, strict=True):
            names = one.provenance.policy, other.provenance.policy
            self._shadow.labels(*names, one.action.value, other.action.value).inc()

    def untried(self, policy: str, shadow: str, items: int) -> None:
        """Count what a policy on trial was not tried on."""
        self._untried.labels(policy, shadow).inc(items)

    def streamed(self, run: int, known: int) -> None:
        """Count a piece of a stream by the windows it took; none where it was held."""
        self._pieces[run + known > 0].inc()
        self._stream_windows["run"].inc(run)
        self._stream_windows["known"].inc(known)

    def reloaded(self, applied: bool) -> None:
        """Files of policies or keys have changed."""
        self._reloads[applied].inc()
        if not applied:
            self._reload_successful.set(0)

    def offering(self, versions: Mapping[str, str]) -> None:
        """The policies in force, by name."""
        for policy, version in self._offered.items():
            # Set rather than removed: other processes' files cannot be unwritten.
            self._policies.labels(policy, version).set(0)
        for policy, version in versions.items():
            self._policies.labels(policy, version).set(1)
        self._offered = dict(versions)
        self._reload_successful.set(1)

    def serving(
        self, bundle: Mapping[str, str], runtime: Mapping[str, str], tier: Answering = "fast"
    ) -> None:
        """The engine is loaded, and this is what it serves on what."""
        self._bundle.labels(**bundle).set(1)
        self._runtime.labels(**runtime).set(1)
        self._first = tier
        self._tiers.labels(tier=tier, **bundle).set(1)
        for reason in LOAD_FAILURES:
            self._load_failed.labels(reason).set(0)

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

    def queued(self, tokens: int) -> None:
        """See ``Events``."""
        self._queued.set(tokens)

    def lost(self, reason: Loss) -> None:
        """See ``Events``."""
        self._lost.labels(reason).inc()

    def ran(self, tasks: int, tokens: int, padded: int) -> None:
        """See ``Events``."""
        self._batch.observe(tasks)
        self._real.inc(tokens)
        self._padding.inc(padded - tokens)

    def manned(self, workers: int) -> None:
        """See ``CrewEvents``."""
        self._workers.set(workers)

    def replaced(self) -> None:
        """See ``CrewEvents``."""
        self._replaced.inc()

    def waiting(self, jobs: int) -> None:
        """See ``ExplainerEvents``."""
        self._reasoner_waiting.set(jobs)

    def explained(self, found: Explanation, waited: float) -> None:
        """Count an explanation, its stages and its tokens."""
        self._explanations.labels(found.status).inc()
        self._explaining["queue"].observe(waited)
        self._explaining["verdict"].observe(found.verdict_seconds)
        if found.written:
            self._explaining["reason"].observe(found.reason_seconds)
        self._reasoned["cached"].inc(found.reading.cached)
        self._reasoned["read"].inc(found.reading.tokens - found.reading.cached)
        self._reasoned["written"].inc(found.written)

    def ruled(self, scores: Sequence[RuleScore], seconds: float, held: int) -> None:
        """See ``EngineEvents``."""
        self._rules_held.set(held)
        self._ruling.observe(seconds)
        self._rules.inc(len(scores))
        known = sum(score.known for score in scores)
        self._ruled["known"].inc(known)
        self._ruled["read"].inc(sum(score.tokens for score in scores) - known)

    def looked_up(self, result: Lookup) -> None:
        """See ``EngineEvents``."""
        self._lookups.labels(result).inc()


def outcome(status: int, code: str | None = None) -> str:
    """A status as a metric label of few values; 0 is no answer at all.

    Hooks say by another status that there is no room: the code of the error tells.
    """
    if code in ("overloaded", "rate_limited"):
        return "overloaded"
    if 0 < status < 400:
        return "ok"
    known = {429: "overloaded", 499: "gone", 503: "unavailable", 504: "late"}
    return known.get(status, "invalid" if 400 <= status < 500 else "error")


def _bury_dead(folder: Path) -> None:
    """A process that was killed leaves its gauges behind; they end in ``_<pid>.db``."""
    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            # Another process, which is scraped at the same time, may be doing it.
            with suppress(FileNotFoundError):
                mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]
