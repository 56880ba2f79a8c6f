"""Characters written as their numbers: HTML entities, percent signs, backslashes."""

import html
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from tamis.reading.text import Edit

# An ampersand may be escaped itself, more than once.
_AMP: Final = "&(?:(?:amp|#0*38|#[xX]0*26);){0,3}"
ENTITIES: Final = re.compile(
    rf"(?:{_AMP}#(?:0*\d{{2,7}}|[xX]0*[0-9a-fA-F]{{2,6}});?|&[A-Za-z]{{2,8}};)+"
)
AMPERSAND: Final = re.compile(rf"{_AMP}#")
PERCENT: Final = re.compile(r"(?:%[0-9a-fA-F]{2}|%u[0-9a-fA-F]{4})+")
# Mails have two of them for a letter that is not English.
QUOTED: Final = re.compile(r"(?:=[0-9A-Fa-f]{2}){3,}")
WIDE: Final = re.compile("%u([0-9a-fA-F]{4})")
OCTAL: Final = re.compile(r"(?:(?!\\00[0-9a-fA-F]{4})\\[0-7]{3})+")
# Of a style sheet: six digits, and a space that ends them where a digit follows.
STYLE: Final = re.compile(r"(?:\\00[0-9a-fA-F]{4} ?)+")
BACKSLASH: Final = re.compile(
    r"(?:\\u[0-9a-fA-F]{4}|\\u\{[0-9a-fA-F]{1,6}\}|\\U[0-9a-fA-F]{8}|\\x[0-9a-fA-F]{2})+"
)
POINTS: Final = re.compile(r"U\+[0-9a-fA-F]{4,6}(?:[ ,]*U\+[0-9a-fA-F]{4,6})+")
# A character by its number, as languages of programs, sheets and queries have it.
CALL: Final = (
    r"(?:(?:uni|n|w)?cha?r[bw]?\$? ?\(|\[char\] ?\(?|string\.fromcharcode ?\(|alt ?\+|\\char)"
    r" ?(?:0x[0-9a-f]{2,5}|\d{1,7}) ?\)?"
)
CALLS: Final = re.compile(rf"{CALL}(?:[\s+&.,;|~]{{0,4}}{CALL}){{2,}}", re.IGNORECASE)
# What is in each of them: found faster, and its signs counted faster still.
CALLING: Final = re.compile(r"[(\]+r] ?[0-9]")
SIGNS: Final = ("(", "]", "+", "\\char")
CALLED: Final = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)
NUMBER: Final = re.compile(r"[0-9a-fA-F]+")
URL: Final = re.compile(r"(?<!\w)\w+://[^\s<>\"']*")
# Some escaped letters are how a program writes an accent; many are how one writes a text.
FEW: Final = 3


def entities(text: str) -> list[Edit]:
    """``&#73;&#103;`` → ``Ig``; named ones along with it (``&lt;div&gt;`` alone stays)."""
    found = ((m, AMPERSAND.sub("&#", m[0])) for m in ENTITIES.finditer(text))
    return _enough([Edit(*m.span(), html.unescape(said)) for m, said in found])


def percent(text: str) -> list[Edit]:
    """``%49%67`` → ``Ig``, and words with ``%20`` between them; not the escapes of a URL."""
    found = [Edit(*m.span(), _unquoted(m[0])) for m in PERCENT.finditer(text)]
    found += [Edit(*m.span(), _unquoted(m[0].replace("=", "%"))) for m in QUOTED.finditer(text)]
    found.sort()
    if not found:
        return []
    if "://" in text:
        # A URL has to escape a space or an umlaut, and no Latin letter.
        urls = {at for m in URL.finditer(text) for at in range(*m.span())}
        found = [e for e in found if _latin(e.text) or e.start not in urls]
    spaces = sum(e.text.isspace() for e in found)
    return found if spaces >= FEW else _enough(found)


def backslashes(text: str) -> list[Edit]:
    r"""``\u0049\x67`` → ``Ig``."""
    found = [Edit(*m.span(), _chars(m[0].replace("\\", " "))) for m in BACKSLASH.finditer(text)]
    return _enough(found)


def octals(text: str) -> list[Edit]:
    r"""``\111\147`` → ``Ig``."""
    codes = (
        (m, bytes(int(part, 8) & 255 for part in m[0][1:].split("\\")))
        for m in OCTAL.finditer(text)
    )
    return _enough([Edit(*m.span(), blob.decode(errors="replace")) for m, blob in codes])


def points(text: str) -> list[Edit]:
    """``U+0049 U+0067`` → ``Ig``."""
    found = [Edit(*m.span(), _chars(m[0].replace("U+", " "))) for m in POINTS.finditer(text)]
    return _enough(found)


def styles(text: str) -> list[Edit]:
    r"""``\000049\000067`` → ``Ig``."""
    found = [Edit(*m.span(), _chars(m[0].replace("\\", " "))) for m in STYLE.finditer(text)]
    return _enough(found)


def calls(text: str) -> list[Edit]:
    """``CHAR(73)||CHAR(103)``, ``chr(73)+chr(103)``, ``[char]73+[char]103`` → ``Ig``."""
    found = []
    for m in CALLS.finditer(text):
        numbers = (int(n, 16 if n[1:2] in ("x", "X") else 10) for n in CALLED.findall(m[0]))
        found.append(Edit(*m.span(), "".join(map(_char, numbers))))
    return _enough(found)


ESCAPES: Final[dict[str, Callable[[str], list[Edit]]]] = {
    "html_entities": entities,
    "percent": percent,
    "unicode_escapes": lambda text: sorted(
        edit for find in (backslashes, octals, styles, points, calls) for edit in find(text)
    ),
}
SUSPICIOUS: Final = re.compile(
    r"&(?:amp;)?#|%u?[0-9a-fA-F]{2}|=[0-9A-Fa-f]{2}=[0-9A-Fa-f]{2}=|\\(?:[uUx]|[0-7]{3})|U\+[0-9a-fA-F]{4}"
)


def suspicious(text: str) -> bool:
    """Whether characters may be written as their numbers: asked before they are looked for."""
    if SUSPICIOUS.search(text) is not None:
        return True
    return sum(map(text.count, SIGNS)) >= FEW and len(CALLING.findall(text)) >= FEW


def _chars(numbers: str) -> str:
    return "".join(_char(int(number, 16)) for number in NUMBER.findall(numbers))


def _char(value: int) -> str:
    return chr(value) if value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd"


def _unquoted(said: str) -> str:
    wide = WIDE.sub(lambda m: _chars(m[1]), said)
    return unquote(wide, errors="replace")


def _letters(said: str) -> int:
    return sum(map(str.isalpha, said))


def _enough(found: list[Edit]) -> list[Edit]:
    """All of them where they hold letters or further escapes, not just signs to be escaped."""
    said = "".join(edit.text for edit in found)
    return found if _letters(said) >= FEW or SUSPICIOUS.search(said) is not None else []


def _latin(said: str) -> bool:
    return any(char.isascii() and char.isalpha() for char in said)
