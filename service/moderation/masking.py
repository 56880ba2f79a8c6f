"""Masking: what a policy wants hidden, replaced by marks such as ``[EMAIL]``.

Personal data is found by its form and its check digits: telephone numbers by ``phonenumbers``
(Google's libphonenumber), cards, IBANs and national ids by ``python-stdnum``. There is no language
model behind it: names and postal addresses are not found. Presidio's recognisers would be the same
kind of patterns, but cannot be imported without spaCy.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

from tamis.content import Content
from tamis.policy import NATIONAL_IDS, MaskRule, Personal
from tamis.verdict import Evidence

EMAIL: Final = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z][\w-]{1,62}(?![\w-])"
)
# Between groups of digits: typesetters and web pages keep them on one line by blanks of their own.
BLANK: Final = " \u00a0\u2009\u202f"
GAP: Final = re.compile(f"[{BLANK}]")
CARD: Final = re.compile(rf"(?<![\w-])\d(?:[{BLANK}-]?\d){{12,18}}(?![\w-])")
FEWEST_OF_CARD: Final = 13
IBAN: Final = re.compile(rf"(?<!\w)[A-Za-z]{{2}}\d{{2}}(?:[{BLANK}]?[A-Za-z0-9]){{11,30}}(?!\w)")
# One of four numbers may stand behind a colon ("from:192.0.2.1"), which one of eight is made of.
IP: Final = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}|(?<!:)[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+)(?!\w|\.\d)"
)
# Where a telephone number may be: asking of such places only takes a twentieth of the time.
DIALLED: Final = re.compile(rf"(?<!\w)[+(]?\d[\d(){BLANK}./-]{{5,30}}\d(?!\w)")
FEWEST_DIALLED: Final = 7
# Words of a national id, each with a digit; check digits tell the rest.
WORD: Final = r"(?=[A-Za-z]{0,6}\d)[\dA-Za-z]{1,18}"
NUMBER: Final = re.compile(rf"(?<![\w./-]){WORD}(?:[{BLANK}./-]{WORD}){{0,5}}(?!\w)")
LENGTHS: Final = range(8, 19)
FEWEST_DIGITS: Final = 4
# Characters of the longest place that the patterns above look at, and one behind it.
LONGEST: Final[dict[Personal, int]] = {"card": 38, "iban": 65, "national_id": 114, "phone": 34}
# What is looked at there takes much longer than to find them.
PLACES: Final[dict[Personal, re.Pattern[str]]] = {
    "card": CARD,
    "iban": IBAN,
    "national_id": NUMBER,
    "phone": DIALLED,
}
# The others are of one word each: none is longer.
LONGEST_WORD: Final = 720


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start:end`` of a text (code points) and the mark that replaces them."""

    start: int
    end: int
    mark: str


@dataclass(frozen=True, slots=True)
class Masked:
    """A content's text with its spans replaced; offsets are those of the text before."""

    field: str
    text: str
    spans: tuple[Span, ...]


def work(text: str, rule: MaskRule) -> int:
    """What masking a text takes: characters of places, each by how often it is looked at.

    The rest of a text is passed over, which takes a thousandth of it.
    """
    places = [PLACES[kind] for kind in rule.pii if kind in PLACES]
    found = sum(m.end() - m.start() for place in places for m in place.finditer(text))
    return found * (1 + len(rule.countries))


def mask(content: Content, rule: MaskRule, evidence: Sequence[Evidence] = ()) -> Masked:
    """A content as a policy wants it shown.

    Args:
        content: whose text is masked.
        rule: what is to be hidden.
        evidence: of all contents; those of this one are hidden where the rule says so.
    """
    found = [span for kind in rule.pii for span in FINDERS[kind](content.text, rule)]
    if rule.evidence:
        found += (
            Span(e.start, e.end, f"[{e.category.upper()}]")
            for e in evidence
            if e.field == content.field
        )
    spans = _apart(found)
    pieces, at = [], 0
    for span in spans:
        pieces += [content.text[at : span.start], span.mark]
        at = span.end
    return Masked(content.field, "".join([*pieces, content.text[at:]]), tuple(spans))


def holdback(content: Content, masked: Masked, rule: MaskRule) -> int:
    """How many characters at the end of a masked text could change if the text went on.

    What comes before has its marks, whatever follows. Evidence is where a whole text was looked at,
    so that where it is hidden nothing is certain before the end.
    """
    text = content.text
    if rule.evidence:
        return len(masked.text)
    tail = text[-LONGEST_WORD:]
    word = 0 if not tail or tail[-1].isspace() else len(tail.rsplit(None, 1)[-1])
    at = max(len(text) - max(word, *(LONGEST.get(kind, 0) for kind in rule.pii)), 0)
    # A mark that begins before is certain, however far it reaches.
    at = max([at, *(span.end for span in masked.spans if span.start < at)])
    later = [span for span in masked.spans if span.start >= at]
    return len(text) - at + sum(len(span.mark) - (span.end - span.start) for span in later)


