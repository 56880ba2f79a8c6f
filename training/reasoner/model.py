"""The reasoner while it is trained: a causal language model with a LoRA adapter, run on trees."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from tamis.reasoner.protocol import Format
from training.classifier import bases
from training.classifier.inference import device
from training.reasoner import attention
from training.reasoner.packing import Batch, Coder

DEFAULT: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
TARGETS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTER: Final = "adapter"
# What an export reads beside the adapter (``export.reasoner``).
ANSWERS: Final = "format.json"


class AdapterError(ValueError):
    """A folder that holds no adapter of this base."""


def half() -> torch.dtype:
    """bf16 where the hardware multiplies in it, else fp32."""
    on = device()
    fast = on.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def load_base(name: str = DEFAULT, dtype: torch.dtype | None = None) -> tuple[Any, Coder]:
    """The base and its coder, on the device.

    All weights are held in bf16 where that is fast: the base is frozen, and casting fp32 weights at
    every use (autocast) costs as much as the products themselves at this size.
    """
    base, path = bases.resolve(name)
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype or half(), attn_implementation="sdpa", **base.load_arguments()
    )
    model.config.use_cache = False
    return model.to(device()), Coder.of(bases.tokenizer_file(path))


def with_adapter(model: Any, rank: int, alpha: int) -> PeftModel:
    """A fresh adapter, in the base's precision."""
    return get_peft_model(model, lora(rank, alpha), autocast_adapter_dtype=False)


def with_trained(model: Any, folder: Path) -> PeftModel:
    """An adapter that was trained before, to be trained on, in the base's precision.

    Raises:
        AdapterError: where the folder has none.
    """
    made: PeftModel = PeftModel.from_pretrained(
        model, str(adapter_of(folder)), is_trainable=True, autocast_adapter_dtype=False
    )
    return made.to(next(model.parameters()).dtype)


def lora(rank: int, alpha: int) -> LoraConfig:
    """An adapter on all linear layers."""
    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )


def adapter_of(folder: Path) -> Path:
    """The adapter in a checkpoint's folder, or the folder that is one.

    Raises:
        AdapterError: where there is none.
    """
    found = folder / ADAPTER if (folder / ADAPTER).is_dir() else folder
    if not (found / "adapter_config.json").exists():
        raise AdapterError(f"{folder}: no adapter_config.json here, nor under {ADAPTER}/")
    return found


def form_of(folder: Path | None) -> Format:
    """The form of answers that an adapter was taught; the default where there is none."""
    file = None if folder is None else adapter_of(folder) / ANSWERS
    return Format(**json.loads(file.read_text())) if file and file.exists() else Format()


def taught(folder: Path) -> frozenset[str] | None:
    """The taxonomies that an adapter was trained on, by its run's report; None where none says."""
    folders = [folder] if (folder / ADAPTER).is_dir() else [folder, folder.parent]
    report = next((f for place in folders if (f := place / "report.json").exists()), None)
    found = None if report is None else json.loads(report.read_text()).get("taxonomies")
    return None if found is None else frozenset(found)


def taught_by(taxonomies: Iterable[str], init: str | None) -> list[str] | None:
    """What an adapter was trained on that went on from another one: also all that this one was.

    None where that is not known: a list that lacked some would pass for whole.
    """
    before = frozenset[str]() if init is None else taught(Path(init))
    return None if before is None else sorted({*taxonomies, *before})


def save_adapter(
    model: PeftModel,
    base: str,
    out: Path,
    name: str = "default",
    folder: str = ADAPTER,
    form: Format | None = None,
) -> None:
    """Write an adapter of the model as ``out/folder``; its files appear when they are complete."""
    # Where the base lay is nobody's business; which one it was is.
    model.peft_config[name].base_model_name_or_path = _public(base)
    with tempfile.TemporaryDirectory(dir=out) as partial:
        # No embeddings are trained; looking whether their number changed would ask the hub.
        model.save_pretrained(partial, selected_adapters=[name], save_embedding_layers=False)
        made = Path(partial) / name if name != "default" else Path(partial)
        (out / folder).mkdir(exist_ok=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (made / file).replace(out / folder / file)
    if form is not None:
        (out / folder / ANSWERS).write_text(json.dumps(asdict(form)) + "\n")


def _public(base: str) -> str:
    return Path(base).name if Path(base).is_dir() else base


def load_reasoner(base: str, adapter: Path | None) -> tuple[Any, Coder]:
    """A base, with an adapter merged into it where one is given.

    Raises:
        AdapterError: where the folder has none.
    """
    model, coder = load_base(base)
    if adapter is not None:
        # Merged in fp32: small updates would drown in the rounding of bf16 weights.
        found = PeftModel.from_pretrained(model.float(), str(adapter_of(adapter)))
        merged = found.merge_and_unload()
        model = merged.to(half())
    return model.eval(), coder


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states (T, D) of trees. The head is left to the caller.

    Of a batch's tokens one in three is predicted, and the head is a fifth of the model: over all
    tokens it took 37 % of a step.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    on = next(inner.parameters()).device
    config = inner.config
    usual, config._attn_implementation = config._attn_implementation, attention.NAME
    try:
        states = inner.model(
            input_ids=torch.from_numpy(batch.ids).to(on)[None],
            position_ids=torch.from_numpy(batch.positions).to(on)[None],
            spans=batch.spans,
            use_cache=False,
        )
    finally:
        config._attn_implementation = usual
    found: Tensor = states.last_hidden_state[0]
    return found


def log_probabilities(model: Any, states: Tensor, at: Tensor, ids: Tensor) -> Tensor:
    """Log P of ``ids`` (N,) after the states at the places ``at`` (N,)."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    logits = inner.lm_head(states[at]).float()
    return logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(dim=1)
