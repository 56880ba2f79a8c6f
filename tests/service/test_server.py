"""The real command in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.server import free_port


@pytest.fixture
def address() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def server(address: str) -> Iterator[subprocess.Popen[bytes]]:
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "tamis", "serve", "--port", port, "--processes", "2"]
    with subprocess.Popen(command, env=os.environ | {"TAMIS_LINGER_SECONDS": "0"}) as process:
        wait_for(address, "tamis_ready", 2)
        yield process
        process.terminate()


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return ""


def moderate(address: str, text: str) -> float:
    body = json.dumps({"input": text}).encode()
    with urllib.request.urlopen(f"{address}/moderate", body, timeout=10) as answer:
        return json.load(answer)["score"]


def value(address: str, name: str) -> float:
    lines = get(f"{address}/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_several_processes_count_together_and_one_that_dies_is_replaced(server, address):
    scores = {moderate(address, "What is a good soup?") for _ in range(40)}
    assert len(scores) == 1
    # Whichever process answers the scrape, all are counted, once their answers are out.
    wait_for(address, "tamis_verdicts_total", 40)
    assert {value(address, "tamis_verdicts_total") for _ in range(10)} == {40.0}
    assert value(address, "tamis_queued_tokens") == 0

    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=True
    )
    workers = [int(pid) for pid in children.stdout.split()]
    victim = next(p for p in workers if b"spawn_main" in cmdline(p))
    os.kill(victim, signal.SIGKILL)
    for processes in (1, 2):
        wait_for(address, "tamis_ready", processes)
    moderate(address, "What is a good soup?")
    wait_for(address, "tamis_verdicts_total", 41)
    # The scrape itself; what the dead process had counted is gone.
    wait_for(address, "tamis_requests_in_flight", 1)


def wait_for(address: str, name: str, expected: float) -> None:
    for _ in range(300):
        if value(address, name) == expected:
            return
        time.sleep(0.05)
    pytest.fail(f"{name} is {value(address, name)}, not {expected}")


def cmdline(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""
