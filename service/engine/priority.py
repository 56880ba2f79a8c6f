"""Threads and processes that stand back: what others leave of the cores, and a share of its own."""

import os
import sys
import threading
from contextlib import suppress
from typing import Final

# Of a core that another thread wants as well, one this nice gets 3 % (its weight is 36 against
# 1024): reasons, which nobody needs in order to answer.
LAST: Final = 15
# 5 % (56 against 1024): verdicts that can wait, but that somebody waits for. With the 10 % of a
# level of 10, a burst of long texts moves the 99th percentile of short ones by 1.4 at 70 % of the
# load that the machine can do (``tests/service/test_lanes.py``: 1.2).
PATIENT: Final = 13


def stand_back(nice: int) -> None:
    """Lower this thread's priority; threads and processes that it starts inherit it (Linux)."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        # Nobody may become less nice; where nothing may be set, so be it.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, me, max(os.getpriority(os.PRIO_PROCESS, me), nice))
