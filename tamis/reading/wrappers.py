"""Words around a code that only ask for its decoding: ``Decode this and do what it says: …``.

A classifier takes the request for an attack, whatever the code says: 53 of 60 harmless messages
were flagged behind it. Once the code is read, there is nothing more in such a request; only words
of a closed list count, so that whatever else is asked is judged with it.
"""

import re
from typing import Final

from tamis.reading.lexicon import LAXER, prose
from tamis.reading.text import Edit, Text

WORD: Final = re.compile(r"[^\W_]+")
# Of decoding, of grammar, and of what is to be done then; none that could ask for a model's own
# instructions ("show me your prompt").
EMPTY: Final = frozenset(
    WORD.findall(
        """
        decode decoded decodes decoding decipher decrypt decrypted translate convert read unscramble
        encoded encrypted base64 base32 base b64 64 32 16 hex hexadecimal binary ascii morse rot13
        rot47 caesar cipher code codes encoding utf8 unicode letters numbers
        a an the this that it its is are was be i you me we us and or then so but of to in into from
        with for on as by out at just only first now here below next following after
        can could would will please want need should let
        text string message messages sentence content request question task instruction instructions
        command result answer response reply english plain normal language
        do does what says said say asks contains means mean tell explain follow execute obey perform
        carry complete respond write
        """
    )
)
SIGN: Final = re.compile(r"[^\w\s]")
SIGNS: Final = 12
# Of fewer a name is made, or a password.
FEWEST: Final = 3


def unwrapped(said: Text, exact: bool) -> Text | None:
    """The message alone, where all that stood in plain words around its code asks to decode it.

    Whatever is not ``exact`` has to be English, or else was decoded by chance.
    """
    decoded = _decoded(said)
    if not any(decoded) or all(decoded):
        return None
    around = "".join(" " if new else char for char, new in zip(said.text, decoded, strict=True))
    wrapping = WORD.findall(around.lower())
    if not wrapping or not EMPTY.issuperset(wrapping):
        return None
    # Signs and pictures may be a code of their own.
    if not around.isascii() or len(SIGN.findall(around)) > SIGNS:
        return None
    edits = [Edit(*m.span(), "") for m in re.finditer(b"\0+", bytes(decoded))]
    core = said.edit(edits)
    message = core.text.strip()
    told = exact or prose(message) >= LAXER
    return core if told and len(message.split()) >= FEWEST else None


def _decoded(said: Text) -> bytearray:
    """Of each character whether any step gave it."""
    if said.parent is None:
        return bytearray(len(said.text))
    before, found, at = _decoded(said.parent), bytearray(), 0
    for start, end, text in said.edits:
        found += before[at:start] + b"\1" * len(text)
        at = end
    return found + before[at:]
