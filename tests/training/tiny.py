"""Models with random weights, small enough to be made for a test."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# As MPNet has them: what has the id of padding has no place among the tokens.
PLACED = ("[CLS]", "[PAD]", "[SEP]", "[UNK]")


def write_bert(folder: Path, known: Iterable[str], special: Iterable[str] = SPECIAL) -> Path:
    """A two-layer encoder of 64 dimensions, and a tokenizer of whole words in lower case."""
    vocabulary = [*special, *known]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        # Over 1,024 rows, so that the embedding table is quantised like a real one.
        vocab_size=max(1100, len(vocabulary)),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def write_mpnet(folder: Path, known: Iterable[str]) -> Path:
    """The same of MPNet's kind: no token types, relative positions, large enough to matter."""
    write_bert(folder, known, PLACED)
    size = BertConfig.from_pretrained(folder)
    config = MPNetConfig(
        vocab_size=size.vocab_size,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=66,
    )
    model = MPNetModel(config)
    torch.nn.init.normal_(model.encoder.relative_attention_bias.weight)
    model.save_pretrained(folder)
    return folder


def write_causal(folder: Path, known: Iterable[str]) -> Path:
    """Write model and word-level tokenizer, whose turns end as SmolLM2's do, into ``folder``."""
    words = ["<unk>", "<|im_start|>", "<|im_end|>", *known]
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
