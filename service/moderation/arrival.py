"""A bundle that another process makes, or makes anew, while this one serves."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal

from service.engine.engine import Engine
from tamis.building import is_being_built
from tamis.bundle import MANIFEST
from tamis.tiers import BANDS

logger = logging.getLogger("tamis.service")

State = Literal["off", "absent", "building", "loading", "failed", "ready"]
LOOK: Final = 1.0
Stamp = tuple[int, int]
"""What changes when a file is replaced or written."""
# What says which bundle it is, and what may be chosen anew for the same one.
WATCHED: Final = (MANIFEST, BANDS)
Files = frozenset[tuple[Path, Stamp | None]]


class Arrival:
    """Looks for a bundle every second, and has it loaded whenever it is a new one.

    ``state`` is how it stands; ``failure`` is what is wrong with the latest one, while an earlier
    one may serve on.
    """

    def __init__(self, path: Path | None, what: str) -> None:
        """Look nowhere yet; ``what`` is the bundle's name in logs, and no path means none."""
        self.path = path
        self.state: State = "off" if path is None else "absent"
        self.failure: str | None = None
        self._what = what
        self._seen: tuple[Stamp | None, ...] = (None, None)
        self._tried: Files = frozenset()

    async def watch(self, take: Callable[[Path], Awaitable[None]]) -> None:
        """Look until cancelled; ``take`` loads a bundle and puts it in its place."""
        while self.path is not None:
            await self.look(take)
            await asyncio.sleep(LOOK)

    async def look(self, take: Callable[[Path], Awaitable[None]]) -> None:
        """Look once."""
        if self.path is None:
            return
        found = tuple(_stamp(self.path / name) for name in WATCHED)
        # A copy may have begun with the manifest: what failed is tried again with other files.
        whole = self.failure is not None and _files(self.path) != self._tried
        if found != self._seen or whole:
            self._seen, self._tried, self.failure = found, _files(self.path), None
            if found[0] is not None:
                await self._take(take, self.path)
        if self.state != "ready":
            missing: State = "absent" if self.failure is None else "failed"
            self.state = "building" if is_being_built(self.path) else missing

    async def _take(self, take: Callable[[Path], Awaitable[None]], path: Path) -> None:
        served = self.state == "ready"
        if not served:
            self.state = "loading"
        try:
            await take(path)
        except Exception as error:
            # What serves, serves on; health says why this one does not.
            self.failure = str(error)
            logger.error("%s cannot be loaded: %s", self._what, error)
            return
        self.state = "ready"


class Joining(ABC):
    """A bundle that an engine asks beside its own as soon as it is there; later ones, too."""

    def __init__(self, path: Path | None, what: str, who: str) -> None:
        """Look nowhere yet: ``what`` names the bundle in logs, ``who`` its model in reasons."""
        self._arrival, self._who = Arrival(path, what), who

    @property
    def state(self) -> State:
        """How the bundle stands."""
        return self._arrival.state

    @property
    def reason(self) -> str | None:
        """Why a bundle that is there does not judge; None where it does, or where none is there."""
        if self._arrival.failure is None:
            return None
        return f"{self._who} could not be loaded: {self._arrival.failure}"

    async def join(self, engine: Engine) -> None:
        """Have an engine that nobody asks yet ask the bundle, where it is there already."""
        await self._arrival.look(partial(self._take, engine))

    async def watch(self, engine: Engine) -> None:
        """Look for the bundle until cancelled, and have the engine ask it; later ones, too."""
        await self._arrival.watch(partial(self._take, engine))

    @abstractmethod
    async def _take(self, engine: Engine, path: Path) -> None:
        """Load the bundle, and have the engine ask it."""


def _stamp(file: Path) -> Stamp | None:
    """None where there is none."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _files(folder: Path) -> Files:
    """All that is in a folder."""
    try:
        return frozenset((file, _stamp(file)) for file in folder.iterdir())
    except OSError:
        return frozenset()