def _apart(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, none on another: what overlaps is hidden together, under the first's mark.

    Of two that begin at the same place, the longer one names both.
    """
    apart: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if apart and span.start < apart[-1].end:
            last = apart.pop()
            span = Span(last.start, max(last.end, span.end), last.mark)
        apart.append(span)
    return apart


def _emails(text: str, _: MaskRule) -> Iterator[Span]:
    if "@" in text:
        yield from (Span(m.start(), m.end(), "[EMAIL]") for m in EMAIL.finditer(text))


def _cards(text: str, _: MaskRule) -> Iterator[Span]:
    checked: Callable[[str], bool] = import_module("stdnum.luhn").is_valid

    def issued(written: str) -> bool:
        digits = re.sub(r"\D", "", written)
        # No issuer's numbers begin with 0 or 1; and a row of equal digits is no number.
        return (
            len(digits) >= FEWEST_OF_CARD
            and digits[0] not in "01"
            and len(set(digits)) > 1
            and checked(digits)
        )

    yield from _numbers(CARD, text, issued, "[CARD]")


def _ibans(text: str, _: MaskRule) -> Iterator[Span]:
    yield from _numbers(IBAN, text, import_module("stdnum.iban").is_valid, "[IBAN]")


def _numbers(
    places: re.Pattern[str], text: str, valid: Callable[[str], bool], mark: str
) -> Iterator[Span]:
    """Numbers of several words: of those that begin at a word, the longest that is valid.

    Words before and behind it may look like more of it: a card's check value, another account.
    """
    at = 0
    while found := places.search(text, at):
        ends = [*(gap.start() for gap in GAP.finditer(found[0])), len(found[0])]
        for end in reversed(ends):
            if valid(found[0][:end]):
                yield Span(found.start(), found.start() + end, mark)
                break
        at = found.start() + ends[0]


def _ips(text: str, _: MaskRule) -> Iterator[Span]:
    for found in IP.finditer(text):
        written = found[0].rstrip(".:") if not found[0].endswith("::") else found[0]
        try:
            ipaddress.ip_address(written)
        except ValueError:
            continue
        if len(written) > len("::1"):
            yield Span(found.start(), found.start() + len(written), "[IP]")


def _phones(text: str, rule: MaskRule) -> Iterator[Span]:
    numbers = import_module("phonenumbers")
    # International ones, and those as they are written within the policy's countries.
    regions = (None, *(country.upper() for country in rule.countries))
    for place in DIALLED.finditer(text):
        if sum(map(str.isdigit, place[0])) < FEWEST_DIALLED:
            continue
        dialled = GAP.sub(" ", place[0])
        for region in regions:
            for found in numbers.PhoneNumberMatcher(dialled, region):
                yield Span(place.start() + found.start, place.start() + found.end, "[PHONE]")


def _national_ids(text: str, rule: MaskRule) -> Iterator[Span]:
    checks = _checks(rule.countries)

    def known(written: str) -> bool:
        signs = [sign for sign in written if sign.isalnum()]
        if len(signs) not in LENGTHS or sum(map(str.isdigit, signs)) < FEWEST_DIGITS:
            return False
        return any(valid(written) for valid in checks)

    yield from _numbers(NUMBER, text, known, "[NATIONAL_ID]")


@cache
def _checks(countries: tuple[str, ...]) -> tuple[Callable[[str], bool], ...]:
    names = [name for country in countries for name in NATIONAL_IDS[country]]
    return tuple(import_module(f"stdnum.{name}").is_valid for name in names)


Finder = Callable[[str, MaskRule], Iterator[Span]]
FINDERS: Final[dict[str, Finder]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "national_id": _national_ids,
    "ip": _ips,
    "phone": _phones,
}
NEEDED: Final = {
    "card": "stdnum",
    "iban": "stdnum",
    "national_id": "stdnum",
    "phone": "phonenumbers",
}


@cache
def missing(kind: str) -> str | None:
    """The package without which a kind cannot be found, where it is not installed."""
    name = NEEDED.get(kind)
    try:
        _: Any = name and import_module(name)
    except ModuleNotFoundError:
        return name
    return None
