"""What the tests of logs, traces and audit records share."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

INSULT = "You silly fool, I will come and beat you up."


@contextmanager
def running(settings: Settings) -> Iterator[TestClient]:
    """The application, ready; everything observed is written when the block has ended."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        # Not by asking, which would be logged as long as it fails.
        until(lambda: client.app.state.moderator.serving.engine is not None)
        yield client


def until(true: Any, seconds: float = 30) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail("waited in vain")
        time.sleep(0.01)


def post(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/moderate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def verdicts_of(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(path) if line["type"] == "verdict"]
