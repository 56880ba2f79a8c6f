"""ONNX Runtime sessions: threads that the machine really has, providers that were really got."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Provider = Literal["cpu", "cuda"]
PROVIDERS: Final[Mapping[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
OUTPUTS: Final = ("logits", "token_logits", "attention")
# Where cgroups say what a process may have, of version 2 and of version 1: bytes, and those that
# are taken; microseconds of a core's time, and in how many.
MEMORY: Final = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
CPU: Final = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


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


def background_threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores for work of low priority beside the classifier.

    All of them where the process has them to itself: priorities then decide. A quota on time is
    used up by whoever runs, and the whole process waits for the next period: half, then.
    """
    cores = available_threads(cgroup)
    return cores if _quota(cgroup) is None else max(1, cores // 2)


def has_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether the process's cores are a quota on their time, rather than cores."""
    return _quota(cgroup) is not None


def available_memory(cgroup: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """Bytes this process and others it starts may still take: of the machine, or of its cgroup."""
    free = 0
    with suppress(OSError, ValueError, StopIteration):
        lines = (proc / "meminfo").read_text().splitlines()
        free = 1024 * next(int(li.split()[1]) for li in lines if li.startswith("MemAvailable:"))
    for limit, used in MEMORY:
        with suppress(OSError, ValueError):  # a cgroup without a limit says "max"
            most = int((cgroup / limit).read_text())
            free = min(free, most - int((cgroup / used).read_text()))
    return max(free, 0)


def _quota(cgroup: Path) -> int | None:
    for files in CPU:
        with suppress(OSError, ValueError):  # a cgroup without a limit says "max", or -1
            quota, period = map(int, " ".join((cgroup / f).read_text() for f in files).split())
            return None if quota < 0 else max(1, quota // period)
    return None


class Runtime(Protocol):
    """A graph that can be run."""

    provider: str
    """The provider that the session really got."""
    threads: int
    workers: int
    """How many runs at the same time use it best."""
    batch_tokens: int
    """Tokens of one run, padding included; 0 where windows must run alone."""
    inputs: frozenset[str]
    heads: int

    def run(self, feed: Mapping[str, NDArray[np.int64]], wide: bool = False) -> Outputs:
        """Score windows; arrays of shape (B, T). Releases the GIL while it computes."""


class CpuRuntime:
    """One graph on the CPU, for runs on one thread side by side or for a run on all threads.

    Both sessions read the embedding table from the same mapped file; the second one costs its
    repacked products (14 MB at 22M parameters, against 35 MB where the table is in the graph).
    """

    # On a CPU batching gains nothing, and one window a run lets a short text pass a long one.
    batch_tokens: int = 0

    def __init__(self, graph: Path, threads: int | None = None) -> None:
        """Load the graph.

        Raises:
            ProviderError: where the session fell back to another provider.
        """
        self.threads: int = threads or available_threads()
        self.workers: int = self.threads
        self._narrow = cpu_session(graph, 1)
        self._wide = cpu_session(graph, self.threads) if self.threads > 1 else self._narrow
        self.provider: str = provider_of(self._narrow, "cpu")
        self.inputs: frozenset[str] = frozenset(i.name for i in self._narrow.get_inputs())
        self.heads: int = self._narrow.get_outputs()[0].shape[-1]

    def run(self, feed: Mapping[str, NDArray[np.int64]], wide: bool = False) -> Outputs:
        """Score windows; arrays of shape (B, T). Releases the GIL while it computes."""
        chosen = self._wide if wide else self._narrow
        return Outputs(*cast("list[NDArray[np.float32]]", chosen.run(OUTPUTS, dict(feed))))


def cpu_session(graph: Path, threads: int) -> ort.InferenceSession:
    """A session of that many threads; one thread means the caller's own, without a pool."""
    return ort.InferenceSession(str(graph), cpu_options(threads), providers=[PROVIDERS["cpu"]])


def cpu_options(threads: int) -> ort.SessionOptions:
    """How every session on the CPU is set up."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning wins a little latency and costs five times the CPU when idle.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the largest shapes ever seen, which windows bound: 118 MB against 125 without
    # it, at 14 % less time (``benchmarks/soak.py``). Without it, glibc may return every activation
    # to the kernel: one process in many took 71 ms a run instead of 11 for all its life. Patterns
    # would be kept for every length.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def provider_of(session: ort.InferenceSession, wanted: Provider) -> str:
    """The provider a session really got.

    Raises:
        ProviderError: where it is not the wanted one. onnxruntime-gpu lists CUDA on machines
            without a GPU, so only the session's own word counts.
    """
    got: str = session.get_providers()[0]
    if got != PROVIDERS[wanted]:
        raise ProviderError(f"asked for {PROVIDERS[wanted]}, the session got {got}")
    return got
