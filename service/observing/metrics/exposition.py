"""What a scrape is answered, over all processes where there are several."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Set by ``tamis serve --processes``: prometheus_client then keeps values in files of this folder,
# and reads the variable when it is imported.
SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"


def exposition(registry: CollectorRegistry) -> bytes:
    """The exposition text of a registry; of all processes' where they share a folder."""
    if not (folder := os.environ.get(SHARED)):
        return generate_latest(registry)
    bury_dead(Path(folder))
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    return generate_latest(shared)


def bury_dead(folder: Path) -> None:
    """A process that was killed leaves its gauges behind; they end in ``_<pid>.db``."""
    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            # Another process, which is scraped at the same time, may be doing it.
            with suppress(FileNotFoundError):
                mark_process_dead(int(pid), str(folder))  # type: ignore[no-untyped-call]
