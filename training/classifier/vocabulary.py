"""A vocabulary cut to the languages at hand: the tokenizer's ids and the table's rows together.

XLM-R's 250,000 pieces are four fifths of multilingual-e5-small. What a few dozen languages need is
known by counting: the most frequent pieces of each one's words, and every character of their
scripts as a piece by itself, so that no word of theirs is unknown, however rare.
"""

import json
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tamis.tokens import plain_tokenizer
from training.classifier.e5 import SPACE

# ISO 639-1 → the scripts that it is written in, as the names of their characters begin.
LANGUAGES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it"), ("LATIN",)),
    **dict.fromkeys(("nb", "nl", "pl", "pt", "ro", "sv", "tr", "vi"), ("LATIN",)),
    **dict.fromkeys(("bg", "ru", "uk"), ("CYRILLIC",)),
    **dict.fromkeys(("ar", "fa"), ("ARABIC",)),
    "bn": ("BENGALI",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL",),
    "zh": ("CJK",),
}
KEPT: Final = Path(__file__).with_name("multilingual30.bits")
TABLE: Final = "embeddings.word_embeddings.weight"
CHUNK: Final = 10_000


def counts(tokenizer: Tokenizer, texts: Iterable[tuple[str, float]]) -> np.ndarray:
    """How often each piece occurs in (text, how often it occurs)."""
    found = np.zeros(tokenizer.get_vocab_size())
    left = iter(texts)
    while chunk := list(islice(left, CHUNK)):
        encoded = tokenizer.encode_batch_fast([t for t, _ in chunk], add_special_tokens=False)
        for encoding, (_, weight) in zip(encoded, chunk, strict=True):
            np.add.at(found, encoding.ids, weight)
    return found


def covering(found: np.ndarray, share: float) -> set[int]:
    """The most frequent pieces, as many as it takes to be this share of all that occur."""
    order = np.argsort(-found, kind="stable")
    enough = int(np.searchsorted(np.cumsum(found[order]), share * found.sum())) + 1
    return {int(piece) for piece in order[:enough] if found[piece] > 0}


def alphabet(tokenizer: Tokenizer, languages: Collection[str]) -> set[int]:
    """The commands, and all pieces of one character that is a sign or of the languages' scripts."""
    scripts = tuple({script for name in languages for script in LANGUAGES[name]})

    def wanted(piece: str) -> bool:
        bare = piece.removeprefix(SPACE) or piece
        letter = unicodedata.category(bare[0])[0] in "LM"
        return len(bare) == 1 and (
            not letter or unicodedata.name(bare, "").startswith((*scripts, "COMBINING"))
        )

    commands = set(tokenizer.get_added_tokens_decoder())
    return commands | {at for piece, at in tokenizer.get_vocab().items() if wanted(piece)}


def cut(source: Path, kept: Iterable[int], out: Path) -> None:
    """Write the base of a folder with these pieces of its lattice alone, in the order they had.

    Raises:
        ValueError: where the tokenizer is no lattice of pieces, or a command would go.
    """
    ids = sorted(set(kept))
    now = {old: new for new, old in enumerate(ids)}
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    if model["type"] != "Unigram":
        raise ValueError(f"{source.name}: the tokenizer is {model['type']}, not Unigram")
    gone = [t["content"] for t in tokenizer["added_tokens"] if t["id"] not in now]
    if gone or model["unk_id"] not in now:
        raise ValueError(f"{source.name}: {', '.join(gone) or 'the unknown piece'} must be kept")
    model["vocab"] = [model["vocab"][old] for old in ids]
    model["unk_id"] = now[model["unk_id"]]
    for token in tokenizer["added_tokens"]:
        token["id"] = now[token["id"]]
    for token in (tokenizer["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [now[old] for old in token["ids"]]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["vocab_size"] = len(ids)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if config.get(name) is not None:
            config[name] = now[config[name]]
    weights = load_file(source / "model.safetensors")
    weights[TABLE] = weights[TABLE][ids]
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(tokenizer, ensure_ascii=False)
    (out / "tokenizer.json").write_text(text, encoding="utf-8")


def cut_to(
    source: Path, files: Iterable[tuple[str, Path]], share: float, out: Path
) -> tuple[int, int]:
    """Cut to what covers this share of each (language, file of texts), and their alphabets.

    A line is a text, or a word and, behind a tab, how often it occurs. Returns the number of
    pieces before and after.

    Raises:
        ValueError: where a line's number is none, or the base cannot be cut.
    """
    tokenizer = plain_tokenizer(source / "tokenizer.json")
    found: dict[str, np.ndarray] = {}
    for language, file in files:
        seen = counts(tokenizer, _lines(file))
        found[language] = found.get(language, 0) + seen
    kept = alphabet(tokenizer, found)
    for seen in found.values():
        kept |= covering(seen, share)
    cut(source, kept, out)
    return tokenizer.get_vocab_size(), len(kept)


def _lines(file: Path) -> Iterator[tuple[str, float]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            text, _, often = line.rstrip("\n").partition("\t")
            yield text, float(often or 1)


def read_kept(file: Path = KEPT) -> list[int]:
    """The ids of a choice, one bit for each; by default that for the thirty ``LANGUAGES``."""
    bits = np.unpackbits(np.frombuffer(file.read_bytes(), dtype=np.uint8))
    return [int(at) for at in np.flatnonzero(bits)]
