"""The page in a real browser: where Chromium is, how it is started, what must never happen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.server import Server
from tamis.bundle import default_bundle

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
def serving(**settings: object) -> Iterator[str]:
    """The address of a service in a process of its own, once it is ready."""
    with TemporaryDirectory() as store:
        own = {"feedback": f"{store}/feedback.sqlite", **settings}
        with Server(default_bundle(), **own) as server:
            yield f"http://127.0.0.1:{server.port}/"


def watch(page: Any) -> list[str]:
    """Everything the page complains of from now on, refused content included."""
    seen: list[str] = []
    page.on("console", lambda m: m.type in ("error", "warning") and seen.append(m.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    return seen
