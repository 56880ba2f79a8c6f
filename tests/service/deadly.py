"""What goes wrong in workers, which can import this module; the first they do not survive."""

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


class PanicException(BaseException):
    """As what a library that is written in Rust raises."""


class Told(Exception):  # noqa: N818
    """One that is not made of what it says."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@dataclass(frozen=True, slots=True)
class Panicking(Judge):
    """A call that raises what is no ``Exception``."""

    def __call__(self, models: Models) -> Judged | Opened:  # noqa: ARG002
        raise PanicException


@dataclass(frozen=True, slots=True)
class Telling(Judge):
    """A call whose error cannot be made again in another process."""

    def __call__(self, models: Models) -> Judged | Opened:  # noqa: ARG002
        raise Told("one", "two")


@dataclass(frozen=True, slots=True)
class Unsayable(Judge):
    """A call whose answer cannot be pickled."""

    def __call__(self, models: Models) -> Judged | Opened:  # noqa: ARG002
        return (_ for _ in ())  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Unreadable(Judge):
    """A call that cannot be read."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("none",)
