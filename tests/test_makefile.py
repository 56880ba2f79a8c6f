"""``make run``, with a stand-in for the command line that takes its time."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Says which process it is, and then sleeps on as that very process; two bundles are there.
TAMIS = """#!/bin/sh
here="$(dirname "$0")"
case "$2" in multilingual|accurate) touch "$here/$2.done"; exit 0; esac
echo $$ > "$here/$1.pid.part"
mv "$here/$1.pid.part" "$here/$1.pid"
exec sleep 300
"""


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """What ``make run`` takes for its environment, set up already."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "tamis"
    command.write_text(TAMIS)
    command.chmod(0o755)
    (tmp_path / ".ready").touch()
    yield tmp_path
    for file in tmp_path.glob("bin/*.pid"):
        if lives(pid := int(file.read_text())):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_builder_ends_with_the_server(environment: Path, sent: signal.Signals):
    make = subprocess.Popen(
        ["make", "run", f"SERVE={environment}"],
        cwd=ROOT,
        process_group=0,
        # Tests that run in the background may have been started deaf to it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    files = [environment / "bin" / f"{name}.pid" for name in ("export", "serve")]
    until(lambda: all(file.is_file() for file in files))
    for name in ("multilingual", "accurate"):
        assert (environment / "bin" / f"{name}.done").exists()
    builder, server = (int(file.read_text()) for file in files)
    # A terminal's Ctrl-C goes to the whole group; a supervisor's signal to make alone.
    (os.killpg if sent == signal.SIGINT else os.kill)(make.pid, sent)
    make.wait(60)
    until(lambda: not lives(server))
    until(lambda: not lives(builder))
