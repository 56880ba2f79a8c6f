"""The tokenizer of a GGUF file that was made with SentencePiece's byte-pair encoding (Gemma's).

transformers reads such a file's scores as if they were a lattice's, and words fall into letters.
The score of a piece is the rank of the merge that makes it, from which the
merges can be written down again.
"""

from collections.abc import Sequence
from typing import Any, Final

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

SPACE: Final = "▁"
# Kinds of pieces in a GGUF file.
NORMAL, CONTROL, OWN = 1, 3, 4


def is_sentencepiece(fields: Any) -> bool:
    """Whether the fields of a GGUF file describe such a tokenizer."""
    kind = fields.get("tokenizer.ggml.model")
    return kind is not None and kind.contents() == "llama"


def tokenizer(fields: Any) -> Tokenizer:
    """The tokenizer that the fields of a GGUF file describe; texts stand between bos and eos."""

    def read(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents()

    pieces, scores, kinds = (read(name) for name in ("tokens", "scores", "token_type"))
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    merges = _merges(pieces, scores, kinds)
    made = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token=pieces[read("unknown_token_id")],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Replace(" ", SPACE)
    # No piece goes on behind a blank: words can be merged one by one, and evidence be told by word.
    made.pre_tokenizer = pre_tokenizers.Split(Regex(f"{SPACE}+"), "merged_with_next")
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    added = [(AddedToken(p, normalized=False), k) for p, k in zip(pieces, kinds, strict=True)]
    made.add_special_tokens([token for token, kind in added if kind == CONTROL])
    made.add_tokens([token for token, kind in added if kind == OWN])
    bos, eos = (pieces[read(f"{name}_token_id")] for name in ("bos", "eos"))
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} $B {eos}",
        special_tokens=[(bos, vocabulary[bos]), (eos, vocabulary[eos])],
    )
    return made


def _merges(
    pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]
) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, those of the best piece first."""
    normal = {p: s for p, s, k in zip(pieces, scores, kinds, strict=True) if k == NORMAL}
    ranked = sorted(normal, key=lambda piece: -normal[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
