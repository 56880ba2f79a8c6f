"""What a text says: obfuscated writing folded, decoded and mapped back; one kind a module."""

from tamis.reading.language import Language, language
from tamis.reading.reader import TRANSFORMS, UNREAD_SCRIPT, UNREADABLE, Reading, read
from tamis.reading.text import Edit, Text

__all__ = [
    "TRANSFORMS",
    "UNREADABLE",
    "UNREAD_SCRIPT",
    "Edit",
    "Language",
    "Reading",
    "Text",
    "language",
    "read",
]
