"""Does a training row meet an evaluation set? Then a score on that set would measure memory."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from training.datasets.schema import Row, data_files, read_rows

# Words in a row that hardly come together twice by chance; shorter texts are compared whole.
GRAM: Final = 8
# From so many words on, a shorter text that stands inside a longer one is a repetition, too.
SHORTEST: Final = 5


class Seen:
    """What evaluation sets contain, as hashes: every text, and every run of eight words.

    A row meets them where its judged text or its prompt is theirs but for case, punctuation and
    spacing, or where its judged text shares a run of eight words with them.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Read the rows of the evaluation sets."""
        self._texts: set[bytes] = set()
        self._grams: set[bytes] = set()
        self._short: dict[int, set[bytes]] = {}
        for row in rows:
            for text in (row.prompt, row.judged):
                if not (found := words(text)):
                    # An answer to no request has nothing in common with another one.
                    continue
                self._texts.add(_hash(found))
                self._grams.update(_grams(found))
                if SHORTEST <= len(found) < GRAM:
                    self._short.setdefault(len(found), set()).add(_hash(found))

    @classmethod
    def of(cls, directory: Path) -> "Seen":
        """The evaluation sets of a directory of ``*.jsonl.gz``.

        Raises:
            FileNotFoundError, SchemaError: where there are none, or a row cannot be read.
        """
        return cls(row for path in data_files(directory) for row in read_rows(path))

    def meets(self, row: Row) -> bool:
        """Whether training on a row would teach an evaluation set."""
        judged = words(row.judged)
        if not self._texts.isdisjoint((_hash(judged), _hash(words(row.prompt)))):
            return True
        return any(gram in self._grams for gram in _grams(judged))

    def repeated_in(self, text: str) -> bool:
        """Whether a generated text repeats one: the whole, eight words, or a short one within.

        Stricter than ``meets``: a generator wraps what it knows into something longer.
        """
        found = words(text)
        if _hash(found) in self._texts or any(gram in self._grams for gram in _grams(found)):
            return True
        return any(gram in short for n, short in self._short.items() for gram in _grams(found, n))

    @property
    def sha256(self) -> str:
        """Which texts they are, whatever their order."""
        return hashlib.sha256(b"".join(sorted(self._texts))).hexdigest()


def words(text: str) -> list[str]:
    """Words without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def _hash(found: list[str]) -> bytes:
    return hashlib.blake2b(" ".join(found).encode(), digest_size=8).digest()


def _grams(found: list[str], n: int = GRAM) -> Iterator[bytes]:
    return (_hash(found[at : at + n]) for at in range(len(found) - n + 1))
