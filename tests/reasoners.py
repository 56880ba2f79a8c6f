"""A tiny random decoder and its bundle, made within a second."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from tamis.reasoner.protocol import END, START

LAYERS, HIDDEN = 2, 64


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the two control tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: n for n, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (START, END)])
    return tokenizer


def tiny_llama(**more: Any) -> LlamaForCausalLM:
    """Random weights, large enough that logits differ clearly."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1100,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_theta=10_000.0,
        initializer_range=0.2,
        tie_word_embeddings=True,
        attn_implementation="eager",
        **more,
    )
    return LlamaForCausalLM(config).eval()


def write_base(folder: Path) -> LlamaForCausalLM:
    """A base as hubs hold them: config, weights, tokenizer."""
    model = tiny_llama()
    model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    return model
