"""Threads and processes that stand back: what others leave of the cores, and a share of its own."""

import os
import sys
import threading
from contextlib import suppress
from typing import Final

# Of a core that another thread wants as well, one this nice gets 3 % (its weight is 36 against
# 1024): reasons, which nobody needs in order to answer.
LAST: Final = 15
# 10 % (110 against 1024): verdicts that can wait, but that somebody waits for.
PATIENT: Final = 10


def stand_back(nice: int) -> None:
    """Lower this thread's priority; threads and processes that it starts inherit it (Linux)."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        # Nobody may become less nice; where nothing may be set, so be it.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, me, max(os.getpriority(os.PRIO_PROCESS, me), nice))
