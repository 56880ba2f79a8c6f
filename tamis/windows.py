"""Token windows: how a text of any length becomes inputs that the classifier can read.

Training, export and serving all cut windows here, so that a model is served what it was taught on.
Nothing is dropped from the judged text: a long one is read in overlapping windows. Only the
*context* of a response (the prompt it answers) is shortened, to its first and last tokens, because
the prompt is judged in full on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WindowShape:
    """Sizes in tokens, special tokens included in ``max_tokens``; ``cls``/``sep`` are token ids."""

    cls: int
    sep: int
    max_tokens: int = 256
    overlap: int = 64
    context_tokens: int = 96


@dataclass(frozen=True, slots=True)
class Window:
    """One model input; ``ids[lead:lead + count]`` are the judged tokens from ``first`` on."""

    ids: list[int]
    types: list[int]
    lead: int
    first: int
    count: int

    @property
    def judged(self) -> list[int]:
        """1 for a judged token, 0 for special and context tokens; as long as ``ids``."""
        tail = len(self.ids) - self.lead - self.count
        return [0] * self.lead + [1] * self.count + [0] * tail


def spans(n: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Cover ``range(n)`` with half-open spans of at most ``size``, each ``overlap`` into the last.

    The final span is moved back to full size, so that no window is a mere scrap of text.
    """
    if n <= size:
        return [(0, n)]
    starts = list(range(0, n - size, size - overlap))
    return [(s, s + size) for s in starts] + [(n - size, n)]


def shorten(context: Sequence[int], limit: int) -> list[int]:
    """The first and last tokens of a context, ``limit`` in all: who asked, and what came last."""
    if len(context) <= limit:
        return list(context)
    head = limit // 2
    return [*context[:head], *context[len(context) - (limit - head) :]]


def windows(
    judged: Sequence[int], shape: WindowShape, context: Sequence[int] | None = None
) -> list[Window]:
    """Cut ``judged`` (token ids without specials) into windows, each behind the same context.

    Layout is ``[CLS] judged [SEP]``, or ``[CLS] context [SEP] judged [SEP]`` with token types
    0 and 1 where there is a context (an empty one included: a response to an empty prompt is
    still judged as a response).
    """
    if context is None:
        prefix, judged_type = [shape.cls], 0
    else:
        prefix = [shape.cls, *shorten(context, shape.context_tokens), shape.sep]
        judged_type = 1
    room = shape.max_tokens - len(prefix) - 1
    return [
        Window(
            ids=[*prefix, *judged[start:stop], shape.sep],
            types=[0] * len(prefix) + [judged_type] * (stop - start + 1),
            lead=len(prefix),
            first=start,
            count=stop - start,
        )
        for start, stop in spans(len(judged), room, shape.overlap)
    ]
