"""Our own server for a benchmark: the real command in a process of its own."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks import process

# Inference processes that a server is asked with in turn; none: its own threads.
WORKERS: Final = (0, 2)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """``tamis serve`` from ready until the end of the ``with`` block.

    The cache is off, SIGTERM at once obeyed, and a bundle alone judges everything, unless
    ``settings`` say otherwise: benchmarks ask for work, and say of whom.
    """

    def __init__(self, bundle: Path, **settings: object) -> None:
        self.port = free_port()
        chosen = {
            "cache_bytes": 0,
            "linger_seconds": 0,
            "tier": "fast",
            "multilingual": "",
            "reasoner": "",
            "bundle": bundle,
            "port": self.port,
            **settings,
        }
        self._env = {f"TAMIS_{name.upper()}": str(value) for name, value in chosen.items()}

    def __enter__(self) -> Self:
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tamis", "serve"],
            env=os.environ | self._env,
            stderr=subprocess.DEVNULL,
        )
        while self.health() is None:
            if (code := self._process.poll()) is not None:
                raise RuntimeError(f"the server ended with {code} before it was ready")
            time.sleep(0.01)
        self.start_seconds = time.perf_counter() - began
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> int:
        """Ask it to stop; its exit status."""
        self._process.terminate()
        return self._process.wait(60)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def workers(self) -> list[int]:
        """Of its inference workers, which the process that holds the models has forked."""
        templates = process.children(self._process.pid)
        return [pid for template in templates for pid in process.children(template)]

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return process.cpu_seconds(self._process.pid)

    def memory_mb(self) -> float:
        """Memory."""
        return process.memory_mb(self._process.pid)

    def health(self) -> dict[str, str] | None:
        """What it says of itself; None where it is not ready.

        Raises:
            RuntimeError: where it has ended.
        """
        if self._process.poll() is not None:
            raise RuntimeError("the server did not start")
        probe = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            probe.request("GET", "/health/ready")
            answer = probe.getresponse()
            said: dict[str, str] = json.load(answer)
            return said if answer.status == 200 else None
        except OSError:
            return None
        finally:
            probe.close()
