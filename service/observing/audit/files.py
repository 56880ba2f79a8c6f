"""The audit log in files: lines of JSON, rotated by size, one writer to a file."""

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.observing.audit.record import Entry, Key, Leads

# One process of the service holds one: more than anybody starts on a machine.
SLOTS: Final = 256


class Files:
    """``audit.jsonl``, and ``audit.jsonl.1`` (the latest) to ``.N`` of what was rotated away.

    Several processes, of one service or of two by mistake, write ``audit.jsonl``,
    ``audit.2.jsonl``, ``audit.3.jsonl`` and so on: each the first that no other holds the lock of.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        """Check that the folder can be written to; files are opened with the first record.

        Raises:
            OSError: where it cannot.
        """
        folder = path.absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"TAMIS_AUDIT: no leave to write in {folder}")
        if path.is_dir():
            raise IsADirectoryError(f"TAMIS_AUDIT: {path} is a folder; name a file in it")
        self._asked = path
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._lock: int | None = None
        self._file: int | None = None
        self._size = 0
        self._leads = Leads()

    @property
    def path(self) -> Path:
        """The file that is being written."""
        return self._path

    def write(self, batch: Sequence[Entry]) -> int:
        """Append what fits the file; see ``Sink``."""
        if not self._there():
            self._let_go()
        if self._file is None:
            self._open()
        assert self._file is not None
        text, keys, taken = b"", list[Key](), 0
        for entry in batch:
            leads = [(key, lead) for key, lead in self._leads.before(entry) if key not in keys]
            piece = b"".join([*(lead for _, lead in leads), entry.line])
            if (self._size or text) and self._size + len(text) + len(piece) > self._max_bytes:
                break
            keys += [key for key, _ in leads]
            text += piece
            taken += 1
        if not taken:
            self._rotate()
            return self.write(batch)
        self._append(text)
        self._leads.note(keys)
        return taken

    def close(self) -> None:
        """Let go of the file, and of its lock."""
        self._let_go()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _there(self) -> bool:
        """Whether the file is where its name says, and as long: else others tidied it away."""
        if self._file is None:
            return False
        own = os.fstat(self._file)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(own, named) and own.st_size >= self._size

    def _let_go(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def _append(self, text: bytes) -> None:
        assert self._file is not None
        done = 0
        try:
            while done < len(text):
                done += os.write(self._file, text[done:])
        except OSError:
            # A full disk takes a part: without it, the whole can be tried again.
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += done

    def _open(self) -> None:
        if self._lock is None:
            self._claim()
        # Owner only: hashes of short texts can be guessed.
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._leads = Leads()
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            # A process was killed while it wrote; its last line ends here.
            try:
                self._append(b"\n")
            except OSError:
                # Not yet: the next attempt must find it so again, or it writes on in that line.
                os.close(self._file)
                self._file = None
                raise

    def _claim(self) -> None:
        for slot in range(1, SLOTS + 1):
            path = self._asked
            if slot > 1:
                # Of "audit", "audit.2" is what was rotated.
                path = path.with_name(f"{path.stem}.{slot}{path.suffix or '.jsonl'}")
            # Not the log itself, which goes away when it is rotated.
            lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            except OSError:
                os.close(lock)
                raise
            else:
                self._lock, self._path = lock, path
                return
        raise OSError(f"{SLOTS} processes write to {self._asked} already")

    def _rotate(self) -> None:
        assert self._file is not None
        os.fsync(self._file)
        # Missing where somebody took it away, or where an attempt failed half way.
        if not self._keep:
            self._path.unlink(missing_ok=True)
        elif self._path.exists():
            # No more moves up than must: a rotation that is tried again costs no file.
            free = 1
            while free < self._keep and self._aged(free).exists():
                free += 1
            for age in range(free, 1, -1):
                self._aged(age - 1).replace(self._aged(age))
            self._path.replace(self._aged(1))
        os.close(self._file)
        self._file = None
        self._open()

    def _aged(self, age: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{age}")
