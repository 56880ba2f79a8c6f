"""What a process does beside answering does not end over an error, nor without a word."""

import asyncio

import pytest

from service.app import create_app
from service.configuration import Configuration
from service.settings import Settings
from service.web import background
from service.web.background import Background


class Panic(BaseException):
    """As what a library that is written in Rust raises."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE", 0.01)


@pytest.mark.parametrize("kind", [ValueError, Panic])
async def test_what_fails_is_told_and_begun_anew(kind: type[BaseException], caplog):
    tries = iter([kind("a text of somebody's"), kind("another"), None])

    async def look() -> None:
        if (error := next(tries)) is not None:
            raise error

    await Background().start("looking", look)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(f"looking failed, and begins anew in 0.01 s: {kind.__name__}\n")
    assert 'test_background.py", line' in told[0]
    assert "a text" not in caplog.text


async def test_the_end_is_no_failure(caplog):
    held = Background()
    task = held.start("waiting", asyncio.Event().wait)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await held.end()
    assert task.cancelled()
    assert not caplog.records


async def test_as_served(settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog):
    watched = asyncio.Event()

    async def watch(_: Configuration, __: float) -> None:
        if not caplog.records:
            raise ZeroDivisionError
        watched.set()

    monkeypatch.setattr(Configuration, "watch", watch)
    app = create_app(settings)
    async with asyncio.timeout(60), app.router.lifespan_context(app):
        await watched.wait()
    assert "looking at policies and keys failed" in caplog.text
