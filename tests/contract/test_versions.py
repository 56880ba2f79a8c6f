"""The page names the clients that the contract is run with, and the versions that are pinned."""

import re
from pathlib import Path

import pytest

from scripts.contract import CLIENTS, SCRIPTS

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
PINNED = re.compile(r"(@?[\w./-]+?)(?:\[\w+\])?(?:==|@)([\d.]+)")


@pytest.mark.parametrize("name", CLIENTS)
def test_the_page_says_what_is_run(name: str):
    client = CLIENTS[name]
    assert (SCRIPTS / client.script).is_file()
    pins = [found for package in client.packages if (found := PINNED.fullmatch(package))]
    assert pins or name == "huggingface"
    for pin in pins:
        assert f"`{pin[1]}` {pin[2]}" in PAGE, pin[0]
