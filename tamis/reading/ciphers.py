"""Letters turned or put in another order: ROT13 and its like, words and texts from the right.

Looked for where several words in a row are no English, and believed where they are once turned.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import Final

from tamis.reading.lexicon import WORD, attested, prose, reads, segment, sentence, words
from tamis.reading.text import Edit

# A word of a few letters next to a run.
BEFORE: Final = re.compile(r"\b([A-Za-z]{1,5})[ ,'\u2019]{1,2}\Z")
BEHIND: Final = re.compile(r"[ ,'\u2019]{1,2}([A-Za-z]{1,5})\b")
BY_WORD: Final = frozenset(("rot13", "atbash", "caesar", "reversed_words", "swapped"))
LETTERS: Final = re.compile(r"[A-Za-z]+")
# A run of unknown words is worth a try from so many words and letters on.
WORDS: Final = 3
# So many of its words tell whether more of them are worth it.
FEW: Final = 8
ENOUGH: Final = 10
# The mean frequency of letters is 6.5 in English, some 6 in its neighbours, 3.8 in noise.
PLAIN: Final = 5.2
STRANGE: Final = bytes(WORDS)
# Known words so short may be a cipher's chance hits.
CHANCE: Final = 4
# A taste of so many characters tells whether a run is what a guess makes of it.
TASTE: Final = 160
# Letters by their frequency in English, in percent: the usual table (Lewand 2000).
FREQUENCY: Final = (
    *(8.2, 1.5, 2.8, 4.3, 12.7, 2.2, 2.0, 6.1, 7.0, 0.15, 0.77, 4.0, 2.4),
    *(6.7, 7.5, 1.9, 0.095, 6.0, 6.3, 9.1, 2.8, 0.98, 2.4, 0.15, 2.0, 0.074),
)
# Words cut at random are short on average.
SCRAP: Final = 4
# Words that follow each other in this order, and hardly ever in the other.
PAIRS: Final = frozenset(
    (a, b)
    for a, bs in {
        "of": "the a an this these my your their",
        "in": "the a an this my your order",
        "to": "the a be make get do use",
        "on": "the a my your",
        "for": "the a an my your",
        "with": "the a an my your",
        "from": "the a my",
        "at": "the a",
        "by": "the a",
        "how": "to do can would",
        "is": "the a an",
        "as": "the a an",
        "what": "is are",
        "such": "as a",
        "want": "to",
        "into": "the a",
        "about": "the a how",
        "tell": "me",
        "give": "me",
        "write": "a me",
        "and": "the",
        "would": "be",
        "can": "be",
    }.items()
    for b in bs.split()
)
SIGN_BEFORE: Final = re.compile(r"(?<!\S)[.,?!][A-Za-z]")
SIGN_BEHIND: Final = re.compile(r"[A-Za-z][.,?!](?!\S)")
# A line is so much longer than a run at most, and may read so much less.
MOST_LINE: Final = 4
SLACK: Final = 0.1


def _alphabet(lower: str) -> dict[int, str]:
    upper = lower.upper()
    return {
        ord(a): b for a, b in zip(ascii_lowercase + ascii_uppercase, lower + upper, strict=True)
    }


# All that can be seen in ASCII turned by 47: what small letters are then, and "a", "e" and "o".
PRINTED: Final = "".join(map(chr, range(33, 127)))
ROT47: Final = str.maketrans(PRINTED, PRINTED[47:] + PRINTED[:47])
SMALL: Final = re.compile("[2-K]")
VOWELS: Final = "26@"
# Of English a quarter is those; of a text in which a part is turned, less.
VOCAL: Final = 0.05
VISIBLE: Final = re.compile(r"\S+")
# The hyphen of a word in pig latin.
PIG: Final = re.compile("-(?=[wyWY]?[aA][yY])")
PAIR: Final = re.compile(r"(\S)(\S)")
ATBASH: Final = _alphabet(ascii_lowercase[::-1])
SHIFTS: Final = [_alphabet(ascii_lowercase[n:] + ascii_lowercase[:n]) for n in range(26)]


def ciphered(text: str) -> list[tuple[str, Edit]]:
    """Runs of words that become English, each with the name of what was undone."""
    # Splitting is five times as fast as finding words, and mistakes few for unknown ones.
    english, lower = words().__contains__, text.lower()
    if STRANGE not in bytes(map(english, lower.split())):
        return []
    if STRANGE not in bytes(map(english, WORD.findall(lower))):
        return []
    found: list[tuple[str, Edit]] = []
    for start, end in _runs(text):
        # A line that was read as a whole had more runs.
        if (not found or start >= found[-1][1].end) and (one := _undone(text, start, end)):
            found.append(one)
    return _apart(found)


def rot47(text: str) -> list[Edit]:
    """Lines of ASCII turned by 47 that become English; words that were not turned are kept."""
    if sum(map(text.count, VOWELS)) < VOCAL * len(text):
        return []
    found, at = [], 0
    for line in text.split("\n"):
        if len(line) >= ENOUGH and sum(map(line.count, VOWELS)) >= VOCAL * len(line):
            said = VISIBLE.sub(lambda m: _turned_by_47(m[0]), line)
            if reads(said) and 2 * prose(line) <= prose(said):
                found.append(Edit(at, at + len(line), said))
        at += len(line) + 1
    return found


def _turned_by_47(word: str) -> str:
    # "x" is "I", and "p" is "A".
    turned = 2 * len(SMALL.findall(word)) > len(word) or word in "px"
    return word.translate(ROT47) if turned else word


def _apart(found: list[tuple[str, Edit]]) -> list[tuple[str, Edit]]:
    """Without those that a wider one behind them holds, or reaches into."""
    kept: list[tuple[str, Edit]] = []
    for name, edit in found:
        while kept and kept[-1][1].end > edit.start:
            kept.pop()
        kept.append((name, edit))
    return kept


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Where unknown words follow each other, known short ones among them, but fewer."""
    start = end = unknown = chance = doubtful = 0
    for m in LETTERS.finditer(text):
        word = m[0].lower()
        if len(word) > 1 and not attested(word):
            if not unknown:
                start, chance = m.start(), 0
            else:
                chance += doubtful
            unknown, end, doubtful = unknown + 1, m.end(), 0
        elif len(word) > CHANCE and word != word[::-1]:
            if unknown >= WORDS and unknown > chance:
                yield start, end
            unknown = 0
        elif unknown:
            doubtful += 1
    if unknown >= WORDS and unknown > chance:
        yield start, end


