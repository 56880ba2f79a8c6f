"""What settings mean where they are empty."""

from pathlib import Path
from typing import Any

import pytest

from service.settings import PREFIX, Settings

PLACES = [n for n, f in Settings.model_fields.items() if f.annotation in (Path | None, str | None)]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("said", ["", "off"])
def test_a_place_that_is_empty_is_none_and_not_the_current_folder(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", said)
    assert getattr(Settings(), name) is None
    monkeypatch.delenv(f"{PREFIX}{name.upper()}")
    given: dict[str, Any] = {name: said}
    assert getattr(Settings(**given), name) is None


def test_all_places_that_may_be_empty_are_known():
    assert {"policies", "keys", "audit", "blocklists", "multilingual", "reasoner"} <= set(PLACES)
