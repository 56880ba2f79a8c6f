"""What settings mean where they are empty, and as options of the command."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.settings import PREFIX, Settings
from tamis.cli import main

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


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What the command would serve under."""
    seen: list[Settings] = []
    monkeypatch.setattr("service.server.serve", seen.append)
    return seen


def test_options_win_over_the_environment_whatever_they_say(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
):
    for name in ("port", "workers", "policies", "keys", "multilingual"):
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", "7")
    none = ["--policies", "", "--keys", "", "--multilingual", "", "--accurate", "off"]
    assert main(["serve", "--tier", "fast", "--port", "0", "--workers", "0", *none]) == 0
    (settings,) = served
    assert (settings.port, settings.workers) == (0, 0)
    assert settings.policies is settings.keys is settings.multilingual is settings.accurate is None


def test_options_that_are_not_given_leave_the_environment_alone(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TAMIS_PORT", "7")
    assert main(["serve"]) == 0
    assert [settings.port for settings in served] == [7]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--threads", "0", "greater than or equal to 1"),
        ("--admin-port", "0", "greater than or equal to 1"),
        ("--processes", "0", "greater than or equal to 1"),
        ("--workers", "few", "valid integer, unable to parse string as an integer or .* 'auto'"),
        # An empty address would be all of them.
        ("--host", "", "at least 1 character"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_the_option_or_the_variable(
    option: str,
    value: str,
    said: str,
    served: list[Settings],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    assert main(["serve", option, value]) == 1
    assert re.fullmatch(rf"tamis: {option}: [^\n]*{said}\n", capsys.readouterr().err)
    variable = PREFIX + option.removeprefix("--").replace("-", "_").upper()
    monkeypatch.setenv(variable, value)
    assert main(["serve"]) == 1
    assert re.fullmatch(rf"tamis: {variable}: [^\n]*{said}\n", capsys.readouterr().err)
    assert served == []


def test_a_fault_of_several_settings_repeats_none_of_them(
    served: list[Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TAMIS_AUDIT", "postgresql://audit:pepper@host/db")
    assert main(["serve", "--tier", "accurate", "--accurate", "off"]) == 1
    said = capsys.readouterr().err
    assert said == "tamis: tier: accurate needs the accurate bundle, and TAMIS_ACCURATE is empty\n"
    assert served == []
    monkeypatch.setenv("TAMIS_TIER", "accurate")
    monkeypatch.setenv("TAMIS_ACCURATE", "")
    assert main(["moderate", "--input", "-"]) == 1
    assert capsys.readouterr().err == said
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "pepper" not in str(caught.value)
