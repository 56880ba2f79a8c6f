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
    packages = client.packages
    if packages[0] == "-r":  # of a file's many, those that the contract is about
        lines = Path(packages[1]).read_text().splitlines()
        packages = tuple(one for one in lines if one.startswith(("optimum==", "infinity_emb==")))
    pins = [found for package in packages if (found := PINNED.fullmatch(package))]
    assert len(pins) == len(packages) > 0
    for pin in pins:
        assert f"`{pin[1]}` {pin[2]}" in PAGE, pin[0]
