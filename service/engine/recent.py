"""What was used last: a bounded memory."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The most recently used values, bounded by what they weigh together. Thread-safe."""

    def __init__(self, most: int, weigh: Callable[[K, V], int]) -> None:
        """``weigh`` says the same of a value every time."""
        self._most, self._weigh = most, weigh
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()
        self.size = 0
        """What is kept weighs so much."""

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    def get(self, key: K) -> V | None:
        """What is kept under a key, which is now the last one used."""
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: K, value: V) -> None:
        """Keep a value at the cost of others; what is known stays, what is too much is not kept."""
        weight = self._weigh(key, value)
        with self._lock:
            if key in self._kept or weight > self._most:
                return
            self._kept[key] = value
            self.size += weight
            while self.size > self._most:
                self.size -= self._weigh(*self._kept.popitem(last=False))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.size = 0
