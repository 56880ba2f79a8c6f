"""A bundle that knows English and a multilingual one as one, on the calling thread, for files."""

from dataclasses import replace

from service.engine.classifier import Classifier
from tamis.content import Content
from tamis.deciding import louder
from tamis.tiers import second_of
from tamis.verdict import Finding


class Languages:
    """Judges a content by who reads it: the first bundle, the multilingual one, or both.

    Findings are those of the service, to the bit. Thread-safe as classifiers are.
    """

    def __init__(self, first: Classifier, multilingual: Classifier) -> None:
        """``first`` judges English."""
        self.bundle = first.bundle
        self._first, self._multilingual = first, multilingual
        self._who = second_of(multilingual.bundle, "multilingual")

    def judge(self, content: Content, evidence: bool = False) -> Finding:
        """One content's finding."""
        said = self._first.read(content)
        if said.language == "english":
            return self._first.judge(content, evidence, said)
        other = replace(self._multilingual.judge(content, evidence, said), second=self._who)
        if said.language == "foreign":
            return other
        return louder(self._first.judge(content, evidence, said), other, self.bundle.thresholds)
