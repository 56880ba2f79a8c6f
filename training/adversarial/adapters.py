"""LoRA adapters: put on a base, saved, found again; and what both ways of tuning have in common."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import constants
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.trainer_utils import get_last_checkpoint

from training.classifier.inference import device
from training.synthesis.generator import REPORT, SETTINGS

CHECKPOINTS: Final = "checkpoints"
# Attention and feed-forward products; never the embeddings, which are tied to the output.
LORA_ON: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


class TuningError(RuntimeError):
    """A run that cannot start or go on; the message says what to put right."""


def put_on(model: Any, base: str, init: str | None, rank: int) -> Any:
    """A model with a trainable adapter: a new one, or one to go on from.

    ``base`` is the name that the adapter will say it belongs to.
    """
    if init:
        adapted: Any = PeftModel.from_pretrained(model, init, is_trainable=True)
    else:
        lora = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=list(LORA_ON), task_type="CAUSAL_LM"
        )
        adapted = get_peft_model(model, lora)
    # Else the folder that a packaged base was unpacked to.
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


def save(model: Any, out: Path) -> None:
    """Write the trained adapter itself: no checkpoint's frozen copies, no card of the library's."""
    model.save_pretrained(out, selected_adapters=["default"], save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)


def last_checkpoint(out: Path) -> str | None:
    """The checkpoint that an interrupted run goes on from."""
    folder = out / CHECKPOINTS
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def finished(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a finished run with these settings; None where the run is to be done.

    Raises:
        TuningError: where ``out`` holds a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    begun = out / SETTINGS
    if begun.exists():
        there = json.loads(begun.read_text(encoding="utf-8"))
        changed = sorted(key for key in settings if settings[key] != there.get(key))
        if changed:
            raise TuningError(
                f"{out} holds a run with other settings ({', '.join(changed)}); use another --out"
            )
    begun.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
    report = out / REPORT
    return json.loads(report.read_text(encoding="utf-8")) if report.exists() else None


def arguments(seed: int) -> dict[str, Any]:
    """Arguments of trl's trainers that have nothing to do with what is trained."""
    # trl tells its makers which trainer runs where, unless it is told not to.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    on = device().type
    return {
        "use_cpu": on == "cpu",
        "bf16": on != "cpu" or torch.cpu._is_avx512_bf16_supported(),
        # It would save memory that is there, for a third more time.
        "gradient_checkpointing": False,
        "dataloader_pin_memory": on != "cpu",
        "report_to": "none",
        "seed": seed,
    }
