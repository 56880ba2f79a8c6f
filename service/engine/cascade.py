"""The cascade on the calling thread, for files and for evaluation: what the engine does, alone."""

from dataclasses import replace

from service.engine.classifier import Classifier
from service.engine.languages import Languages
from tamis.content import Content
from tamis.tiers import Bands, second_of
from tamis.verdict import Finding


class Cascade:
    """Two classifiers as one: the second answers what the first one is unsure of.

    Findings are those of the service in this tier, to the bit, where no deadline cuts it short.
    Thread-safe as classifiers are.
    """

    def __init__(self, first: Classifier | Languages, second: Classifier, bands: Bands) -> None:
        """Check that bands and bundles belong together.

        Raises:
            BundleError: where they do not.
        """
        bands.check(first.bundle, second.bundle)
        self.bundle = first.bundle
        self.reader, self._second, self._bands = first, second, bands
        self.second = second_of(second.bundle)

    def judge(self, content: Content, evidence: bool = False) -> Finding:
        """One content's finding."""
        found = self.reader.judge(content, evidence)
        if not self._bands.unsure(found):
            return found
        second = replace(self._second.judge(content, evidence), second=self.second)
        return self._bands.settle(found, second, self.bundle.thresholds)
