"""A classifier and a policy encoder as one, on the calling thread, for files and commands."""

from collections.abc import Sequence
from dataclasses import replace

from service.engine.cascade import Cascade
from service.engine.classifier import Classifier
from service.engine.languages import Languages
from service.engine.policy_encoder import Encoder
from tamis.content import Content
from tamis.reasoner.protocol import Guideline
from tamis.taxonomy import ATTACK
from tamis.verdict import Finding, Ruled


class WithRules:
    """Any classifier, whose findings also say how likely contents break rules.

    They are those of the service, to the bit. Thread-safe as classifiers are.
    """

    def __init__(
        self,
        first: Classifier | Languages | Cascade,
        encoder: Encoder,
        rules: Sequence[Guideline],
    ) -> None:
        self.bundle = first.bundle
        self._first, self._encoder, self._rules = first, encoder, rules

    def judge(self, content: Content, evidence: bool = False) -> Finding:
        """One content's finding."""
        found = self._first.judge(content, evidence)
        if content.question == ATTACK:
            return found
        scores = self._encoder.judge(content, self._rules)
        return replace(found, ruled=Ruled(self._encoder.who, scores))
