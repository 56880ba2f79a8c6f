"""What no worker survives; in a module of its own, which workers can import."""

import os
import signal
from dataclasses import dataclass

from service.engine.workers.calls import Judge, Judged, Models, Opened


@dataclass(frozen=True, slots=True)
class Deadly(Judge):
    """A call that ends whoever takes it."""

    def __call__(self, models: Models) -> Judged | Opened:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError(models)
