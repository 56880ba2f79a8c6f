"""Identifiers, digests, keys and pictures that stand alone: codes in which nothing is written.

A classifier takes what it cannot read for an attack, and so a commit or a UUID on its own. Named
here are forms that hold no message: what one could hide in them was sought before (hex, base64),
and anything else that looks like noise is still judged as it stands.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Final

from tamis.reading.text import Edit

_HEX: Final = "[0-9a-fA-F]"
IDENTIFIER: Final = re.compile(
    rf"(?<![\w-]){_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}(?![\w-])"  # RFC 9562
    # MD5, SHA-1, SHA-2; addresses, hashes and calls of Ethereum.
    rf"|(?<!\w)(?:{'|'.join(f'{_HEX}{{{size}}}' for size in (128, 96, 64, 56, 40, 32))})(?!\w)"
    rf"|(?<!\w)0x{_HEX}{{16,}}(?!\w)"
    rf"|(?<![\w:])(?:{_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}(?![\w:])"  # IPv6
    r"|(?<!\S)\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}(?!\S)"  # bcrypt
    r"|(?<!\w)[ACGTN]{24,}(?!\w)"  # DNA
)
TOKEN: Final = re.compile(r"(?<![\w.-])eyJ[\w-]{4,}\.([\w-]{4,})\.[\w-]*")  # RFC 7519
BINARY: Final = re.compile(r"(?:data:[\w/+.-]+;base64,)?([A-Za-z0-9+/]{24,}={0,2})")
ARMOUR: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{3,40})-----\n(?:[A-Za-z0-9-]+: [^\n]*\n)*\n?"
    r"[A-Za-z0-9+/=\s]+-----END \1-----"
)
# Every one of them has so many signs without a blank.
LEAST: Final = 24
MAGIC: Final = {
    b"\x89PNG\r\n": "picture",
    b"\xff\xd8\xff": "picture",
    b"GIF8": "picture",
    b"\x00\x00\x00\x07ssh-": "key",
    b"\x00\x00\x00\x0bssh-": "key",
}
# Where more is written than stands in such codes, they do no harm, and the text is left as it is.
MOST: Final = 0.5


def identifiers(text: str) -> list[Edit]:
    """``2c26b46b…`` → ``identifier``; of a token what it says of its bearer."""
    if max(map(len, text.split()), default=0) < LEAST:
        return []
    found: list[Edit] = []
    for edit in sorted(_found(text)):
        if not found or edit.start >= found[-1].end:
            found.append(edit)
    taken = sum(edit.end - edit.start for edit in found)
    return found if taken > MOST * len(text) else []


def _found(text: str) -> Iterator[Edit]:
    for m in ARMOUR.finditer(text):
        yield Edit(*m.span(), m[1].lower())
    for m in IDENTIFIER.finditer(text):
        yield Edit(*m.span(), "identifier")
    for m in TOKEN.finditer(text):
        if (said := _claims(m[1])) is not None:
            yield Edit(*m.span(), f"token {said}")
    for m in BINARY.finditer(text):
        start = m[1][:12]
        kinds = (kind for magic, kind in MAGIC.items() if _decoded(start).startswith(magic))
        if (kind := next(kinds, None)) is not None:
            yield Edit(*m.span(), kind)


def _claims(part: str) -> str | None:
    """What a token's middle part says, where it is JSON."""
    blob = _decoded(part + "=" * (-len(part) % 4))
    try:
        said = blob.decode()
        return said if isinstance(json.loads(said), dict) else None
    except (ValueError, RecursionError):
        return None


def _decoded(code: str) -> bytes:
    """In either alphabet of base64."""
    try:
        return base64.urlsafe_b64decode(code)
    except (binascii.Error, ValueError):
        return b""
