"""Processes that do not outlive the tests that start them."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(command: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed where its block is left, if it is not over: a test that fails in
    there would wait for it for ever.
    """
    with subprocess.Popen(command, **more) as process:
        try:
            yield process
        finally:
            process.kill()
