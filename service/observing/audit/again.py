"""Judge again what an audit log tells of, by the bundles that judged it and as they were asked."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.engine.cascade import Cascade
from service.engine.classifier import Classifier
from service.engine.languages import Languages
from service.engine.policy_encoder import Encoder
from service.engine.ruled import Judging, ruled
from service.observing.audit.record import digest_of
from tamis.content import Content, Question
from tamis.policy import Policy
from tamis.tiers import Bands
from tamis.verdict import Finding

# The bundle that is asked first, the one whose finding it is, and what that one was asked for; the
# one that read what the first could not.
Way = tuple[str, str, str, str]


class Judges:
    """Judges recorded contents whose texts are there, equal ones once.

    What was settled is judged by both bundles of the cascade, what is in another language by who
    reads it. Whatever else names a bundle is judged by that one alone, and the rest by the first:
    why nobody else was asked (it was sure, there was no time, there was no other) makes no
    difference to what it says.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        classifiers: Iterable[Classifier],
        bands: Bands | None = None,
        encoders: Iterable[Encoder] = (),
    ) -> None:
        """``texts`` by hash; ``bands`` of the cascade that two of the classifiers are."""
        self._texts, self._bands = texts, bands
        self._classifiers = {one.bundle.fingerprint: one for one in classifiers}
        self._encoders = {one.who.bundle: one for one in encoders}
        self._judging: dict[Way, Judging] = {}
        self._judged: dict[tuple[Way, Question, str, str | None], Finding] = {}

    @property
    def bundles(self) -> set[str]:
        """The fingerprints of those who judge."""
        return {*self._classifiers, *self._encoders}

    def again(self, content: Mapping[str, Any], first: str, policy: Policy) -> Finding | None:
        """Judge a recorded content; None where its text, or what it was read behind, is not there.

        Raises:
            BundleError: where the first bundle is not that of the cascade that is named.
        """
        own, context = digest_of(content), content.get("context")
        about = None if context is None else digest_of(context)
        if own not in self._texts or (about is not None and about not in self._texts):
            return None
        before = None if about is None else self._texts[about]
        asked = Content(content["question"], self._texts[own], before)
        way = first, content.get("bundle", first), _role(content), _reader(content)
        key = way, asked.question, own, about
        if key not in self._judged:
            self._judged[key] = self._by(way).judge(asked)
        if "rules" not in content:
            return self._judged[key]
        encoder = self._encoders[content["rules"]["bundle"]]
        return ruled(encoder, self._by(way), asked, policy.rules, self._judged[key])

    def _by(self, way: Way) -> Judging:
        if way not in self._judging:
            bundle, whose, role, multilingual = way
            first, other = self._classifiers[bundle], self._classifiers[whose]
            reader: Classifier | Languages = first
            if multilingual:
                reader = Languages(first, self._classifiers[multilingual])
            match role:
                case "cascade":
                    assert self._bands is not None
                    self._judging[way] = Cascade(reader, other, self._bands)
                case _:
                    self._judging[way] = reader if multilingual else other
        return self._judging[way]


def _reader(content: Mapping[str, Any]) -> str:
    """Who read a content that is not, or not all, in English."""
    said = (content, content.get("other", {}))
    return next((one["bundle"] for one in said if one.get("role") == "multilingual"), "")


def _role(content: Mapping[str, Any]) -> str:
    # Before cascades were named, logs did not say how, or whether, two opinions became one.
    return "cascade" if "cascade" in content else content.get("role", "")
