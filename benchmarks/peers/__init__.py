"""Other servers on the same cores: how each is started, asked and stopped.

    with Running(PEERS["litserve"], threads=2) as server: …     after `python -m …peers.install`

Each runs at the settings that gave it the most requests per second on two cores.
"""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks import process
from benchmarks.server import free_port

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parents[1]
HOME: Final = Path(os.environ.get("TAMIS_PEERS", REPOSITORY / ".peers")).absolute()
# The fast and the accurate bundle's bodies, below a standard head.
MODEL: Final = HOME / "model"
LARGE: Final = HOME / "model-110m"
START_SECONDS: Final = 90
STOP_SECONDS: Final = 10
JSON: Final = {"Content-Type": "application/json"}
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ENVIRONMENT: Final = {
    "HF_HOME": str(HOME / "huggingface-home"),
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(REPOSITORY),
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A server in an environment of its own; it runs with the model folder as its directory."""

    name: str
    requirements: str
    """Name of the requirements file, and of the environment that it makes."""
    command: tuple[str, ...]
    """A program of the environment and its arguments; ``{port}`` is filled in."""
    path: str
    body: Callable[[str], bytes]
    model: Path = MODEL
    """The folder that it runs in, and reads."""
    spread: bool = False
    """Use threads as workers of one thread each, instead of as the threads of one run."""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> Path:
        """Where its virtual environment is."""
        return HOME / self.requirements


def _text(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


def _infinity(name: str, engine: str, *options: str, model: Path = MODEL) -> Peer:
    return Peer(
        name=name,
        model=model,
        requirements="infinity",
        command=(
            *("infinity_emb", "v2", "--host", "127.0.0.1", "--port", "{port}"),
            # The optimum engine finds ONNX files only below a relative path.
            *("--model-id", ".", "--served-model-name", "peer", "--log-level", "error"),
            *("--device", "cpu", "--engine", engine, "--no-model-warmup"),
            *("--batch-size", "8", *options),
        ),
        path="/classify",
        body=lambda text: json.dumps({"model": "peer", "input": [text]}).encode(),
        env={"INFINITY_ANONYMOUS_USAGE_STATS": "0"},
    )


PEERS: Final = {
    peer.name: peer
    for peer in (
        *(
            _infinity(f"infinity-{engine}{size}", engine, *options, model=model)
            for model, size in ((MODEL, ""), (LARGE, "-110m"))
            for engine, options in (
                # Compiling stops a server for seconds at every new shape of a batch.
                ("torch", ("--dtype", "int8", "--no-compile", "--no-bettertransformer")),
                # No thread setting reaches its ONNX session: it takes all cores.
                ("optimum", ()),
            )
        ),
        Peer(
            name="litserve",
            requirements="litserve",
            command=("python", "-m", "benchmarks.peers.litserve_app", "{port}"),
            path="/predict",
            body=_text,
            spread=True,
        ),
        Peer(
            name="bentoml",
            requirements="bentoml",
            command=(
                *("bentoml", "serve", "benchmarks.peers.bentoml_app:Moderation"),
                *("--working-dir", str(REPOSITORY), "--host", "127.0.0.1", "--port", "{port}"),
            ),
            path="/classify",
            body=_text,
            spread=True,
            env={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(HOME / "bentoml-home")},
        ),
        Peer(
            name="transformers-fastapi",
            requirements="transformers",
            command=(
                *("uvicorn", "benchmarks.peers.transformers_app:app", "--log-level", "error"),
                *("--no-access-log", "--host", "127.0.0.1", "--port", "{port}"),
            ),
            path="/classify",
            body=_text,
            spread=True,
        ),
    )
}


class Running:
    """A peer from its first answer until the end of the ``with`` block."""

    def __init__(self, peer: Peer, threads: int) -> None:
        self.peer = peer
        self.log = HOME / f"{peer.name}.log"
        workers, each = (threads, 1) if peer.spread else (1, threads)
        # WEB_CONCURRENCY is what web servers, and our apps, read their number of workers from.
        self._env = {"WEB_CONCURRENCY": str(workers), **dict.fromkeys(THREADS, str(each))}
        self.port = free_port()

    def __enter__(self) -> Self:
        """Start it and wait for an answer to a real request: health says less, and too early.

        Raises:
            RuntimeError: where it ended or did not answer in time; the log's end is in the message.
        """
        program, *arguments = (part.format(port=self.port) for part in self.peer.command)
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [str(self.peer.environment / "bin" / program), *arguments],
                cwd=self.peer.model,
                env={**os.environ, **ENVIRONMENT, **self.peer.env, **self._env},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not self._answers():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.peer.name}: {self.log.read_text()[-2000:]}")
                time.sleep(0.05)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the whole tree."""
        self._stop()

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return process.cpu_seconds(self._process.pid)

    def memory_mb(self) -> float:
        """Memory of all its processes."""
        return process.memory_mb(self._process.pid)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("POST", self.peer.path, self.peer.body("Good morning."), JSON)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        _, *members = process.tree(self._process.pid)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        # LitServe ends without its workers.
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
