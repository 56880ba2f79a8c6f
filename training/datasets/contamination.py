"""Does a training row meet an evaluation set? Then a score on that set would measure memory."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from training.datasets.schema import Row, data_files, read_rows

# Words in a row that hardly come together twice by chance; shorter texts are compared whole.
GRAM: Final = 8


class Seen:
    """What evaluation sets contain, as hashes: every text, and every run of eight words.

    A row meets them where its judged text or its prompt is theirs but for case, punctuation and
    spacing, or where its judged text shares a run of eight words with them.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Read the rows of the evaluation sets."""
        self._texts: set[bytes] = set()
        self._grams: set[bytes] = set()
        for row in rows:
            for text in (row.prompt, row.judged):
                words = _words(text)
                self._texts.add(_hash(words))
                self._grams.update(_grams(words))

    @classmethod
    def of(cls, directory: Path) -> "Seen":
        """The evaluation sets of a directory of ``*.jsonl.gz``.

        Raises:
            FileNotFoundError, SchemaError: where there are none, or a row cannot be read.
        """
        return cls(row for path in data_files(directory) for row in read_rows(path))

    def meets(self, row: Row) -> bool:
        """Whether training on a row would teach an evaluation set."""
        judged = _words(row.judged)
        if not self._texts.isdisjoint((_hash(judged), _hash(_words(row.prompt)))):
            return True
        return any(gram in self._grams for gram in _grams(judged))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _hash(words: list[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()


def _grams(words: list[str]) -> Iterator[bytes]:
    return (_hash(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1))