def _undone(text: str, start: int, end: int) -> tuple[str, Edit] | None:
    # A short word at either end may belong to it: "V" is "I".
    start, end = _widened(text, start, end)
    run = text[start:end]
    taste = run if len(run) <= TASTE else run[: run.rfind(" ", 0, TASTE)]
    if sum(map(str.isalpha, taste)) < ENOUGH:
        return None
    for name, guess in _guesses(taste, text[max(start - 1, 0) : start]):
        if not reads(guess(taste)):
            continue
        if name in BY_WORD:
            start, end = _grown(text, start, end, guess)
        elif name == "reversed":
            start, end = _line(text, start, end)
        said = guess(text[start:end])
        if reads(said):
            return name, Edit(start, end, said)
    return None


def _grown(text: str, start: int, end: int, guess: Callable[[str], str]) -> tuple[int, int]:
    """The run with short words beside it that are English as they stand, and turned as well.

    No more on either side than it has itself: every run may be beside the same words.
    """
    first, last = start - (end - start), end + (end - start)
    while (
        start > first
        and (m := BEFORE.search(text, max(start - 8, 0), start))
        and _short(guess(m[1]).lower())
    ):
        start = m.start(1)
    while end < last and (m := BEHIND.match(text, end, end + 8)) and _short(guess(m[1]).lower()):
        end = m.end(1)
    return start, end


def _short(word: str) -> bool:
    return attested(word) or word in ("a", "i")


