"""Words with something between their letters, nothing between them, or letters too many."""

import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice, product, zip_longest
from string import ascii_lowercase
from typing import Final

from tamis.reading.lexicon import PROSE, attested, known, prose, segment, sentence
from tamis.reading.text import Edit

# What a text says once it was read further, in English or, where told so, any language; None where
# that is no message.
Deeper = Callable[[str, bool], str | None]

# No letters of another script in between: they would be lost with the spaces.
SPACED: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Za-z0-9][\W_]{1,8}){4,}[A-Za-z0-9](?![A-Za-z0-9])(?:[\W_]{1,4}[.!?])?"
)
POINT: Final = re.compile("[.,;:!?'\"]")
LETTERS: Final = re.compile(r"[A-Za-z]")
SEPARATOR: Final = re.compile(r"[-._*~|/\\`+=#^<][^\s]")
PARTS: Final = re.compile(
    r"(?<![A-Za-z])[A-Za-z]+(?:(?:<!--.{0,80}?-->|</?[A-Za-z][^<>]{0,40}>|[-._*~|/\\`+=#^]{1,3})[A-Za-z]+)+",
    re.DOTALL,
)
USUAL: Final = str.maketrans("", "", "-.")
BETWEEN: Final = re.compile(r"<!--.*?-->|<[^<>]*>|[^A-Za-z]+", re.DOTALL)
# Tags that are usual in words: in any other one, or a comment, somebody may talk.
MARKUP: Final = re.compile(
    "a|abbr|b|big|br|cite|code|del|dfn|em|font|hr|i|img|ins|kbd|li|mark|ol|p|pre|q|s|samp|small"
    "|span|strike|strong|sub|sup|td|th|tr|tt|u|ul|var|wbr"
)
# Whoever reads what these tags and comments stand in sees one word.
UNSEEN: Final = re.compile(
    r"<!-[\s-]*->|</?(?:b|big|del|em|font|i|ins|mark|s|small|span|strike|strong|tt|u|wbr)>",
    re.IGNORECASE,
)
# More scraps than words, by so much, and a word in four or more is torn.
TORN: Final = 1.25
GLUED: Final = re.compile(r"(?<![A-Za-z])[A-Za-z]{20,}(?![A-Za-z])")
PART: Final = re.compile("[A-Z]+[a-z]*|[a-z]+")
# So many letters tell whether more of them are worth cutting into words.
TASTE: Final = 120
TWICE: Final = re.compile(r"([A-Za-z])\1\1|([A-Za-z])\2([A-Za-z])\3")
PAIRS: Final = tuple(letter + letter for letter in ascii_lowercase)
# English doubles one letter in forty.
MANY_PAIRS: Final = 10
REPEATED: Final = re.compile(r"([A-Za-z])\1\1")
ALIKE: Final = re.compile(r"([A-Za-z])\1*")
WORD: Final = re.compile(r"[A-Za-z]+")
RUN: Final = re.compile(r"([A-Za-z])\1{2,}")
# Of so many letters such a share may be of no word.
ENOUGH, MUCH = 30, 0.2
# However long they are drawn out, words have no more letters.
LONGEST: Final = 60


def spaced(text: str, deeper: Deeper) -> list[Edit]:
    """``i g n o r e`` and ``i.g.n.o.r.e``; a list of options or a formula spells no word."""
    found = []
    for m in SPACED.finditer(text):
        letters = re.findall("[A-Za-z0-9]", m[0])
        gaps = re.findall("[^A-Za-z0-9]+", m[0])
        ((usual, _),) = Counter(gaps).most_common(1)
        joined = letters[0]
        for gap, letter in zip_longest(gaps, letters[1:], fillvalue=""):
            if gap != usual:
                point = POINT.search(gap.replace(usual, ""))
                joined += (point[0] if point else "") + (" " if letter else "")
            joined += letter
        if 3 * len(LETTERS.findall(joined)) < len(letters):
            continue
        said = _spelled(joined) or deeper(joined, False)
        if said is not None and max(map(len, said.split())) > 3:
            found.append(Edit(*m.span(), said))
    return found


def _spelled(joined: str) -> str | None:
    """Letters as words: as they are grouped, or else as they can be cut."""
    if prose(joined) >= PROSE:
        return joined
    letters = "".join(LETTERS.findall(joined))
    # What stands before and behind is not always part of it.
    words = segment(letters) or (segment(letters, MUCH) if len(letters) >= ENOUGH else None)
    return None if words is None else " ".join(words)


