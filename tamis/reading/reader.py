"""A text → what it says: transformations in their order, and again on what they gave; bounded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tamis.reading import ciphers, encodings, escapes, invisible, leet, letters, opaque, spacing
from tamis.reading.alphabets import alphabets
from tamis.reading.emoji import emoji, pictures
from tamis.reading.letter_names import named
from tamis.reading.lexicon import LAXER, prose
from tamis.reading.misspelt import misspelt
from tamis.reading.pieces import concatenated
from tamis.reading.text import Edit, Text
from tamis.reading.wrappers import unwrapped

# A code in a code in a code is read; deeper ones no model undoes unasked either.
DEPTH: Final = 3
# Entities and compatibility characters may stand for several; no reading grows by more than this.
MOST_GROWTH: Final = 4
# A text with less of this share of the English that it is once decoded is no more than its code. A
# classifier takes codes for attacks: judged as well, every harmless one would be flagged.
CODED: Final = 0.75

Simple = Callable[[str], list[Edit]]
# In Unicode alone; ASCII has none of it.
UNICODE: Final[dict[str, Simple]] = {
    "invisible": invisible.invisible,
    "marks": letters.marks,
    "upside_down": letters.upside_down,
    "keycaps": letters.keycaps,
    "styled": letters.styled,
    "regional": letters.regional,
    "braille": letters.braille,
    "alphabets": alphabets,
    "lookalikes": letters.lookalikes,
    "emoji": emoji,
    "pictures": pictures,
}
HIDDEN: Final = ("tags", "variation_selectors", "zero_width_bits")
WORDS: Final[dict[str, Simple]] = {
    "letter_names": named,
    "rot47": ciphers.rot47,
    "separated": spacing.separated,
    "glued": spacing.glued,
    "repeated": spacing.repeated,
    "leet": leet.leet,
}
CIPHERS: Final = (
    *("reversed", "reversed_words", "rot13", "atbash", "caesar", "swapped", "pig_latin"),
    "scattered_spaces",
)
# Of a cipher's letters words come by chance: only where nothing was turned.
SPELLING: Final[dict[str, Simple]] = {"misspelt": misspelt}
# What stood there says nothing to a classifier but that it cannot be read.
NAMED: Final = frozenset(("pictures", "identifiers"))
# What these give is what was written, in whatever language.
EXACT: Final = frozenset(
    (
        *(*HIDDEN, "invisible", "styled", "braille", *escapes.ESCAPES),
        *("base64", "base32", "hex", "binary", "decimal"),
    )
)
# What somebody may ask to decode.
CODES: Final = frozenset((*encodings.ENCODINGS, *escapes.ESCAPES, *CIPHERS, "rot47"))
# What is left when nothing can be decoded any more.
LAST: Final[dict[str, Simple]] = {"identifiers": opaque.identifiers}
UNREADABLE: Final = "unreadable"
UNREAD_SCRIPT: Final = "unread_script"
TRANSFORMS: Final = (
    *HIDDEN,
    *UNICODE,
    *escapes.ESCAPES,
    "concatenated",
    *encodings.ENCODINGS,
    "spaced",
    *WORDS,
    *CIPHERS,
    *SPELLING,
    *LAST,
    UNREADABLE,
    UNREAD_SCRIPT,
)
"""The names that a reading, and what is made of it, may list: in this order."""


@dataclass(frozen=True)
class Reading:
    """What a text says. ``views`` are worth judging: the original, then what was read in it.

    Where hardly anything can be read but what was decoded, the code itself says nothing: then the
    decoded view, which holds what stood around the code as well, is the only one.

    ``transforms`` names what led from the first to the last; ``hidden`` are messages that nobody
    could see, which count as an attack whatever they say.
    """

    views: tuple[Text, ...]
    transforms: tuple[str, ...] = ()
    hidden: tuple[invisible.Hidden, ...] = ()


def read(text: str) -> Reading:
    """Read a text; never raises, and in time linear in its length.

    Ordinary text has one view, itself. Offsets of the other view lead back by ``Text.origin``.
    """
    original, names = Text(text), set[str]()
    said = _understood(original, names, DEPTH)
    for name, find in LAST.items():
        if edits := find(said.text):
            names.add(name)
            said = said.edit(edits)
    messages = tuple(invisible.hidden(text)) if names.intersection(HIDDEN) else ()
    fired = tuple(name for name in TRANSFORMS if name in names)
    if said.text == text:
        return Reading((original,), fired, messages)
    exact = names <= EXACT
    if not names.isdisjoint(CODES) and (core := unwrapped(said, exact)) is not None:
        return Reading((core,), fired, messages)
    stood, english = prose(text), prose(said.text)
    told = english >= LAXER or exact
    # A slip is corrected by guessing, and what stood there may say more: it is no code.
    coded = told and names != {"misspelt"} and stood < CODED * english
    # Of another language neither has any English.
    coded = coded or (exact and not stood)
    coded = coded or not names.isdisjoint(NAMED) or spacing.torn(text, said.text)
    return Reading((said,) if coded else (original, said), fired, messages)


def _understood(said: Text, names: set[str], depth: int) -> Text:
    """All transformations until none finds anything, ``depth`` times at most."""
    limit = MOST_GROWTH * len(said.text) + 1_000
    for _ in range(depth):
        before = said
        said = _round(said, names, depth, limit)
        if said is before:
            break
    return said


def _round(said: Text, names: set[str], depth: int, limit: int) -> Text:
    def deeper(text: str, foreign: bool) -> str | None:
        """What a decoded segment says, if it is a message."""
        found = set[str]()
        inner = text if depth <= 1 else _understood(Text(text), found, depth - 1).text
        if not _message(inner, foreign):
            return None
        names.update(found)
        return inner

    def apply(name: str, edits: list[Edit]) -> None:
        nonlocal said
        # What would grow too much is left out, and nothing else: it must not hide the rest.
        if edits and len((edited := said.edit(edits)).text) <= limit:
            names.add(name)
            said = edited

    if not said.text.isascii() and (messages := invisible.hidden(said.text)):
        names.update(message.name for message in messages)
        said = said.edit(invisible.revealed(messages))
    if not said.text.isascii() or invisible.SUSPICIOUS.search(said.text) is not None:
        for name, find in UNICODE.items():
            apply(name, find(said.text))
    # Twice: what a percent sign gives may be an entity, of which only decimals would be left.
    for _ in range(2):
        if not escapes.suspicious(said.text):
            break
        for name, find in escapes.ESCAPES.items():
            apply(name, find(said.text))
    apply("concatenated", concatenated(said.text, deeper))
    for name in encodings.ENCODINGS:
        apply(name, encodings.decoded(said.text, name, deeper))
    apply("spaced", spacing.spaced(said.text, deeper))
    for name, find in WORDS.items():
        apply(name, find(said.text))
    if undone := ciphers.ciphered(said.text):
        names.update(name for name, _ in undone)
        said = said.edit([edit for _, edit in undone])
    else:
        for name, find in SPELLING.items():
            apply(name, find(said.text))
    return said


def _message(text: str, foreign: bool) -> bool:
    """Whether a decoded segment is one: English, or letters and spaces as any language has them."""
    if prose(text) >= LAXER and sum(map(str.isalpha, text)) > 3:
        return True
    if not foreign:
        return False
    alike = sum(char.isalpha() or char == " " for char in text)
    return text.count(" ") > 1 and alike >= 0.85 * len(text) and len(set(text)) >= 8
