"""Start what ``scripts.image_tree`` built as a restricted pod would, and ask it for a verdict.

Runs in mount and network namespaces of its own: the image is read-only, /tmp is its only writable
place, the user is the image's and has no capabilities, and there is no network but loopback. The
image's own HEALTHCHECK says when it is healthy.
"""

import fcntl
import http.client
import json
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from scripts.image_tree import machine, mounts

PATIENCE: Final = 60.0
QUESTION: Final = {"input": "Good morning! What goes into a good soup?"}
UP: Final = 0x1 | 0x40  # IFF_UP | IFF_RUNNING
SET_FLAGS: Final = 0x8914  # SIOCSIFFLAGS


class Container:
    """A built image, mounted."""

    def __init__(self, plan: dict[str, Any], root: Path) -> None:
        self._plan = plan
        self._root = root
        lines = [*mounts([Path(p) for p in plan["layers"]], root), "mount -t tmpfs tmpfs tmp"]
        subprocess.run(["sh", "-ec", "\n".join(lines)], check=True)

    def start(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Run a command of the image as its user, without a way back to root."""
        user, _, group = self._plan["user"].partition(":")
        enter = ["chroot", str(self._root), "setpriv", f"--reuid={user}", f"--regid={group}"]
        enter += ["--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
        script = 'cd "$0" && exec "$@"'
        return subprocess.Popen(
            [*enter, "/bin/sh", "-c", script, self._plan["directory"], *command],
            env={**machine(), **self._plan["env"]},
            **options,
        )

    def healthy(self) -> bool:
        """What the image's own health check says."""
        process = self.start(self._plan["health"], stderr=subprocess.DEVNULL)
        return process.wait(PATIENCE) == 0


def ask(port: int) -> dict[str, Any] | None:
    """A verdict, or none while there is nobody to give it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/moderate", json.dumps(QUESTION))
        answer = connection.getresponse()
        found: dict[str, Any] = json.load(answer)
        return found if answer.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def first_verdict(container: Container, plan: dict[str, Any]) -> float:
    """Seconds from the start of the process to the first verdict; it is stopped again.

    Raises:
        RuntimeError: where none comes, the health check disagrees, or it does not stop.
    """
    port = int(plan["env"]["TAMIS_PORT"])
    began = time.perf_counter()
    server = container.start(plan["entrypoint"] + plan["command"], stderr=subprocess.PIPE)
    try:
        while (verdict := ask(port)) is None:
            if server.poll() is not None or time.perf_counter() - began > PATIENCE:
                server.kill()
                raise RuntimeError(f"no verdict; it said: {server.communicate()[1].decode()}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        if verdict["action"] != "allow" or not container.healthy():
            raise RuntimeError(f"unexpected: {verdict}, or not healthy")
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=PATIENCE)
    if server.returncode not in (0, -signal.SIGTERM):
        raise RuntimeError(f"stopped with {server.returncode}")
    return seconds


def loopback() -> None:
    """Switch on the one network interface that a new namespace has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


def main(plan_path: str, starts: str) -> None:
    """Start it so many times."""
    plan = json.loads(Path(plan_path).read_text(encoding="utf-8"))
    plan["env"]["TAMIS_LINGER_SECONDS"] = "0"  # nobody else is asking
    loopback()
    container = Container(plan, Path(plan_path).parent / "served")
    if container.healthy():
        raise RuntimeError("healthy before it was started: the check checks nothing")
    seconds = [first_verdict(container, plan) for _ in range(int(starts))]
    said = ", ".join(f"{s:.2f}" for s in seconds)
    print(f"first verdict after {statistics.median(seconds):.2f} s (median of {said})")


if __name__ == "__main__":
    main(*sys.argv[1:])
