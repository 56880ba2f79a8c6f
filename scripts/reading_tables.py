"""Write the tables of ``tamis/reading/data``: letters by their look, and English words.

    python scripts/reading_tables.py CONFUSABLES TOKENIZER STOPWORDS FREQUENCIES

CONFUSABLES is ``confusables.json`` of the package confusable-homoglyphs 3.3.1 (MIT), which is
``confusables.txt`` of Unicode's UTS #39 (Unicode Licence) as JSON; of its 900 KB some 20 KB concern
Latin letters, so the table ships and the package does not. TOKENIZER is a ``tokenizer.json`` with
BERT's uncased vocabulary (Apache-2.0), whose whole words come in the order of their frequency.
STOPWORDS is ``stopwords-iso.json`` of the package stopwordsiso 0.7.1 (MIT), lists by language.
FREQUENCIES is ``frequency_dictionary_en_82_765.txt`` of the package symspellpy 6.10.1 (MIT): words
of SCOWL in the order in which Google's books have them.
"""

import gzip
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters
from typing import Any, Final

DATA: Final = Path(__file__).parents[1] / "tamis" / "reading" / "data"
LAST: Final = 0x1FBFF  # Beyond lie ideographs and tags.
NAMED: Final = re.compile(
    r"(?:NEGATIVE|CIRCLED|SQUARED|CROSSED|RAISED|OUTLINED|MODIFIER)\b.*"
    r" (CAPITAL|SMALL) LETTER ([A-Z])"
    r"|LATIN LETTER (SMALL) CAPITAL ([A-Z])"
)
HOOKED: Final = re.compile(r"LATIN (CAPITAL|SMALL) LETTER ([A-Z]) WITH [A-Z -]+")
# English words below this rank are names and scraps of other languages; these are missing.
FIRST: Final = 1996
SHORT: Final = frozenset(
    [
        "of",
        "in",
        "to",
        "is",
        "it",
        "on",
        "at",
        "by",
        "an",
        "as",
        "be",
        "he",
        "we",
        "me",
        "my",
        "no",
        "or",
        "so",
        "up",
        "us",
        "do",
        "go",
        "if",
        "am",
        "hi",
        "ok",
    ]
)
MISSING: Final = [
    "bypass",
    "burglar",
    "burglary",
    "chatbot",
    "decode",
    "disregard",
    "guardrails",
    "hacker",
    "hacking",
    "jailbreak",
    "malware",
    "moron",
    "override",
    "overriding",
    "phishing",
    "poisoning",
    "prompts",
    "ransomware",
    "shoplift",
    "uncensored",
    "unfiltered",
]

# Rarer words: so many of the commonest are looked at, and those of so many letters taken.
COMMONEST: Final = 50_000
LONG: Final = 5

# Languages in Latin letters whose stop words tell that a text is not English.
LANGUAGES: Final = (
    *("af", "br", "ca", "cs", "da", "de", "eo", "es", "et", "eu", "fi", "fr", "ga", "gl", "hr"),
    *("hu", "id", "it", "la", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "sk", "sl", "so"),
    *("sv", "sw", "tl", "tr", "vi", "yo", "zu"),
)
# Hindi as it is typed in Latin letters, which has no list of its own.
HINDI: Final = (
    *("aaj", "aap", "acha", "agar", "apna", "apne", "aur", "bahut", "bhai", "bhi", "chahiye"),
    *("hai", "hain", "hoga", "hota", "hoti", "hua", "hum", "iska", "jaise", "kaha", "kahan"),
    *("kaise", "karke", "karna", "karne", "karo", "ke", "ki", "kisi", "kitna", "ko", "koi"),
    *("kuch", "kya", "kyu", "kyun", "lekin", "liye", "magar", "mein", "mera", "mere"),
    *("meri", "mujhe", "nahi", "nahin", "raha", "rahe", "rahi", "sab", "sakta", "sakte", "tha"),
    *("thi", "tum", "tumhara", "uska", "wala", "wale", "wali", "yaar", "yeh"),
)

# Words of chat in English, too.
CHAT: Final = ("ha", "hei", "ho", "ima", "lo")


