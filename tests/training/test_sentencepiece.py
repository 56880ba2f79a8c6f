"""A GGUF file's SentencePiece pieces and scores become a tokenizer that merges as they say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tamis.tokens import plain_tokenizer
from training.classifier import inference, sentencepiece

CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
OWN = ["\n\n", "  ", "<s>", "</s>"]
# In the order of their merges, before the single characters.
MERGED = ["▁g", "oo", "▁goo", "se", "▁goose", "er", "go", "goo"]
OCTETS = [f"<0x{n:02X}>" for n in range(256)]
PIECES = [*CONTROLS, *OWN, *MERGED, *"▁abcdefghijklmnopqrstuvwxyz<>/_", *OCTETS]


@dataclass(frozen=True)
class Field:
    value: Any

    def contents(self) -> Any:
        return self.value


@pytest.fixture
def fields() -> dict[str, Field]:
    kinds = [3 if p in CONTROLS else 4 if p in OWN else 6 if p in OCTETS else 1 for p in PIECES]
    scores = [-1000.0 if k != 1 else -float(n) for n, k in enumerate(kinds)]
    values = {
        "model": "llama",
        "tokens": PIECES,
        "scores": scores,
        "token_type": kinds,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "unknown_token_id": 3,
    }
    return {f"tokenizer.ggml.{name}": Field(value) for name, value in values.items()}


@pytest.fixture
def plain(fields: dict[str, Field], tmp_path: Path) -> Tokenizer:
    sentencepiece.tokenizer(fields).save(str(tmp_path / "tokenizer.json"))
    return plain_tokenizer(tmp_path / "tokenizer.json")


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_pieces_merge_by_their_scores(plain: Tokenizer):
    assert tokens(plain, "a goose") == ["a", "▁goose"]
    assert tokens(plain, "goose") == ["goo", "se"]
    # "oo" is merged before "go" could be.
    assert tokens(plain, "ogoo") == ["o", "goo"]
    assert tokens(plain, "goer") == ["go", "er"]


def test_words_and_offsets_are_those_of_the_text(plain: Tokenizer):
    encoding = plain.encode("a goose\n\nran", add_special_tokens=False)
    assert encoding.tokens == ["a", "▁goose", "\n\n", "r", "a", "n"]
    assert encoding.word_ids == [0, 1, 2, 3, 3, 3]
    assert encoding.offsets[1] == (1, 7)


def test_commands_are_text_and_what_no_piece_covers_is_bytes(plain: Tokenizer):
    assert tokens(plain, "<eos>") == ["<", "e", "o", "s", ">"]
    assert tokens(plain, "<s>") == ["<", "s", ">"]
    assert tokens(plain, "ß") == ["<0xC3>", "<0x9F>"]


def test_windows_stand_between_bos_and_eos(plain: Tokenizer):
    shape = inference.shape_of(plain, max_tokens=16, overlap=4, context_tokens=4)
    assert (shape.cls, shape.sep) == (2, 1)


def test_only_such_files_are_taken_for_one(fields: dict[str, Field]):
    assert sentencepiece.is_sentencepiece(fields)
    assert not sentencepiece.is_sentencepiece({"tokenizer.ggml.model": Field("gpt2")})
    assert not sentencepiece.is_sentencepiece({})
