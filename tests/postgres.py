"""A Postgres server of its own for the tests that want one, where its binaries are installed."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    # Debian keeps them out of the way.
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class Server:
    """A server behind a Unix socket, which can be stopped and started again."""

    url: str
    control: Callable[..., None]

    def start(self) -> None:
        """Come up."""
        self.control("start")

    def stop(self) -> None:
        """Go down at once."""
        self.control("-m", "immediate", "stop")


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database behind a Unix socket; skips where there is no Postgres."""
    with controlled() as found:
        yield found.url


@contextmanager
def controlled() -> Iterator[Server]:
    """An empty database and its server; skips where there is no Postgres."""
    pytest.importorskip("psycopg")
    if (binaries := _binaries()) is None:
        pytest.skip("Postgres is not installed")
    options: dict[str, Any] = {"check": True, "capture_output": True}
    # Short, since the path of a socket may not have more than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            # Postgres refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        options["cwd"] = folder
        data, control = folder / "data", [binaries / "pg_ctl", "-D", folder / "data", "-w"]
        initdb = [binaries / "initdb", "-D", data, "-A", "trust", "-U", "tamis", "--no-sync"]
        subprocess.run([*initdb, "-E", "UTF8", "--no-locale"], **options)
        # Nobody listens to its log, and a pipe that it inherits would never end.
        settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        options |= {"capture_output": False, "stdout": subprocess.DEVNULL}
        control += ["-l", folder / "log", "-o", settings]
        found = Server(
            f"postgresql://tamis:secret@/postgres?host={folder}",
            lambda *verb: subprocess.run([*control, *verb], stderr=-2, **options) and None,
        )
        found.start()
        try:
            yield found
        finally:
            found.stop()
    finally:
        shutil.rmtree(folder)
