"""BentoML over our graph: workers of one thread, each text on its own.

Its adaptive batching of texts of mixed lengths served fewer requests: padding outweighs the gain.
"""

import os

import bentoml

from benchmarks.peers.graph import Graph


@bentoml.service(workers=int(os.environ["WEB_CONCURRENCY"]), logging={"access": {"enabled": False}})
class Moderation:
    """One text a request."""

    def __init__(self) -> None:
        self.graph = Graph()

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(self, text: str) -> dict[str, float]:
        """The scores of a text."""
        return self.graph([text])[0]
