"""Characters that show nothing: removed where they split words, decoded where they carry a message.

A text in Unicode tags, in variation selectors or in zero-width bits is invisible to a person and
to a tokenizer that cleans its input, and plain to a language model. Nobody hides letters in this
way by accident, so such a message counts as an attack whatever it says.
"""

import re
from collections import Counter
from typing import Final, NamedTuple

from tamis.reading.text import Edit

# Format characters, fillers, variation selectors, tags; and controls other than white space.
INVISIBLE: Final = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
RUN: Final = re.compile(f"[{INVISIBLE}]+")
VISIBLE: Final = re.compile("[!-~]")
KEY: Final = "\u20e3"
# Selectors of an emoji's look, which have nothing to do with the letter that follows it.
LOOK: Final = "\ufe0e\ufe0f"
SUSPICIOUS: Final = re.compile(f"[{INVISIBLE}]")
TAGS: Final = re.compile("[\U000e0001-\U000e007f]+")
# The flags of England, Scotland, Wales and their like are a black flag and tags.
FLAG: Final = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{3,6}\U000e007f")
# One selector behind an emoji or an ideograph is what they are for; two in a row are not, nor one
# for ideographs behind a Latin letter.
SELECTORS: Final = re.compile(
    "[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}|(?<=[!-~])[\U000e0100-\U000e01ef]"
)
BITS: Final = re.compile("[\u00ad\u034f\u180e\u200b-\u200f\u2060-\u2064\ufeff]{4,}")
# In all, however they are spread.
FEWEST: Final = 16
# A run of so many says something, if only to who knows how to read it.
MANY: Final = 64


class Hidden(NamedTuple):
    """A message between ``start`` and ``end``; ``text`` is empty where it could not be decoded."""

    name: str
    start: int
    end: int
    text: str
    runs: list[tuple[int, int]]


def invisible(text: str) -> list[Edit]:
    """Take out what splits or surrounds visible Latin letters and their like.

    Persian, Indic scripts and emoji need their joiners and selectors.
    """
    found = []
    flags = _flags(text)
    for m in RUN.finditer(text):
        start, end = flags.get(m.start(), m.start()), m.end()
        if start == end:
            continue
        before, after = text[start - 1 : start], text[end : end + 1]
        beside = VISIBLE.match(before) or (VISIBLE.match(after) and text[start:end].strip(LOOK))
        if beside and after != KEY:
            found.append(Edit(start, end, ""))
    return found


def hidden(text: str) -> list[Hidden]:
    """Messages in invisible characters; at most one of each kind, its runs put together."""
    found = (_tags(text), _selectors(text), _bits(text))
    return [message for message in found if message is not None]


def revealed(messages: list[Hidden]) -> list[Edit]:
    """Each message in the place of its first run."""
    edits = []
    for message in messages:
        for n, (start, end) in enumerate(message.runs):
            edits.append(Edit(start, end, f" {message.text} " if n == 0 else ""))
    return sorted(edits)


def _message(name: str, said: str, runs: list[tuple[int, int]]) -> Hidden:
    return Hidden(name, runs[0][0], runs[-1][1], said, runs)


def _flags(text: str) -> dict[int, int]:
    """Where the tags of a flag begin and end."""
    return {found.start() + 1: found.end() for found in FLAG.finditer(text)}


def _tags(text: str) -> Hidden | None:
    flags = _flags(text)
    # Where a flag ends, the same run may go on.
    spans = ((flags.get(m.start(), m.start()), m.end()) for m in TAGS.finditer(text))
    runs = [(start, end) for start, end in spans if start < end]
    said = "".join(chr(ord(char) - 0xE0000) for start, end in runs for char in text[start:end])
    said = "".join(char for char in said if char.isprintable())
    return _message("tags", said, runs) if any(map(str.isalnum, said)) else None


def _selectors(text: str) -> Hidden | None:
    """Bytes, by the selector's number (as in "emoji smuggling")."""
    runs = [found.span() for found in SELECTORS.finditer(text)]
    points = [ord(char) for start, end in runs for char in text[start:end]]
    if len(points) < 4:
        return None
    said = bytes(p - 0xFE00 if p < 0xFE10 else p - 0xE0100 + 16 for p in points)
    return _message("variation_selectors", _printable(said), runs)


def _bits(text: str) -> Hidden | None:
    """Two characters as 0 and 1, eight or seven to a letter."""
    runs = [found.span() for found in BITS.finditer(text)]
    if sum(end - start for start, end in runs) < FEWEST:
        return None
    signs = "".join(text[start:end] for start, end in runs)
    common = [sign for sign, _ in Counter(signs).most_common(2)]
    if len(common) == 2:
        kept = [sign for sign in signs if sign in common]
        for one in common:
            for size in (8, 7):
                bits = "".join("1" if sign == one else "0" for sign in kept)
                said = _printable(_bytes(bits, size))
                if len(said) >= 2 and said.isascii():
                    return _message("zero_width_bits", said, runs)
    if any(end - start >= MANY for start, end in runs):
        return _message("zero_width_bits", "", runs)
    return None


def _bytes(bits: str, size: int) -> bytes:
    return bytes(int(bits[n : n + size], 2) for n in range(0, len(bits) - size + 1, size))


def _printable(blob: bytes) -> str:
    """The text of bytes, empty where it is none."""
    try:
        said = blob.decode()
    except UnicodeDecodeError:
        return ""
    return said if all(char.isprintable() or char.isspace() for char in said) else ""
