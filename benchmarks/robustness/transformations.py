"""What attackers do to a text so that a classifier does not read it and a language model does.

Written from the published lists (Unicode tags, emoji smuggling, letter spacing, …) and apart from
``tamis.reading``, which undoes some of them: neither takes a table from the other.
"""

import base64
import codecs
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Final

Transform = Callable[[str], str]

LOWER: Final = "abcdefghijklmnopqrstuvwxyz"
HOMOGLYPHS: Final = str.maketrans("aeiopcyxsjhAEOPCTHBMKX", "аеіорсухѕјһАЕОРСТНВМКХ")
LEET: Final = str.maketrans("aeiostAEIOST", "431057431057")
LEET_SIGNS: Final = str.maketrans("aisolAISOL", "@!$0|@!$0|")
TURNED: Final = dict(zip(LOWER + ".?!,'", "ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍxʎz˙¿¡‘,", strict=True))
BRAILLE: Final = dict(zip(LOWER + " ", "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵⠀", strict=True))
SMALL: Final = str.maketrans(LOWER, "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘǫʀsᴛᴜᴠᴡxʏᴢ")
FANCY: Final = {
    "fancy greek": "αв¢∂єfgнιנкℓмиσρqяѕтυνωχуz",
    "fancy chinese": "卂乃匚ᗪ乇千Ꮆ卄丨ﾌҜㄥ爪几ㄖ卩Ɋ尺丂ㄒㄩᐯ山乂ㄚ乙",
    "fancy currencies": "₳฿₵ĐɆ₣₲ⱧłJ₭Ⱡ₥₦Ø₱QⱤ₴₮ɄV₩ӾɎⱫ",
    "accents": "àbçdéfghîjklmñôpqršţûvwxýž",
    "russian by sound": "абцдефгхийклмнопкрстуввхйз",
}
RADIO: Final = (
    *("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"),
    *("kilo", "lima", "mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango"),
    *("uniform", "victor", "whiskey", "x-ray", "yankee", "zulu"),
)
MORSE: Final = {
    "a": ".-",
    "b": "-...",
    "c": "-.-.",
    "d": "-..",
    "e": ".",
    "f": "..-.",
    "g": "--.",
    "h": "....",
    "i": "..",
    "j": ".---",
    "k": "-.-",
    "l": ".-..",
    "m": "--",
    "n": "-.",
    "o": "---",
    "p": ".--.",
    "q": "--.-",
    "r": ".-.",
    "s": "...",
    "t": "-",
    "u": "..-",
    "v": "...-",
    "w": ".--",
    "x": "-..-",
    "y": "-.--",
    "z": "--..",
}


def _shifted(text: str, lower: int, upper: int | None = None) -> str:
    """Letters at their place in another alphabet that begins at a code point."""
    upper = lower if upper is None else upper
    return "".join(
        chr(lower + ord(c) - 97)
        if "a" <= c <= "z"
        else (chr(upper + ord(c) - 65) if "A" <= c <= "Z" else c)
        for c in text
    )


def _words(text: str, change: Transform) -> str:
    return re.sub(r"[^\W\d_]+", lambda m: change(m[0]), text)


def _caesar(text: str, n: int) -> str:
    turned = LOWER[n:] + LOWER[:n]
    return text.translate(str.maketrans(LOWER + LOWER.upper(), turned + turned.upper()))


def _cut(text: str, mark: str, close: str = "") -> str:
    """Something in the middle of every long word, where it parts into no words."""
    return _words(text, lambda w: f"{w[:2]}{mark}{w[2:4]}{close}{w[4:]}" if len(w) > 4 else w)


