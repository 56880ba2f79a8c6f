"""Letters in disguise: other dresses of a Latin letter, look-alikes of other scripts, marks on top.

Tables are those of ``scripts/reading_tables.py``. What another script's letters may stand for is
only read so where a word mixes scripts, or where a whole word of look-alikes stands in Latin text:
Russian, Greek and Cherokee are left alone.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final

from tamis.reading.lexicon import PROSE, attested, prose, segment, telling
from tamis.reading.text import Edit

TOKEN: Final = re.compile(r"[^\s\x00-\x7f]\S*|(?<!\S)[!-~]+[^\s\x00-\x7f]\S*")
WORD: Final = re.compile(r"(?<!\w)[A-Za-z0-9_]*[^\W\x00-\x7f]\w*")
LATIN: Final = re.compile("[A-Za-z]")
# A few italic letters are a formula, a circled one a bullet.
FEW: Final = 4
# Vietnamese puts two marks on a vowel; marks around or through a letter are there for their look.
MARKS: Final = re.compile(
    "(?<=[ -~\u00c0-\u024f])"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20e2\u20e4-\u20f0\ufe20-\ufe2f]+"
)
FLOOD: Final = re.compile(
    "[\u0334-\u0338\u0488\u0489\u20d0-\u20e2\u20e4-\u20f0]|[\u0300-\u036f]{3}"
)
KEYCAP: Final = re.compile("(?<=[0-9#*])\ufe0f?\u20e3")
KEYCAPS: Final = re.compile("[0-9]\ufe0f?\u20e3[A-Za-z]|[A-Za-z][0-9]\ufe0f?\u20e3")
REGIONAL: Final = re.compile(
    "[\U0001f1e6-\U0001f1ff](?:[ \u200b-\u200d\u2060]{0,3}[\U0001f1e6-\U0001f1ff]){2,}"
)
# A blank cell behind a comma that is none of Braille is a space as well.
BRAILLE: Final = re.compile("[\u2800-\u283f][\u2800-\u283f ]*")
BRAILLED: Final = dict(
    zip("⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵⠲⠂⠖⠦⠀⠠", "abcdefghijklmnopqrstuvwxyz.,!?  ", strict=True)
)
TURNED: Final = {
    **dict(zip("ɐqɔpǝɟƃɓɥᴉıɾʞʅןɯ", "abcdefgghiijkllm", strict=True)),
    **dict(zip("uodbɹsʇnʌʍʎ˙¿¡,‘", "nopqrstuvwy.?!',", strict=True)),
}
# Read as Latin letters by people in a hurry, though UTS #39 has them not: only in English words.
SIMILAR: Final = str.maketrans("ипяшмткнвητμωχεβκλ", "unrwmtkhbntuwxebka")
TURNED_PROSE: Final = 0.4
UPSIDE_DOWN: Final = re.compile("[ɐɔǝɟƃɓɥᴉıɾʞʅןɯɹʇʌʍʎ]")
# Letters that are none any more when they are turned.
UPRIGHT: Final = re.compile("[ace-kmrtvwyA-GJ-MP-RT-WY]")
VISIBLE: Final = re.compile(r"\S+")
SIGNS: Final = ".,;:!?'\"()"


@cache
def looks(name: str) -> dict[int, str]:
    """Letters by code point, and what Latin one they are."""
    text = files("tamis.reading").joinpath("data", name).read_text(encoding="utf-8")
    lines = (line.split(" ", 1) for line in text.splitlines())
    return {ord(char): look for look, chars in lines for char in chars}


@cache
def _dresses() -> frozenset[str]:
    """Letters and digits in another dress; full-width punctuation is Chinese and Japanese.

    A set, not a class of a pattern: those are slow beyond the basic plane.
    """
    return frozenset(chr(p) for p, look in looks("styled.txt").items() if look.isalnum())


@cache
def _foreign() -> frozenset[str]:
    """The look-alikes of other scripts, without Latin letters that have a hook or a stroke."""
    chars = map(chr, looks("lookalikes.txt"))
    return frozenset(c for c in chars if "LATIN" not in unicodedata.name(c, ""))


def styled(text: str) -> list[Edit]:
    """Full-width, mathematical, circled, squared and small letters (NFKC, and names); case kept."""
    worn = _dresses().intersection(text)
    if sum(map(text.count, worn)) < FEW:
        return []
    table = looks("styled.txt")
    tokens = (m for m in TOKEN.finditer(text) if not worn.isdisjoint(m[0]))
    return [Edit(*m.span(), m[0].translate(table)) for m in tokens]


def regional(text: str) -> list[Edit]:
    """Regional indicators that spell words; two by two they are flags."""
    found, words = [], 0
    for m in REGIONAL.finditer(text):
        letters = "".join(
            chr(ord(c) - 0x1F1E6 + 97) if "\U0001f1e6" <= c <= "\U0001f1ff" else " " * (c == " ")
            for c in m[0]
        )
        said = spelled(letters)
        words += said is not None
        found.append(Edit(*m.span(), letters if said is None else said))
    return found if 2 * words > len(found) else []


def spelled(letters: str) -> str | None:
    """The words that letters make, with or without spaces between words or between all letters."""
    if prose(letters) >= PROSE:
        return letters
    joined = letters.replace(" ", "")
    if len(joined) < 3:
        return None
    if attested(joined.lower()):
        return joined
    parts = segment(joined)
    return None if parts is None else " ".join(parts)


def keycaps(text: str) -> list[Edit]:
    """Digits on keys among letters; on their own they are bullets."""
    if KEYCAPS.search(text) is None:
        return []
    return [Edit(*m.span(), "") for m in KEYCAP.finditer(text)]


def marks(text: str) -> list[Edit]:
    """Floods of combining marks, and marks that strike a letter through or enclose it."""
    found = [m.span() for m in MARKS.finditer(text)]
    if FLOOD.search(text) is None:
        return []
    return [Edit(start, end, "") for start, end in found]


def braille(text: str) -> list[Edit]:
    """Uncontracted Braille of Latin letters."""
    found = [
        Edit(*m.span(), "".join(BRAILLED.get(char, char) for char in m[0]))
        for m in BRAILLE.finditer(text)
    ]
    # A dot or two are a mark, as of what turns while somebody waits.
    return found if sum(char.isalpha() for edit in found for char in edit.text) >= FEW else []


def upside_down(text: str) -> list[Edit]:
    """Turned letters, read from the right; what stands upright beside them stays as it is."""
    found, at = [], 0
    for line in text.split("\n"):
        if len(UPSIDE_DOWN.findall(line)) >= FEW:
            edits = [
                Edit(at + start, at + end, _righted(line[start:end]))
                for start, end in _turned(line)
            ]
            # Phonetic script has turned letters too, but no words of them.
            if prose(" ".join(edit.text for edit in edits)) >= TURNED_PROSE:
                found += edits
        at += len(line) + 1
    return found


def _turned(line: str) -> Iterator[tuple[int, int]]:
    """Where words with turned letters follow each other, or such as need none to be turned."""
    start = end = -1
    turned = False
    for m in VISIBLE.finditer(line):
        letters, upright = len(UPSIDE_DOWN.findall(m[0])), len(UPRIGHT.findall(m[0]))
        if upright >= letters and (upright or attested(m[0].strip(SIGNS).lower())):
            if turned:
                yield start, end
            start, turned = -1, False
            continue
        start = m.start() if start < 0 else start
        end, turned = m.end(), turned or letters > 0
    if turned:
        yield start, end


def _righted(turned: str) -> str:
    return "".join(TURNED.get(char, char) for char in reversed(turned))


def lookalikes(text: str) -> list[Edit]:
    """Words with letters of other scripts that look Latin (UTS #39), where they stand for those."""
    table, foreign = looks("lookalikes.txt"), _foreign()
    mixed: list[Edit] = []
    short: list[Edit] = []
    whole: list[Edit] = []
    hooked: list[Edit] = []
    native = strange = 0
    for m in WORD.finditer(text):
        word = m[0]
        edit = Edit(*m.span(), word.translate(table))
        if not edit.text.isascii() and attested((said := edit.text.translate(SIMILAR)).lower()):
            edit = edit._replace(text=said)
        english = len(word) > 2 and attested(edit.text.lower())
        strangers = sum(char in foreign or ord(char) in SIMILAR for char in word)
        if not edit.text.isascii():
            rest = next(char for char in edit.text if not char.isascii())
            native += "LATIN" not in unicodedata.name(rest, "")
        elif not strangers:
            hooked += [edit] if english else []
            strange += not english
        elif LATIN.search(word) is None:
            whole.append(edit)
        elif english or (strangers > 1 and len(word) > 4):
            mixed.append(edit)
        else:
            short.append(edit)
    if native or (not mixed and prose(" ".join(edit.text for edit in whole)) < PROSE):
        whole = []
    # One letter of another script in a short word may be a symbol: "VaRα".
    if len({edit.text for edit in mixed}) == 1 and not whole and len(mixed[0].text) < 5:
        mixed = mixed if mixed[0].text.lower() in telling() else []
    # What is no word on its own is one among others that are, if it is as mixed.
    if len(mixed) > 1:
        mixed += short
    if mixed or whole or (len(hooked) > max(1, strange)):
        return sorted([*mixed, *hooked, *whole])
    return []
