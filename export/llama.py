"""Where a decoder's weights come from: a GGUF file or a folder of safetensors, without torch.

Reading them here rather than through transformers keeps what ``make run`` has to install for a
reasoner at 30 MB instead of some gigabytes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from export.decoder import DecoderShape
from tamis.bundle import BundleError

# llama.cpp's names of a layer's weights, and transformers'.
LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# GGUF's mark of a control token.
CONTROL: Final = 3


@dataclass(frozen=True, slots=True)
class Llama:
    """A decoder as its makers published it: config as transformers names it, weights, tokenizer."""

    config: Mapping[str, Any]
    weights: dict[str, NDArray[np.float32]]
    tokenizer: str
    """What belongs into ``tokenizer.json``."""

    def shape(self, positions: int) -> DecoderShape:
        """Its shape, for texts of so many tokens."""
        return DecoderShape.of(self.config, positions)


def load(path: Path, weights: str) -> Llama:
    """Read a model from its folder.

    Raises:
        BundleError: where a file is missing or not understood.
    """
    try:
        if weights.endswith(".gguf"):
            return _from_gguf(path / weights)
        return _from_folder(path, weights)
    except (OSError, KeyError, ValueError) as error:
        raise BundleError(f"{path}: {type(error).__name__}: {error}") from None


def merge(weights: dict[str, NDArray[np.float32]], adapter: Path) -> None:
    """Add a LoRA adapter, as peft writes it, to the weights it was trained on.

    Raises:
        BundleError: for what is not plain LoRA on linear layers, or fits another base.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    odd = {
        "peft_type": config.get("peft_type") != "LORA",
        "use_dora": config.get("use_dora"),
        "fan_in_fan_out": config.get("fan_in_fan_out"),
        "bias": config.get("bias", "none") != "none",
        "modules_to_save": config.get("modules_to_save"),
        "rank_pattern": config.get("rank_pattern"),
        "alpha_pattern": config.get("alpha_pattern"),
    }
    if stray := [name for name, found in odd.items() if found]:
        raise BundleError(f"{adapter}: {stray[0]} = {config.get(stray[0])!r} is not supported")
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    parts = load_file(adapter / "adapter_model.safetensors")
    merged = 0
    for name, down in parts.items():
        stem, found, _ = name.partition(".lora_A")
        if not found:
            continue
        target = stem.removeprefix("base_model.model.") + ".weight"
        up = parts.get(f"{stem}.lora_B.weight")
        if up is None or target not in weights or weights[target].shape != (len(up), down.shape[1]):
            raise BundleError(f"{adapter}: {name} fits no weight of the base")
        weights[target] = weights[target] + scale * (up.astype(np.float32) @ down)
        merged += 2
    if not merged or merged != len(parts):
        raise BundleError(f"{adapter}: {len(parts) - merged} weights are not of LoRA's A and B")


def _from_folder(path: Path, weights: str) -> Llama:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    tokenizer = (path / "tokenizer.json").read_text(encoding="utf-8")
    found = {n: w.astype(np.float32) for n, w in load_file(path / weights).items()}
    return Llama(config, found, tokenizer)


def _from_gguf(path: Path) -> Llama:
    reader = gguf.GGUFReader(path)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    if field("general.architecture") != "llama":
        raise ValueError(f"architecture {field('general.architecture')!r} is not supported")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "hidden_size": field("llama.embedding_length"),
        "vocab_size": field("llama.vocab_size"),
        "max_position_embeddings": field("llama.context_length"),
        "rope_theta": field("llama.rope.freq_base"),
        "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
    }
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }
    weights = {}
    for tensor in reader.tensors:
        # Packed rows unpack into numpy's order, which is the reverse of GGUF's.
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = str(tensor.name)
        if name in OUTER:
            weights[OUTER[name]] = value
            continue
        _, layer, part, _ = name.split(".")
        if part in heads:
            value = _halves(value, heads[part])
        weights[f"model.layers.{layer}.{LAYER[part]}.weight"] = value
    return Llama(config, weights, _tokenizer(field))


def _halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of rotary pairs side by side, as llama.cpp keeps them, to one half behind the other."""
    paired = weight.reshape(heads, -1, 2, weight.shape[-1])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(weight.shape))


def _tokenizer(field: Callable[[str], Any]) -> str:
    """The byte-level BPE of SmolLM, which keeps digits apart."""
    if (kind := field("tokenizer.ggml.pre")) != "smollm":
        raise ValueError(f"tokenizer {kind!r} is not supported")
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({t: n for n, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, field("tokenizer.ggml.token_type"), strict=True)
    controls = [token for token, kind in kinds if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in controls])
    return str(tokenizer.to_str())
