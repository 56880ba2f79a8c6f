"""Policies read before: their keys and values, the most recently used ones, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Hashable

from service.engine.reasoner.decoder import Prefix


class Prefixes:
    """A bounded memory of prefixes. Not thread-safe: the reasoner's one thread uses it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Prefix] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Prefix | None:
        """What is kept under a key; it is now the most recently used."""
        if (found := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.nbytes = 0

    def put(self, key: Hashable, prefix: Prefix) -> None:
        """Keep a prefix at the cost of the least recently used; one over the bound is not kept."""
        if prefix.nbytes > self._max_bytes or key in self._kept:
            return
        self._kept[key] = prefix
        self.nbytes += prefix.nbytes
        while self.nbytes > self._max_bytes:
            self.nbytes -= self._kept.popitem(last=False)[1].nbytes
