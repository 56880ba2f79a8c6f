"""Running the application: one process, or several behind one socket."""

import json
import os
import tempfile
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from service.app import create_app
from service.engine.runtime import available_threads
from service.observing import logs
from service.observing.metrics import SHARED
from service.settings import PREFIX, Settings
from service.web.protocol import Protocol

# Longer than clients and balancers keep idle connections (httpx 5 s, which is uvicorn's default,
# too; AWS 60 s): whoever closes first must not be the side that a request is on its way to.
KEEP_ALIVE: Final = 75
# The settings of several processes, as one text: of an environment with a variable for each, nobody
# could tell what is off from what was not set.
HANDED: Final = f"{PREFIX}SETTINGS"


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    One process fills all cores: the runtime computes without the GIL. Several help where more than
    a thousand requests a second keep the one event loop busy; each has its own queue, cache and
    copy of the weights' products, the embedding table is shared.

    Raises:
        OSError, ValueError: as ``create_app``.
    """
    logs.configure(settings.log_format, settings.log_level)
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "access_log": False,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": settings.drain_seconds,
        "log_config": None,
        # There are none here, and uvicorn would log their addresses, keys in them included.
        "ws": "none",
        "http": Protocol,
    }
    if settings.processes == 1:
        uvicorn.run(create_app(settings), **options)
        return
    threads = settings.threads or max(1, available_threads() // settings.processes)
    settings = settings.model_copy(update={"threads": threads})
    # What it cannot be made with is told here, once: a process that dies of it would be replaced,
    # and die of it again, without end.
    create_app(settings)
    os.environ[HANDED] = json.dumps(settings.model_dump(), default=_plain)
    with tempfile.TemporaryDirectory(prefix="tamis-metrics-") as shared:
        os.environ[SHARED] = shared
        uvicorn.run(f"{__name__}:worker", factory=True, workers=settings.processes, **options)


def worker() -> FastAPI:
    """The application of one of several processes, under the settings that ``serve`` was given."""
    settings = Settings(**json.loads(os.environ[HANDED]))
    logs.configure(settings.log_format, settings.log_level)
    return create_app(settings)


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
