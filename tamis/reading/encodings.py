"""Segments in a code that any language model can undo: base64, hex, binary, Morse and their like.

A segment is replaced where what it decodes to is a message, once that was read in turn. Keys,
hashes, images and identifiers decode to noise.
"""

import base64
import binascii
import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from tamis.reading.lexicon import attested
from tamis.reading.spacing import Deeper
from tamis.reading.text import Edit

BASE64: Final = re.compile(
    r"[A-Za-z0-9+/_-]{12,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*={0,2}|={1,2}[A-Za-z0-9+/_-]{11,}"
)
BASE64_WORDS: Final = re.compile(
    r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]+={0,2}[\s,;|]{1,4}){2,}[A-Za-z0-9+/]+={0,2}"
)
BETWEEN: Final = re.compile(r"([\s,;|]+)")
# What a word of base64 says: noise of three bytes is one in two hundred times.
SAID: Final = re.compile(r"[\"'(]?[A-Za-z0-9'-]+[\"').,:;?!]{0,3}")
BASE32: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}={0,6}")
HEX: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:0[xX])?[0-9a-fA-F]{2}[\W_]{0,3}){5,}(?:0[xX])?[0-9a-fA-F]{2}(?![0-9A-Za-z])"
)
# A letter each, or many in a row; never two ways to read the same digits, which double with each.
_BITS: Final = r"(?:[01]{14,}|[01]{7,8})(?![0-9])"
BINARY: Final = re.compile(rf"(?<![0-9])(?:0b)?{_BITS}(?:[\W_]{{1,3}}(?:0b)?{_BITS})*")
NUMBERS: Final = re.compile(r"[0-9]{1,3}(?:[\W_]{1,3}[0-9]{1,3}){4,}(?![0-9])")
# It may end before whatever parts its letters: what does not is read again from each of them.
MORSE: Final = re.compile(r"(?<!\S)[.·•\-–—−_]{1,6}(?:[ /|\n]{1,3}[.·•\-–—−_]{1,6}){4,}(?![^\s/|])")
# A line that may be a code of its own.
LINE: Final = re.compile(r"\S{12,}")
# What has to be there for a code to be: found fast in texts that have it not.
CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
MIXED: Final = re.compile("[A-Z][a-z0-9]*[A-Z]")
DIGIT: Final = re.compile("[0-9]")
DOTTED: Final = re.compile(r"[.·•\-–—−_] ?[.·•\-–—−_]")
# Of a code so much may be none: a number that stands before it, a byte that was put in.
NOISE: Final = 20
FEW: Final = 3
_URL: Final = str.maketrans("-_", "+/")
DOTS: Final = str.maketrans("·•–—−_", "..----")
CODES: Final = {
    ".-": "a",
    "-...": "b",
    "-.-.": "c",
    "-..": "d",
    ".": "e",
    "..-.": "f",
    "--.": "g",
    "....": "h",
    "..": "i",
    ".---": "j",
    "-.-": "k",
    ".-..": "l",
    "--": "m",
    "-.": "n",
    "---": "o",
    ".--.": "p",
    "--.-": "q",
    ".-.": "r",
    "...": "s",
    "-": "t",
    "..-": "u",
    "...-": "v",
    ".--": "w",
    "-..-": "x",
    "-.--": "y",
    "--..": "z",
    ".-.-.-": ".",
    "--..--": ",",
    "..--..": "?",
    "-.-.--": "!",
    ".----.": "'",
    "-----": "0",
    ".----": "1",
    "..---": "2",
    "...--": "3",
    "....-": "4",
    ".....": "5",
    "-....": "6",
    "--...": "7",
    "---..": "8",
    "----.": "9",
    "-....-": "-",
    "-..-.": "/",
}


def base64s(segment: str) -> Iterator[str]:
    """As it is, from the right, and turned by 13 letters."""
    bare = "".join(segment.split()).translate(_URL)
    for turned in (bare, bare[::-1], codecs.encode(bare, "rot13")):
        body = turned.rstrip("=").lstrip("=")
        # One letter more than whole bytes need is none of them, but may be one of its surroundings.
        body = body[: len(body) - (len(body) % 4 == 1)]
        yield from _text(base64.b64decode, body + "=" * (-len(body) % 4))


def base64_words(segment: str) -> Iterator[str]:
    """Every word on its own, or all as one that was cut; the plain ones around them stay."""
    parts = BETWEEN.split(segment)
    words, gaps = parts[::2], parts[1::2]
    strange = [n for n, word in enumerate(words) if len(word) > 1 and not attested(word.lower())]
    if not strange:
        return
    first, last = strange[0], strange[-1]
    groups = words[first : last + 1]
    # Groups of one length, but for the last one: the whole was cut, and not its words.
    whole = "".join(groups)
    alike = len(groups) >= FEW and len({*map(len, groups[:-1])}) == 1
    if alike and len(whole) >= NOISE and "=" not in whole[: -len(groups[-1])]:
        before, behind = "".join(parts[: 2 * first]), "".join(parts[2 * last + 1 :])
        for one in base64s(whole):
            # Plain words around it would make a message of anything.
            if one.isascii() or not before + behind:
                yield before + one + behind
    said = [*words]
    for n in strange:
        said[n] = _word(words[n])
    decoded = {n for n in strange if said[n] != words[n]}
    if _meant([said[n] for n in decoded], len(groups)):
        for n, gap in enumerate(gaps):
            said[n] += " " if {n, n + 1} <= decoded else gap
        yield "".join(said)


