"""Who builds a bundle: one process at a time, and others can see that it does."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def building(bundle: Path) -> Iterator[None]:
    """Wait until nobody else builds this bundle, and be the one that does.

    The lock ends with its process, however that ends; the file beside the bundle stays.
    """
    with _lock(bundle).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_being_built(bundle: Path) -> bool:
    """Whether a process builds this bundle now."""
    try:
        with _lock(bundle).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever built here, or it is not ours to know
        return False
    return False


def _lock(bundle: Path) -> Path:
    bundle = bundle.absolute()
    return bundle.with_name(f".{bundle.name}.lock")
