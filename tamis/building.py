"""Who builds a bundle: one process at a time, whole or not at all, and for others to see."""

import fcntl
import shutil
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


@contextmanager
def replacing(bundle: Path) -> Iterator[Path]:
    """A new folder beside the bundle's, to take its place when the block has ended well.

    The last step is a rename: nobody sees half a bundle. The folder has one name, and one process
    builds: what is found there was left by a build that was killed.
    """
    folder = bundle.with_name(f".{bundle.name}.building")
    shutil.rmtree(folder, ignore_errors=True)
    new, old = folder / "new", folder / "old"
    new.mkdir(parents=True)
    try:
        yield new
        if bundle.exists():
            bundle.rename(old)
        try:
            new.rename(bundle)
        except OSError:
            if old.exists():  # better than none
                old.rename(bundle)
            raise
    finally:
        shutil.rmtree(folder)


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