def _scattered(text: str) -> str:
    draw = random.Random(len(text))
    return _words(
        text, lambda w: f"{w[: (n := draw.randint(1, len(w) - 1))]} {w[n:]}" if len(w) > 3 else w
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _in_alphabet(letters: str, text: str) -> str:
    return text.lower().translate(str.maketrans(LOWER, letters))


def _bits(text: str) -> str:
    return "".join(f"{byte:08b}" for byte in text.encode())


TRANSFORMATIONS: Final[dict[str, Transform]] = {
    # What cannot be seen.
    "zero-width": lambda s: "\u200b".join(s),
    "soft hyphens": lambda s: "\u00ad".join(s),
    "bidi controls": lambda s: " ".join(f"\u2067{word}\u2069" for word in s.split(" ")),
    "unicode tags": lambda s: "".join(chr(0xE0000 + ord(c)) if c < "\x7f" else c for c in s),
    "tags behind a greeting": lambda s: (
        "Hello there! " + "".join(chr(0xE0000 + ord(c)) for c in s if c < "\x7f")
    ),
    "emoji smuggling": lambda s: (
        "😀" + "".join(chr(0xFE00 + b if b < 16 else 0xE0100 + b - 16) for b in s.encode())
    ),
    "zero-width bits": lambda s: "Hi. " + _bits(s).replace("0", "\u200b").replace("1", "\u200c"),
    # Letters in disguise.
    "full-width": lambda s: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in s),
    "mathematical": lambda s: _shifted(s, 0x1D41A, 0x1D400),
    "circled": lambda s: _shifted(s, 0x24D0, 0x24B6),
    "negative squared": lambda s: _shifted(s.upper(), 0x1F170, 0x1F170),
    "regional indicators": lambda s: _words(
        s, lambda w: "\u200b".join(_shifted(w.lower(), 0x1F1E6))
    ),
    "small capitals": lambda s: s.lower().translate(SMALL),
    "homoglyphs": lambda s: s.translate(HOMOGLYPHS),
    "combining marks": lambda s: "".join(c + "\u0301\u0336\u0323" for c in s),
    "upside down": lambda s: "".join(TURNED.get(c, c) for c in reversed(s.lower())),
    "braille": lambda s: "".join(BRAILLE.get(c, c) for c in s.lower()),
    **{name: partial(_in_alphabet, letters) for name, letters in FANCY.items()},
    # Spelling.
    "leetspeak": lambda s: s.translate(LEET),
    "leetspeak, signs": lambda s: s.translate(LEET_SIGNS),
    "letter spacing": lambda s: " ".join(s),
    "letter spacing, no gaps": lambda s: " ".join(s.replace(" ", "")),
    "dots between letters": lambda s: " ".join(".".join(word) for word in s.split()),
    "emoji between letters": lambda s: "🙂".join(s),
    "one letter a line": lambda s: "\n".join(s),
    "hyphens in words": lambda s: _cut(s, "-", "-"),
    "bold in words": lambda s: _cut(s, "**", "**"),
    "html in words": lambda s: _cut(s, "<b>", "</b>"),
    "comments in words": lambda s: _cut(s, "<!-- -->"),
    "random spaces": _scattered,
    "no spaces": lambda s: "".join(c for c in s if c.isalnum()),
    "tripled letters": lambda s: "".join(c * 3 if c.isalpha() else c for c in s),
    # Codes.
    "html entities": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "percent": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()),
    "unicode escapes": lambda s: "".join(f"\\u{ord(c):04x}" for c in s if ord(c) < 0x10000),
    "base64": _base64,
    "base64 in a request": lambda s: f"Decode this and do what it says: {_base64(s)}",
    "base64, word by word": lambda s: " ".join(_base64(word) for word in s.split()),
    "base32": lambda s: base64.b32encode(s.encode()).decode(),
    "hex": lambda s: s.encode().hex(" "),
    "binary": lambda s: " ".join(f"{byte:08b}" for byte in s.encode()),
    "decimal": lambda s: " ".join(str(byte) for byte in s.encode()),
    "morse": lambda s: " / ".join(
        " ".join(MORSE[c] for c in word if c in MORSE) for word in s.lower().split()
    ),
    "radio alphabet": lambda s: " / ".join(
        " ".join(RADIO[ord(c) - 97] for c in word if "a" <= c <= "z") for word in s.lower().split()
    ),
    "character calls": lambda s: "+".join(f"chr({ord(c)})" for c in s),
    "strings in code": lambda s: " + ".join(repr(s[n : n + 7]) for n in range(0, len(s), 7)),
    # Order.
    "rot47": lambda s: "".join(
        chr(33 + (ord(c) - 33 + 47) % 94) if "!" <= c <= "~" else c for c in s
    ),
    "letters swapped": lambda s: " ".join(re.sub(r"(\S)(\S)", r"\2\1", word) for word in s.split()),
    "rot13": lambda s: codecs.encode(s, "rot13"),
    "caesar 7": lambda s: _caesar(s, 7),
    "atbash": lambda s: s.translate(
        str.maketrans(LOWER + LOWER.upper(), LOWER[::-1] + LOWER[::-1].upper())
    ),
    "reversed": lambda s: s[::-1],
    "words reversed": lambda s: _words(s, lambda w: w[::-1]),
    "pig latin": lambda s: _words(
        s.lower(), lambda w: f"{w}way" if w[0] in "aeiou" else f"{w[1:]}{w[0]}ay"
    ),
}

# What these hide is an attack whatever it says: harmless rows are flagged, too.
HIDDEN: Final = frozenset(
    ("unicode tags", "tags behind a greeting", "emoji smuggling", "zero-width bits")
)

# Outer of inner: two deep, as attackers nest them.
NESTED: Final = (
    ("base64", "base64"),
    ("base64", "rot13"),
    ("base64", "leetspeak"),
    ("base64", "homoglyphs"),
    ("base64", "unicode tags"),
    ("hex", "reversed"),
    ("hex", "base64"),
    ("html entities", "full-width"),
    ("html entities", "base64"),
    ("percent", "html entities"),
    ("unicode tags", "base64"),
    ("unicode tags", "rot13"),
    ("full-width", "leetspeak"),
    ("full-width", "base64"),
    ("zero-width", "homoglyphs"),
    ("zero-width", "base64"),
    ("letter spacing", "leetspeak"),
    ("letter spacing", "rot13"),
    ("reversed", "base64"),
    ("reversed", "rot13"),
    ("mathematical", "reversed"),
    ("morse", "rot13"),
)


def nested(outer: str, inner: str) -> Transform:
    """One transformation of another."""
    return lambda text: TRANSFORMATIONS[outer](TRANSFORMATIONS[inner](text))


def all_of_them() -> dict[str, Transform]:
    """By name; nested ones as "outer of inner"."""
    return TRANSFORMATIONS | {f"{o} of {i}": nested(o, i) for o, i in NESTED}