def styled(char: str) -> str | None:
    """The Latin letter or digit in another dress, with which no language writes; else None."""
    name = unicodedata.name(char, "")
    if 0xFB00 <= ord(char) <= 0xFB06 or name.startswith(("FULLWIDTH", "MATHEMATICAL")):
        plain = unicodedata.normalize("NFKC", char)
        return plain if plain.isascii() else None
    if char in "ªº":
        return None
    plain = unicodedata.normalize("NFKC", char)
    if len(plain) == 1 and plain in ascii_letters:
        return plain
    if (found := re.fullmatch(r"\((\w)\)", plain)) is not None and found[
        1
    ] in ascii_letters:  # parenthesised
        return found[1]
    if (found := NAMED.fullmatch(name)) is not None:
        size, letter = (found[1], found[2]) if found[2] else (found[3], found[4])
        return letter if size == "CAPITAL" else letter.lower()
    return None


def similar(confusables: dict[str, Any], dresses: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Letters of other scripts, and Latin ones with strokes and hooks, with what they look like."""
    found: dict[str, str] = {}
    for char, others in confusables.items():
        if len(char) > 1 or char.isascii() or char in dresses or not char.isalpha():
            continue
        looks = [dresses.get(o["c"], o["c"]) for o in others]
        latin = [look for look in looks if len(look) == 1 and look in ascii_letters]
        if latin:
            found[char] = latin[0]
    for point in range(0x180, LAST):
        char = chr(point)
        hooked = HOOKED.fullmatch(unicodedata.name(char, ""))
        if hooked and not unicodedata.decomposition(char) and char not in dresses:
            found[char] = hooked[2] if hooked[1] == "CAPITAL" else hooked[2].lower()
    for char, look in found.items():
        # "І" looks like "l" to UTS #39, but is the capital of what looks like "i".
        lower = char.lower()
        if char != lower and (known := found.get(lower)) is not None:
            look = known.upper()
        yield char, look


def write(name: str, table: dict[str, str]) -> None:
    """One line for each letter: the letter, a space, all that look like it."""
    by: dict[str, list[str]] = {}
    for char, look in table.items():
        by.setdefault(look, []).append(char)
    lines = [f"{look} {''.join(sorted(chars))}\n" for look, chars in sorted(by.items())]
    (DATA / name).write_text("".join(lines), encoding="utf-8")


def write_words(name: str, words: list[str]) -> None:
    """One word a line, compressed, the same bytes every time."""
    with gzip.GzipFile(DATA / name, "wb", mtime=0) as stream:
        stream.write("\n".join(words).encode())


def grammar(lists: dict[str, list[str]]) -> list[str]:
    """Words of grammar in other languages that are none in English."""
    found = {word.lower() for name in LANGUAGES for word in lists.get(name, ())} | {*HINDI}
    return sorted(w for w in found - {*lists["en"], *CHAT} if len(w) > 1 and w.isalpha())


def rare(lines: list[str], words: set[str]) -> list[str]:
    """Words that are not among the ranked ones, and long enough to be none by chance."""
    found = [line.split()[0] for line in lines[:COMMONEST]]
    return sorted(w for w in found if w not in words and re.fullmatch(f"[a-z]{{{LONG},}}", w))


def main(confusables: Path, tokenizer: Path, stopwords: Path, frequencies: Path) -> None:
    """Write all five."""
    dresses = {
        chr(point): look
        for point in range(0x80, LAST)
        if not 0xD800 <= point < 0xE000 and (look := styled(chr(point))) is not None
    }
    write("styled.txt", dresses)
    write("lookalikes.txt", dict(similar(json.loads(confusables.read_text()), dresses)))
    ranked = sorted((n, w) for w, n in json.loads(tokenizer.read_text())["model"]["vocab"].items())
    words = [w for n, w in ranked if n >= FIRST and re.fullmatch("[a-z]{2,}", w)]
    words = [w for w in words if len(w) > 2 or w in SHORT]
    words += sorted(set(MISSING) - set(words))
    write_words("words.txt.gz", words)
    lines = frequencies.read_text(encoding="utf-8-sig").splitlines()
    write_words("rare.txt.gz", rare(lines, set(words)))
    write_words("grammar.txt.gz", grammar(json.loads(stopwords.read_text())))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