def _word(word: str) -> str:
    """What a word of base64 says, or the word; a year is none."""
    code = len(word) % 4 == 0 and not word.isdecimal()
    said = next(_text(base64.b64decode, word), "") if code else ""
    return said if SAID.fullmatch(said) is not None else word


def _meant(decoded: list[str], among: int) -> bool:
    """Whether words were in base64: one or two may decode to letters by chance, but to no words."""
    told = [bare for word in decoded if attested(bare := word.strip(".,:;?!").lower())]
    if decoded and len(told) == len(decoded) and max(map(len, told)) > FEW:
        return True
    return 2 * len(decoded) > among and (len(decoded) > FEW or (len(told) > 1))


def base32s(segment: str) -> Iterator[str]:
    """RFC 4648."""
    body = segment.rstrip("=")
    yield from _text(base64.b32decode, body + "=" * (-len(body) % 8))


def hexes(segment: str) -> Iterator[str]:
    """Two digits a byte, whatever stands between."""
    digits = re.sub(r"0[xX]|[^0-9a-fA-F]", "", segment)
    yield from _text(bytes.fromhex, digits)
    yield from _text(bytes.fromhex, digits[::-1])


def binaries(segment: str) -> Iterator[str]:
    """Eight or seven digits a byte."""
    bits = re.sub("0b|[^01]", "", segment)
    for size in (8, 7):
        if len(bits) % size == 0:
            codes = [int(bits[n : n + size], 2) for n in range(0, len(bits), size)]
            yield from _text(bytes, codes, FEW)


def decimals(segment: str) -> Iterator[str]:
    """Codes of characters, decimal or octal."""
    parts = re.findall("[0-9]+", segment)
    codes = [int(part) for part in parts if int(part) <= 127]
    if len(parts) - len(codes) <= max(FEW, len(parts) // NOISE):
        yield from _text(bytes, codes, FEW)
    if all(len(part) == 3 and "8" not in part and "9" not in part for part in parts):
        yield from _text(bytes, [int(part, 8) & 255 for part in parts])


def alphabet(segment: str) -> Iterator[str]:
    """A = 1 to Z = 26, words apart by another sign."""
    values = [int(part) for part in re.findall("[0-9]+", segment)]
    if all(0 < value <= 26 for value in values):
        gaps = re.findall("[^0-9]+", segment)
        ((usual, _),) = Counter(gaps).most_common(1)
        between = ["" if gap == usual else " " for gap in gaps]
        yield "".join(chr(96 + v) + gap for v, gap in zip(values, [*between, ""], strict=False))


def morse(segment: str) -> Iterator[str]:
    """International Morse code; words apart by a stroke or more than one space."""
    words = re.split(r"\s*[/|\n]\s*|\s{2,}", segment.translate(DOTS).strip())
    said = [[CODES.get(code, "\ufffd") for code in word.split()] for word in words]
    yield " ".join("".join(word) for word in said)


Decode = Callable[[str], Iterator[str]]


class Encoding(NamedTuple):
    """A code: what tells of it at once, its segments, and what they may decode to."""

    sign: re.Pattern[str]
    segments: re.Pattern[str]
    decode: Decode
    foreign: bool = True
    """Whether noise decodes to noise, so that letters are a message in whatever language."""


ENCODINGS: Final[dict[str, Encoding]] = {
    "base64_words": Encoding(MIXED, BASE64_WORDS, base64_words),
    "base64": Encoding(MIXED, BASE64, base64s),
    "base32": Encoding(MIXED, BASE32, base32s),
    "hex": Encoding(DIGIT, HEX, hexes),
    "binary": Encoding(DIGIT, BINARY, binaries),
    "decimal": Encoding(DIGIT, NUMBERS, decimals),
    "letter_numbers": Encoding(DIGIT, NUMBERS, alphabet, foreign=False),
    "morse": Encoding(DOTTED, MORSE, morse, foreign=False),
}


def decoded(text: str, name: str, deeper: Deeper) -> list[Edit]:
    """The segments in a code that hold a message, read as far as ``deeper`` reads it."""
    code = ENCODINGS[name]
    if code.sign.search(text) is None:
        return []
    found: list[Edit] = []
    for m in code.segments.finditer(text):
        edits = [_read(text, m, code, deeper)]
        if edits[0] is None and "\n" in m[0]:
            # A word on the line before or behind a code looks like a line of it.
            edits = [_read(text, line, code, deeper) for line in LINE.finditer(text, *m.span())]
        found += [edit for edit in edits if edit is not None]
    return found


def _read(text: str, m: re.Match[str], code: Encoding, deeper: Deeper) -> Edit | None:
    for raw in code.decode(m[0]):
        if (said := deeper(raw, code.foreign)) is not None:
            lead = " " if text[m.start() - 1 : m.start()].isalnum() else ""
            return Edit(*m.span(), lead + said)
    return None


def _text(decode: Callable[[Any], bytes], segment: Any, noise: int = 1) -> Iterator[str]:
    """The text of decoded bytes, UTF-8 or UTF-16, where they are one, but for a little noise."""
    try:
        blob = decode(segment)
    except (ValueError, binascii.Error):
        return
    kind = "utf-16-le" if b"\0" in blob[:8] and len(blob) % 2 == 0 else "utf-8"
    said = CONTROL.sub("", blob.decode(kind, errors="ignore"))
    if said and len(blob) - len(said.encode(kind)) <= max(noise, len(blob) // NOISE):
        yield said
