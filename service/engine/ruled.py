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

Judging = Classifier | Languages | Cascade


def ruled(
    encoder: Encoder,
    judging: Judging,
    content: Content,
    rules: Sequence[Guideline],
    found: Finding,
) -> Finding:
    """A classifier's finding with what an encoder says of rules.

    Its hints are of the bundle that is asked first, which in a cascade is not all that is found.
    """
    hint = found
    if encoder.hinted and isinstance(judging, Cascade):
        hint = judging.reader.judge(content)
    return replace(found, ruled=Ruled(encoder.who, encoder.judge(content, rules, hint)))


class WithRules:
    """Any classifier, whose findings also say how likely contents break rules.

    They are those of the service, to the bit. Thread-safe as classifiers are.
    """

    def __init__(self, first: Judging, encoder: Encoder, rules: Sequence[Guideline]) -> None:
        self.bundle = first.bundle
        self._first, self._encoder, self._rules = first, encoder, rules

    def judge(self, content: Content, evidence: bool = False) -> Finding:
        """One content's finding."""
        found = self._first.judge(content, evidence)
        if content.question == ATTACK:
            return found
        return ruled(self._encoder, self._first, content, self._rules, found)
