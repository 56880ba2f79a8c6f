"""LitServe over our graph: workers of one thread, each text on its own.

python -m benchmarks.peers.litserve_app PORT

Batches of 4 and 8 texts of mixed lengths served a third fewer requests: what they gain, padding
costs.
"""

import os
import sys

import litserve

from benchmarks.peers.graph import Graph


class Moderation(litserve.LitAPI):  # type: ignore[misc]
    """One text a request. LitServe finds hooks and their arguments by name."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the graph, once in each worker."""
        self.graph = Graph()

    def decode_request(self, request: dict[str, str]) -> str:
        """The text of a request."""
        return request["text"]

    def predict(self, x: str) -> dict[str, float]:
        """The scores of a text."""
        return self.graph([x])[0]

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        """Scores are JSON already."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Moderation(), accelerator="cpu", workers_per_device=int(os.environ["WEB_CONCURRENCY"])
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
