"""A browser and a service for the tests of this folder; both are skipped where one is missing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.playground.browser import FLAGS, chromium, serving, watch


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if (path := chromium()) is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def complaints() -> list[str]:
    """What pages complained of: a test that provokes it clears it, in any other it fails."""
    return []


@pytest.fixture
def visit(browser: Any, complaints: list[str]) -> Iterator[Callable[..., Any]]:
    """Opens the page at an address, in a context of its own."""
    contexts = []

    def open_page(address: str, before: Callable[[Any], None] | None = None, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        seen = watch(page)
        page.complaints = seen
        if before is not None:
            before(page)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            complaints += page.complaints
        context.close()
    assert complaints == []