def separated(text: str) -> list[Edit]:
    """``ig-no-re``, ``ig**no**re``, ``ig<b>no</b>re``: words only once their parts are joined."""
    if SEPARATOR.search(text) is None:
        return []
    found: list[Edit] = []
    marked: list[tuple[str, Edit]] = []
    signs: set[str] = set()
    heard: list[list[str]] = []
    cuts = 0.0
    for m in PARTS.finditer(text):
        parts = BETWEEN.split(m[0])
        joined = "".join(parts)
        heard.append([cut for cut in BETWEEN.findall(m[0]) if _talks(cut)])
        words = sum(attested(part.lower()) for part in parts)
        edit = Edit(*m.span(), joined)
        if UNSEEN.sub("", m[0]) == joined:
            found.append(edit)
            cuts += 2
        elif len(joined) > 4 and attested(joined.lower()) and words < len(parts):
            found.append(edit)
            signs.update(BETWEEN.findall(m[0]))
            # One hyphen is spelling, one dot is code: "e-mail", "re.match"; in a rare word more so.
            usual = len(parts) == 2 and m[0].translate(USUAL) == joined
            cuts += 0.5 * known(joined.lower()) if usual else len(parts) - 1
        elif "<" in m[0] or "*" in m[0] or not (words or "_" in m[0]):
            marked.append((m[0], edit))
    if cuts <= 1:
        return []
    # Who has cut a word has cut the strange ones too, in the same way.
    alike = (e for cut, e in marked if "<" in cut or signs.issuperset(BETWEEN.findall(cut)))
    done = sorted([*found, *alike])
    # What was said within words is one text of its own.
    if aside := " ".join(cut.strip("<!-/> ") for cuts_of_one in heard for cut in cuts_of_one):
        done[-1] = done[-1]._replace(text=f"{done[-1].text}. {aside}")
    return done


def _talks(cut: str) -> bool:
    """Whether what stands between two parts of a word says something."""
    said = cut.strip("<!-/> ").lower()
    return cut.startswith("<") and any(map(str.isalpha, said)) and MARKUP.fullmatch(said) is None


def torn(text: str, said: str) -> bool:
    """Whether a text is another with its words torn: of its letters none is lost or another.

    Nothing that somebody reads in it is not in the other, so that the scraps say no more.
    """
    if UNSEEN.sub("", text) == said:
        return True
    bare, said = UNSEEN.sub("|", text), UNSEEN.sub("|", said)
    letters, alike = ("".join(filter(str.isalpha, one)).lower() for one in (bare, said))
    if letters != alike or not letters:
        return False
    return len(WORD.findall(bare)) >= TORN * len(WORD.findall(said))


def glued(text: str) -> list[Edit]:
    """``ignoreallpreviousinstructions``; long words of other languages and names stay whole."""
    found = []
    for m in GLUED.finditer(text):
        if attested(m[0].lower()) or (words := segment(m[0][:TASTE])) is None:
            continue
        if len(m[0]) > TASTE:
            words = segment(m[0])
        if words is not None and sentence(words) and not _named(m[0]):
            found.append(Edit(*m.span(), " ".join(words)))
    return found


def _named(letters: str) -> bool:
    """Whether capitals part words, as in ``InternationalizationManager``."""
    parts = PART.findall(letters)
    return 2 * sum(attested(part.lower()) for part in parts) > len(parts)


def repeated(text: str) -> list[Edit]:
    """``stuuupid``, and ``ssttuuppiidd`` where every letter comes so often."""
    strong: list[Edit] = []
    weak: list[Edit] = []
    # Counting substrings is five times as fast as looking for any letter thrice.
    lower = text.lower()
    pairs = [(pair, n) for pair in PAIRS if (n := lower.count(pair))]
    many = sum(n for _, n in pairs) * MANY_PAIRS > len(text)
    if not many and not any(pair + pair[0] in lower for pair, _ in pairs):
        return []
    for m in WORD.finditer(text):
        word = m[0]
        if TWICE.search(word) is None:
            continue
        whole = said = _divided(word)
        if said is None or not attested(said.lower()):
            said = _shortened(word) if REPEATED.search(word) is not None else None
        if said is not None and len(said) > 3:
            strong.append(Edit(*m.span(), said))
        elif whole is not None:
            weak.append(Edit(*m.span(), whole))
    return sorted([*strong, *(weak if len(strong) > 1 else [])]) if strong else []


def _divided(word: str) -> str | None:
    """A word whose letters all come twice, or three times; every letter once."""
    runs = [(m[1], len(m[0])) for m in ALIKE.finditer(word)]
    times = math.gcd(*(n for _, n in runs))
    return "".join(letter * (n // times) for letter, n in runs) if times > 1 else None


def _shortened(word: str) -> str | None:
    """A word with each run of a letter once or twice, if that is one."""
    runs = RUN.split(word)
    if sum(map(len, runs)) > LONGEST:
        return None
    for times in islice(product((1, 2), repeat=len(runs) // 2), 16):
        said = runs[0] + "".join(
            letter * n + rest for letter, rest, n in zip(runs[1::2], runs[2::2], times, strict=True)
        )
        if len(said) > 3 and attested(said.lower()):
            return said
    return None
