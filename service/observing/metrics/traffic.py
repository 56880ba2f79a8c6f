"""Requests, streams and verdicts: what callers ask, and what they are told."""

from collections.abc import Collection, Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from service.engine.timings import STAGES, Timings
from service.observing.metrics.series import Series
from tamis.policy import Mode
from tamis.reading import TRANSFORMS
from tamis.verdict import Verdict

# What flagged categories are counted as that callers wrote out: their names are without number.
OWN: Final = "own"


class Traffic(Series):
    """What came in and went out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Series whose labels are known begin at 0."""
        super().__init__(registry)
        self.requests = self.seconds(
            "tamis_request_duration_seconds",
            "Time from the request line to the last byte of the answer.",
            *("route", "outcome"),
        )
        stages = self.seconds(
            "tamis_stage_duration_seconds", "Time in one stage of a moderation request.", "stage"
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self.in_flight = self.gauge("tamis_requests_in_flight", "Requests being answered.")
        self.refused = self.counter(
            "tamis_refused_total",
            "Requests refused on arrival: no room, deadline out of reach, deadline under the work, "
            "no key, scope or rate.",
            "reason",
        )
        self.verdicts = self.counter(
            "tamis_verdicts_total",
            "Items judged, by what the policy asks for and whether it is enforced or only scored.",
            *("action", "mode"),
        )
        self._contents = self.counter(
            "tamis_contents_total",
            "Contents judged, by what was asked of them and how bad they are.",
            *("question", "severity"),
        )
        self._refusals = self.counter(
            "tamis_refusals_total",
            "Responses judged by a bundle that knows refusals, by whether they decline.",
            "refuses",
        )
        for answer in ("true", "false"):
            self._refusals.labels(answer)
        self._shadow = self.counter(
            "tamis_shadow_verdicts_total",
            "Items judged under a policy and, on trial, under its shadow.",
            *("policy", "shadow", "action", "shadow_action"),
        )
        self._untried = self.counter(
            "tamis_shadow_untried_total",
            "Items that a policy with rules of its own was not tried on: there was no room.",
            *("policy", "shadow"),
        )
        self.flags = self.counter(
            "tamis_flagged_categories_total", "Categories flagged.", "category"
        )
        transforms = self.counter(
            "tamis_transforms_total",
            "Items in which a kind of obfuscation was undone, or that could not be read.",
            "transform",
        )
        self._transforms = {name: transforms.labels(name) for name in TRANSFORMS}
        self.windows = self.counter("tamis_windows_total", "Windows in verdicts.")
        self.tokens = self.counter("tamis_tokens_total", "Tokens in verdicts.")
        self.feedback = self.counter(
            "tamis_feedback_total",
            "Corrections stored, by label, and whether the service says the same.",
            *("label", "agrees"),
        )
        self.streams = self.gauge("tamis_streams", "Streams that are remembered or open.")
        pieces = self.counter(
            "tamis_stream_pieces_total",
            "Pieces of streams: judged, or held until there is more.",
            "result",
        )
        self._pieces = {True: pieces.labels("judged"), False: pieces.labels("held")}
        windows = self.counter(
            "tamis_stream_windows_total",
            "Windows of streams' verdicts: run, or known from before.",
            "kind",
        )
        self._stream_windows = {kind: windows.labels(kind) for kind in ("run", "known")}

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
