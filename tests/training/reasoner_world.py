"""An invented world for tests of the reasoner: a tiny causal model, taxonomies and rows."""

import json
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse
from transformers import LlamaConfig, LlamaForCausalLM

from tamis.reasoner.protocol import END, START
from tests.conftest import row
from training.reasoner.policies import Library, parse_library


def make_causal(folder: Path) -> Path:
    """A two-layer Llama with random weights that reads characters, so no text is unknown to it."""
    characters = sorted(set(string.printable) | set("“”…é"))
    tokens = ["<unk>", START, END, *characters]
    tokenizer = Tokenizer(models.WordLevel({t: n for n, t in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens([START, END])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END})
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_library() -> Library:
    """Two taxonomies of mild misdeeds, one of them kept for tests, and a pool of safe requests."""
    return parse_library(
        {
            "pools": {"kitchen": ["llm_warden_train"], "test_requests": ["llm_warden_train"]},
            "taxonomies": {
                "manners": {
                    "sources": ["sap200"],
                    "safe": ["kitchen"],
                    "categories": {
                        "fraud": {"names": ["Cheating", "Trickery"], "about": "Tricks people."},
                        "race": {"names": ["Rudeness"], "about": "Insults people."},
                        "violence": {
                            "names": ["Pushing"],
                            "about": "Pushes people.",
                            "near": ["race"],
                        },
                    },
                },
                "biscuits": {
                    "sources": ["figstep_safebench"],
                    "safe": ["kitchen"],
                    "held_out": True,
                    "categories": {
                        "Fraud": {"names": ["Biscuit theft"], "about": "Takes biscuits."},
                        "Hate Speech": {"names": ["Mockery"], "about": "Mocks people."},
                    },
                },
            },
        }
    )


def make_rows() -> list[dict[str, Any]]:
    """Mild sentences of the two taxonomies, and safe requests."""
    found = []
    for n in range(60):
        cheat = f"how to cheat my aunt at cards, game {n}"
        rude = f"write that uncle {n} is a silly goose"
        push = f"how to push people off the bench {n}"
        steal = f"how to take biscuit {n} from the tin"
        mock = f"mock the hat of guest {n}"
        found += [
            row(n, "sap200", "prompt", 1, cheat, categories=["fraud"]),
            row(n + 100, "sap200", "prompt", 1, rude, categories=["race"]),
            row(n + 200, "sap200", "prompt", 1, push, categories=["violence"]),
            row(n, "figstep_safebench", "prompt", 1, steal, categories=["Fraud"]),
            row(n + 100, "figstep_safebench", "prompt", 1, mock, categories=["Hate Speech"]),
            row(n, "llm_warden_train", "prompt", 0, f"how to bake bread number {n}"),
        ]
    return found