def _line(text: str, start: int, end: int) -> tuple[int, int]:
    """The whole line, if it reads from the right as well as the run: numbers are in no run."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    last = len(text) if last < 0 else last
    if last - first > MOST_LINE * (end - start):
        return start, end
    whole, run = text[first:last][::-1], text[start:end][::-1]
    return (first, last) if prose(whole) >= prose(run) - SLACK else (start, end)


Guess = Callable[[str], str]


def _guesses(taste: str, before: str) -> Iterator[tuple[str, Guess]]:
    """What a run behind a sign may be, the likeliest first; shifts by how often letters come."""
    whole: tuple[str, Guess] = ("reversed", _reversed)
    words: tuple[str, Guess] = ("reversed_words", _words_reversed)
    # Both read the same words.
    yield from (whole, words) if _from_the_right(before + taste) else (words, whole)
    shift, atbash = _fitting(taste)
    tables = [("rot13", SHIFTS[13])]
    tables += [("atbash", ATBASH)] if atbash else []
    tables += [("caesar", SHIFTS[shift])] if shift not in (0, 13) else []
    for name, table in tables:
        yield name, partial(_turned, table)
        yield name, partial(_turned_back, table)
    found = LETTERS.findall(taste)
    for swapped in (_pairs_swapped, _halves_swapped):
        # Ten times as fast as all of a taste.
        tried = [word for word in found if len(word) > 2][:FEW]
        if 3 * sum(attested(swapped(word).lower()) for word in tried) >= len(tried):
            yield "swapped", swapped
    found = LETTERS.findall(PIG.sub("", taste))
    if 2 * sum(word.endswith("ay") for word in found) > len(found):
        yield "pig_latin", _pig_latin
    if sum(map(len, found)) <= SCRAP * len(found):
        yield "scattered_spaces", _gathered


def _from_the_right(taste: str) -> bool:
    """Whether all was turned, and not every word: by words that follow each other, then by signs.

    In a turned sentence a full stop comes before a word, and the capital is at its end.
    """
    pairs = [*pairwise(_words_reversed(taste.lower()).split())]
    there, back = (
        sum(pair in PAIRS for pair in some) for some in (pairs, (p[::-1] for p in pairs))
    )
    if there != back:
        return back > there
    before, behind = len(SIGN_BEFORE.findall(taste)), len(SIGN_BEHIND.findall(taste))
    if before != behind:
        return before > behind
    return not _words_reversed(taste[:24])[:1].isupper()


def _fitting(taste: str) -> tuple[int, bool]:
    """The shift after which letters are as frequent as in English, and whether atbash fits so too.

    Other languages of Latin letters fit best as they are.
    """
    counts = Counter(taste.lower())
    seen = [(ord(letter) - 97, n) for letter, n in counts.items() if "a" <= letter <= "z"]
    plain = sum(n * FREQUENCY[at] for at, n in seen)
    if plain > PLAIN * sum(n for _, n in seen):
        return 0, False
    fits = [sum(n * FREQUENCY[(at + shift) % 26] for at, n in seen) for shift in range(26)]
    return fits.index(max(fits)), sum(n * FREQUENCY[25 - at] for at, n in seen) > plain


def _turned(table: dict[int, str], text: str) -> str:
    return text.translate(table)


def _turned_back(table: dict[int, str], text: str) -> str:
    return text.translate(table)[::-1]


def _reversed(text: str) -> str:
    return text[::-1]


def _words_reversed(text: str) -> str:
    return LETTERS.sub(lambda m: m[0][::-1], text)


def _gathered(text: str) -> str:
    """Words cut at random, put together and cut again."""
    parts = LETTERS.findall(text)
    # Letters of another script would be lost with the spaces.
    if sum(map(len, parts)) < sum(map(str.isalpha, text)):
        return ""
    found = segment("".join(parts)) or []
    return " ".join(found) if len(found) < len(parts) and sentence(found) else ""


def _pairs_swapped(text: str) -> str:
    return VISIBLE.sub(lambda m: PAIR.sub(r"\2\1", m[0]), text)


def _halves_swapped(text: str) -> str:
    return VISIBLE.sub(lambda m: m[0][(len(m[0]) + 1) // 2 :] + m[0][: (len(m[0]) + 1) // 2], text)


def _pig_latin(text: str) -> str:
    return LETTERS.sub(lambda m: _unpigged(m[0]), PIG.sub("", text))


def _unpigged(word: str) -> str:
    if len(word) < 4 or not word.lower().endswith("ay"):
        return word
    stem = word[:-2]
    if len(stem) == 2 and stem[0].lower() in "ai" and stem[1].lower() in "wy":
        return stem[0]
    # What was moved, or nothing: "my" has no vowel before which it could be.
    moved = [*(stem[-n:] + stem[:-n] for n in (1, 2, 3, 4) if len(stem) > n), stem]
    found = [guess for guess in moved if attested(guess.lower())][:1]
    if stem[0].lower() in "aeiou" and stem[-1].lower() in "wy" and attested(stem[:-1].lower()):
        found.append(stem[:-1])
    ranks = words()
    return min(found, key=lambda w: ranks.get(w.lower(), len(ranks)), default=moved[0])


def _widened(text: str, start: int, end: int) -> tuple[int, int]:
    lone = text[max(start - 2, 0) : start]
    if (
        len(lone) == 2
        and lone[0].isalpha()
        and lone[1] == " "
        and not text[max(start - 3, 0) : start - 2].isalpha()
    ):
        start -= 2
    return start, end + (text[end : end + 1] in (".", "!", "?"))
