"""A language model that reads and writes one text at a time, in a cache that is never copied."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.runtime import cpu_session
from tamis.bundle import BundleError

INPUTS: Final = frozenset({"input_ids", "last", "total", "wanted"})

Floats = NDArray[np.float32]


class Prefix(NamedTuple):
    """Keys and values of a text's first tokens: (layers x 2, key-value heads, tokens, size)."""

    tokens: int
    cache: Floats

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.cache.nbytes


class Decoder:
    """A decoder graph (``export.decoder``) and the keys and values of the text it is at.

    Not thread-safe: it has one text. The graph writes keys and values where they belong, so that
    going back (``rewind``) is a number, and a prefix is put back by filling its part of the buffer.
    Of the buffer only what was ever used is memory: 46 KB a token at 135M parameters.
    """

    def __init__(self, graph: Path, positions: int, threads: int) -> None:
        """Load the graph; ``positions`` is the longest text in tokens.

        Raises:
            BundleError: where the graph is not a decoder of this kind.
        """
        self._session = cpu_session(graph, threads)
        inputs = {i.name: i for i in self._session.get_inputs()}
        caches = [name for name in inputs if name.startswith("past.")]
        if not caches or inputs.keys() - set(caches) != INPUTS:
            raise BundleError(f"{graph}: inputs are {sorted(inputs)}")
        _, heads, _, size = inputs[caches[0]].shape
        self.positions = positions
        self.tokens = 0
        """How many tokens the text has so far."""
        self._cache = np.zeros((len(caches), 1, heads, positions, size), np.float32)
        self._binding = self._session.io_binding()
        self._binding.bind_output("logits")  # first, and so first among the outputs
        # The values must outlive the binding, which does not hold them.
        self._values = [ort.OrtValue.ortvalue_from_numpy(part) for part in self._cache]
        for name, value in zip(caches, self._values, strict=True):
            self._binding.bind_ortvalue_input(name, value)
            self._binding.bind_ortvalue_output(name.replace("past", "present", 1), value)

    def read(self, ids: Sequence[int], wanted: Sequence[int] = (-1,)) -> Floats:
        """Append tokens; the logits (W, vocabulary) behind those at ``wanted``, last by default.

        Raises:
            ValueError: where they do not fit, or there are none.
        """
        end = self.tokens + len(ids)
        if not ids or end > self.positions:
            raise ValueError(f"{end} tokens, {self.positions} fit")
        bind = self._binding
        bind.bind_cpu_input("input_ids", np.array([ids], np.int64))
        bind.bind_cpu_input("last", np.array([end - 1], np.int32))
        bind.bind_cpu_input("total", np.array(end, np.int32))
        bind.bind_cpu_input("wanted", np.array([n % len(ids) for n in wanted], np.int64))
        bind.bind_output("logits")
        self._session.run_with_iobinding(bind)
        self.tokens = end
        return cast("Floats", bind.get_outputs()[0].numpy())

    def rewind(self, tokens: int) -> None:
        """Forget all but the first tokens."""
        if not 0 <= tokens <= self.tokens:
            raise ValueError(f"cannot go from {self.tokens} to {tokens} tokens")
        self.tokens = tokens

    def keep(self) -> Prefix:
        """A copy of the keys and values of the text so far."""
        return Prefix(self.tokens, self._cache[:, 0, :, : self.tokens].copy())

    def restore(self, prefix: Prefix) -> None:
        """Begin with a text that was read before."""
        self._cache[:, 0, :, : prefix.tokens] = prefix.cache
        self.tokens = prefix.tokens
