"""The page in a real browser: where Chromium is, how it is started, what must never happen."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The browser of the system; none is ever downloaded."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def serving(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a service in a process of its own, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tamis", "serve", "--port", str(port)]
    with ExitStack() as stack:
        store = stack.enter_context(TemporaryDirectory())
        own = {"TAMIS_LINGER_SECONDS": "0", "TAMIS_FEEDBACK": f"{store}/feedback.sqlite"}
        environment = os.environ | own | dict(settings or {})
        process = stack.enter_context(
            subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        )
        address = f"http://127.0.0.1:{port}/"
        try:
            _wait(f"{address}health/ready")
            yield address
        finally:
            process.terminate()


def watch(page: Any) -> list[str]:
    """Everything the page complains of from now on, refused content included."""
    seen: list[str] = []
    page.on("console", lambda m: m.type in ("error", "warning") and seen.append(m.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    return seen


def _wait(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise TimeoutError(url)
