"""Blocklists: words and phrases of an operator's own, kept in a folder, one file each.

Nothing is kept where no folder is set. A file is replaced as a whole and read again when it has
changed, so that all processes which share the folder see the same lists, restarts included.
"""

import fcntl
import json
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from pydantic import BaseModel

NAME: Final = re.compile(r"[0-9A-Za-z._~-]{1,64}")
NAMED: Final = "blocklistName"
MOST_LISTS: Final = 100
MOST_ITEMS: Final = 10_000
LONGEST_ITEM: Final = 128
# Words; where a script does not part them by spaces (Thai, kana, Han), signs.
_SIGNS: Final = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Vowels of India's scripts, which `\w` has not: without them "tomorrow" was found in "art", which
# has one more.
_MARKS: Final = "".join(
    sign for sign in map(chr, range(0x900, 0xE00)) if unicodedata.category(sign)[0] == "M"
)
_WORD: Final = re.compile(rf"[{_SIGNS}]|(?:(?![{_SIGNS}])[\w{_MARKS}])+|[^\w\s]")
# What is normalised at a time: all marks of a row are put in order, in quadratic time.
_PART: Final = re.compile(r"\S{1,1000}|\s+")


class BlocklistError(ValueError):
    """Lists or items that are not there, or are over a limit; ``field`` is what named them."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NoBlocklistError(BlocklistError):
    """A list, or an item of it, that is not there."""


class DamagedBlocklistError(BlocklistError):
    """A list whose file cannot be read or holds something else, or a folder not to be written."""


@dataclass(frozen=True, slots=True)
class Item:
    """A word or phrase; ``id`` is the caller's own or one that was made up."""

    id: str
    text: str
    description: str | None = None


class _File(BaseModel):
    """A list as it lies in the folder."""

    description: str | None
    items: list[Item]


@dataclass(frozen=True)
class Blocklist:
    """Items by id, in the order in which they came."""

    name: str
    description: str | None = None
    items: Mapping[str, Item] = field(default_factory=dict)

    def found(self, words: Sequence[str]) -> list[Item]:
        """The items that a text has, as its ``words_of``, each once."""
        # By length: of 10,000 phrases with one first word, each such word asks once a length.
        hits: dict[tuple[str, ...], list[Item]] = {}
        for at, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                phrase = tuple(words[at : at + length])
                if (items := self._phrases.get(phrase)) is not None:
                    hits[phrase] = items
        return [item for items in hits.values() for item in items]

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], list[Item]]:
        found: dict[tuple[str, ...], list[Item]] = {}
        for item in self.items.values():
            if phrase := tuple(words_of(item.text)):
                found.setdefault(phrase, []).append(item)
        return found

    @cached_property
    def _lengths(self) -> dict[str, set[int]]:
        """First word of a phrase -> how many words such phrases have."""
        found: dict[str, set[int]] = {}
        for phrase in self._phrases:
            found.setdefault(phrase[0], set()).add(len(phrase))
        return found


def words_of(text: str) -> list[str]:
    """A text as it is compared: words, without regard to case, width and white space."""
    parts = (unicodedata.normalize("NFKC", part) for part in _PART.findall(text))
    return _WORD.findall("".join(parts).casefold())


class Blocklists:
    """The lists of a folder.

    Every method that takes the name of a list raises NoBlocklistError where there is none, and
    DamagedBlocklistError where it cannot be read (but for ``delete``), or not be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[int, int, int], Blocklist]] = {}

    def names(self) -> list[str]:
        """Of all lists."""
        if self._folder is None or not self._folder.is_dir():
            return []
        # What lies there by another's hand, under a name that cannot be asked for, is no list.
        names = (path.stem for path in self._folder.glob("*.json"))
        return sorted(name for name in names if NAME.fullmatch(name))

    def get(self, name: str) -> Blocklist:
        """A list as it is now."""
        path = self._path(name)
        try:
            stat = path.stat()
            # Inodes are used again, and two changes may fall into one tick of the clock.
            stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
            if (known := self._read.get(name)) is not None and known[0] == stamp:
                return known[1]
            data = _File.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            self._read.pop(name, None)
            raise NoBlocklistError("there is no such blocklist", NAMED) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its file is not a blocklist's"
            raise DamagedBlocklistError(
                f"the blocklist {name!r} cannot be read: {reason}", NAMED
            ) from None
        found = Blocklist(name, data.description, {one.id: one for one in data.items})
        self._read[name] = stamp, found
        return found

    def put(self, name: str, description: str | None, keep: bool = False) -> tuple[Blocklist, bool]:
        """Create a list, or describe it anew; whether it is new. ``keep`` what it is described as.

        Raises:
            BlocklistError: where there are as many as there may be.
        """
        if not NAME.fullmatch(name):
            raise BlocklistError(f"must be like {NAME.pattern}", NAMED)
        with self._alone() as folder:
            try:
                before = self.get(name)
            except NoBlocklistError:
                if len(list(folder.glob("*.json"))) >= MOST_LISTS:
                    raise BlocklistError(f"there may be {MOST_LISTS} blocklists") from None
                return self._write(Blocklist(name, description)), True
            said = before.description if keep else description
            return self._write(Blocklist(name, said, before.items)), False

    def delete(self, name: str) -> None:
        """Forget a list, if there is one."""
        if self._folder is not None and NAME.fullmatch(name):
            with self._alone():
                self._path(name).unlink(missing_ok=True)

    def add(self, name: str, items: Sequence[Item]) -> list[Item]:
        """Add items, or put them in the place of those with the same id; as they are kept.

        Raises:
            BlocklistError: where the list would be too long.
        """
        added = [Item(one.id or uuid.uuid4().hex, one.text, one.description) for one in items]

        def changed(before: Blocklist) -> dict[str, Item]:
            after = {**before.items, **{one.id: one for one in added}}
            if len(after) > MOST_ITEMS:
                raise BlocklistError(f"a blocklist may have {MOST_ITEMS} items", "blocklistItems")
            return after

        self._change(name, changed)
        return added

    def remove(self, name: str, ids: Sequence[str]) -> None:
        """Remove items.

        Raises:
            NoBlocklistError: where one is not there; then none is removed.
        """

        def changed(before: Blocklist) -> dict[str, Item]:
            for n, one in enumerate(ids):
                if one not in before.items:
                    raise NoBlocklistError("the list has no such item", f"blocklistItemIds[{n}]")
            return {key: item for key, item in before.items.items() if key not in ids}

        self._change(name, changed)

    def _change(self, name: str, changed: Callable[[Blocklist], dict[str, Item]]) -> None:
        self.get(name)
        with self._alone():
            before = self.get(name)
            self._write(Blocklist(name, before.description, changed(before)))

    def _write(self, new: Blocklist) -> Blocklist:
        path = self._path(new.name)
        items = [
            {"id": one.id, "text": one.text, "description": one.description}
            for one in new.items.values()
        ]
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(
            json.dumps({"description": new.description, "items": items}, ensure_ascii=False),
            encoding="utf-8",
        )
        draft.replace(path)
        return new

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """No other process changes the folder meanwhile."""
        if self._folder is None:
            raise NoBlocklistError("there are no blocklists here: TAMIS_BLOCKLISTS names no folder")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield self._folder
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DamagedBlocklistError(f"blocklists cannot be written: {reason}") from None

    def _path(self, name: str) -> Path:
        if self._folder is None or not NAME.fullmatch(name):
            raise NoBlocklistError("there is no such blocklist", NAMED)
        return self._folder / f"{name}.json"
