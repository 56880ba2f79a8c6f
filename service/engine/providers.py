"""The runtime of each execution provider."""

from pathlib import Path

from service.engine.cuda import CudaRuntime
from service.engine.runtime import CpuRuntime, Provider, Runtime


def load_runtime(graph: Path, provider: Provider = "cpu", threads: int | None = None) -> Runtime:
    """Load a graph on a provider; ``threads`` are those of the CPU's.

    Raises:
        ProviderError: where the session fell back to another provider.
    """
    return CudaRuntime(graph) if provider == "cuda" else CpuRuntime(graph, threads)
