"""ONNX Runtime sessions: threads that the machine really has, providers that were really got."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Provider = Literal["cpu", "cuda"]
PROVIDERS: Final[Mapping[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
OUTPUTS: Final = ("logits", "token_logits", "attention")


class ProviderError(RuntimeError):
    """The configured execution provider is not the one the session got."""


class Outputs(NamedTuple):
    """Outputs of one run; B windows, T tokens, H heads."""

    logits: NDArray[np.float32]
    """(B, H)"""
    token_logits: NDArray[np.float32]
    """(B, T, H)"""
    attention: NDArray[np.float32]
    """(B, T, H)"""


def available_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: the smaller of its affinity and its cgroup CPU quota.

    ONNX Runtime counts the host's cores and ignores both (onnxruntime#8313).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _quota(cgroup) or cores or 1))


def _quota(cgroup: Path) -> int | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


class Runtime:
    """One session of one graph."""

    def __init__(self, graph: Path, provider: Provider = "cpu", threads: int | None = None) -> None:
        """Load the graph.

        Raises:
            ProviderError: where the session fell back to another provider. onnxruntime-gpu lists
                CUDA on machines without a GPU, so only the session's own word counts.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_threads()
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Spinning wins a little latency and costs five times the CPU when idle.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena keeps the largest shapes ever seen; window lengths vary with every text.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        wanted = PROVIDERS[provider]
        if wanted not in ort.get_available_providers():
            raise ProviderError(f"this onnxruntime build has no {wanted}")
        chain = [wanted] if provider == "cpu" else [wanted, PROVIDERS["cpu"]]
        self._session = ort.InferenceSession(str(graph), options, providers=chain)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted:
            raise ProviderError(f"asked for {wanted}, the session got {self.provider}")
        self.threads: int = options.intra_op_num_threads
        self.inputs: frozenset[str] = frozenset(i.name for i in self._session.get_inputs())
        self.heads: int = self._session.get_outputs()[0].shape[-1]

    def run(self, feed: Mapping[str, NDArray[np.int64]]) -> Outputs:
        """Score windows; arrays of shape (B, T). Releases the GIL while it computes."""
        return Outputs(*cast("list[NDArray[np.float32]]", self._session.run(OUTPUTS, dict(feed))))
