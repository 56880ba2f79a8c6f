"""The real command in processes of its own."""

import asyncio
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
from typing import Any, Literal, get_args
from unittest.mock import patch

import pytest

from benchmarks.server import free_port
from service import server as serving
from service.access import KeysError
from service.app import create_app
from service.moderation.serving import Serving
from service.settings import Settings
from tamis.bundle import Bundle
from tests.processes import running

OPTIONAL = [n for n, f in Settings.model_fields.items() if type(None) in get_args(f.annotation)]


@pytest.fixture
def address() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def server(address: str) -> Iterator[subprocess.Popen[bytes]]:
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "tamis", "serve", "--port", port, "--processes", "2"]
    command += ["--multilingual", "off"]
    # Where there is none, it would be looked for, as the accurate one is.
    chosen = {"TAMIS_LINGER_SECONDS": "0", "TAMIS_MULTILINGUAL": "nowhere"}
    chosen |= {"TAMIS_TIER": "cascade", "TAMIS_ACCURATE": "nowhere"}
    with running(command, env=os.environ | chosen) as process:
        wait_for(address, "tamis_ready", 2)
        yield process
        process.terminate()
        process.wait(30)


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
    states = {json.loads(get(f"{address}/health/ready"))["multilingual"] for _ in range(10)}
    assert states == {"off"}

    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=True
    )
    workers = [int(pid) for pid in children.stdout.split()]
    victim = next(p for p in workers if b"spawn_main" in cmdline(p))
    os.kill(victim, signal.SIGKILL)
    wait_for(address, "tamis_ready", 1)
    # Nobody is refused by the new one while it loads: it raises for any answer but 200.
    asked, end = 0, time.monotonic() + 60
    while value(address, "tamis_ready") < 2 or asked < 40:
        assert time.monotonic() < end
        moderate(address, "What is a good soup?")
        asked += 1
    wait_for(address, "tamis_verdicts_total", 40 + asked)
    # The scrape itself; what the dead process had counted is gone.
    wait_for(address, "tamis_requests_in_flight", 1)


@pytest.mark.parametrize("tier", ["fast", "cascade", "accurate"])
async def test_a_process_that_is_told_to_stop_while_it_starts_does(
    tier: Literal["fast"], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    # uvicorn raises the signal again once it has ended.
    monkeypatch.setattr(signal, "raise_signal", lambda _: None)
    load = Serving.load

    async def told(loading: Serving) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await load(loading)

    monkeypatch.setattr(Serving, "load", told)
    settings = Settings(
        bundle=bundle.path, tier=tier, accurate=Path("none"), processes=2, linger_seconds=0
    )
    config = serving.uvicorn.Config(create_app(settings), port=free_port(), log_config=None)
    async with asyncio.timeout(60):
        await serving.uvicorn.Server(config).serve()


@pytest.mark.parametrize(
    "given",
    [
        dict.fromkeys(OPTIONAL) | {"tier": "fast", "feedback": "", "cors_origins": ""},
        {
            "multilingual": "folder",
            "policies": "folder of policies",
            "keys": "keys.yaml",
            "admin_port": 9000,
            "audit": "postgresql://audit:secret@host/db",
            "audit_secret": "pepper",
            "policy_encoder": "encoder",
            "workers": 0,
            "pin": False,
            "reload_seconds": 0.5,
        },
    ],
)
def test_every_process_has_the_settings_of_the_command(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    with patch.dict(os.environ):
        # What the command says wins over the environment, off as well as on.
        os.environ |= {"TAMIS_MULTILINGUAL": "another", "TAMIS_KEYS": "another"}
        os.environ |= {"TAMIS_ADMIN_PORT": "9001", "TAMIS_AUDIT": "another"}
        settings, seen = Settings(processes=2, **given), list[Settings]()
        monkeypatch.setattr(serving.logs, "configure", lambda *_: None)
        monkeypatch.setattr(serving, "create_app", seen.append)
        monkeypatch.setattr(serving.uvicorn, "run", lambda *_, **__: serving.worker())
        serving.serve(settings)
    here, one = seen
    assert here == one  # the command itself has tried whether they can be
    assert one.threads is not None
    assert one.model_dump() == settings.model_copy(update={"threads": one.threads}).model_dump()


@pytest.mark.parametrize("processes", [1, 2])
def test_no_process_is_started_that_could_only_die(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serving.logs, "configure", lambda *_: None)
    monkeypatch.setattr(serving.uvicorn, "run", lambda *_, **__: pytest.fail("started"))
    settings = Settings(processes=processes, keys=tmp_path / "none.yaml", feedback="")
    with pytest.raises(KeysError, match="cannot be read"):
        serving.serve(settings)


def options_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server is run with."""
    given = dict[str, Any]()
    monkeypatch.setattr(serving.logs, "configure", lambda *_: None)
    monkeypatch.setattr(serving, "create_app", lambda _: None)
    monkeypatch.setattr(serving.uvicorn, "run", lambda _, **options: given.update(options))
    serving.serve(Settings())
    return given


def test_addresses_of_websockets_are_not_logged(monkeypatch: pytest.MonkeyPatch):
    given = options_of(monkeypatch)
    config = serving.uvicorn.Config("", **given)
    config.load_app = lambda: None  # type: ignore[method-assign]
    config.load()
    assert config.ws_protocol_class is None


def wait_for(address: str, name: str, expected: float) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if value(address, name) == expected:
            return
        time.sleep(0.05)
    pytest.fail(f"{name} is {value(address, name)}, not {expected}")


def cmdline(pid: int) -> bytes:
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""
