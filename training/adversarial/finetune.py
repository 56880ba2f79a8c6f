"""The stage ``tamis train generator``: a causal language model, tuned on hard samples by LoRA.

trl's SFTTrainer does the work: it computes logits of taught tokens alone, of which a vocabulary of
49,152 makes the dearest part of a step, and it stops, resumes and evaluates.
"""

import json
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback
from trl import SFTConfig, SFTTrainer

from training.adversarial import adapters
from training.adversarial.adapters import TuningError
from training.adversarial.lessons import Lesson, lessons
from training.classifier.inference import device, keep_memory
from training.datasets.schema import data_files, fingerprint, read_rows
from training.synthesis.generator import DEFAULT, REPORT, base_of, load_causal, render
from training.synthesis.seeds import load_seeds

EXAMPLES: Final = 20
# Rows at a time through the model. Sixteen at once peaked at 7.6 GB: every adapted product keeps
# its input twice, in bf16 for the weights and in fp32 for the adapter.
MICRO: Final = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides an adapter, besides the code and the rows."""

    base: str = DEFAULT
    # An adapter to go on from, instead of a new one.
    init: str | None = None
    name: str = "sft"
    epochs: float = 3.0
    lr: float = 2e-4
    batch: int = 16
    rank: int = 16
    # Longer rows are left out, not cut: a generator that never sees an end never ends.
    max_tokens: int = 64
    # The held-out loss is taken so often an epoch; training stops when it has not fallen for
    # ``patience`` of them.
    checks: int = 4
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs <= 0:
            raise TuningError("--epochs must be above 0")
        if self.batch < 1 or self.rank < 1 or self.max_tokens < 2:
            raise TuningError("--batch and --rank must be at least 1, --max-tokens at least 2")


def finetune(rows: Path, out: Path, settings: Settings) -> dict[str, Any]:
    """Write the adapter, ``report.json``, ``metrics.jsonl`` and ``loss.png`` to ``out``.

    Interrupted, the same call goes on from the last check; finished, it returns the report.

    Raises:
        FileNotFoundError, SchemaError: where the rows cannot be read.
        TuningError: where there is too little to learn from, or ``out`` holds another run.
        GeneratorError: for an ``init`` that is no adapter.
    """
    began = time.monotonic()
    learnt_from = fingerprint([row for path in data_files(rows) for row in read_rows(path)])
    about = asdict(settings) | {
        "init": settings.init and Path(settings.init).name,
        "rows_sha256": learnt_from,
    }
    done = adapters.finished(out, about)
    if done is not None:
        return done
    keep_memory()
    base = base_of(Path(settings.init)) if settings.init else settings.base
    found, model, tokenizer = load_causal(base)
    given = lessons(rows, load_seeds())
    taught = [
        lesson for lesson in given.taught if _length(lesson, tokenizer) <= settings.max_tokens
    ]
    train = [lesson for lesson in taught if not lesson.held_out]
    held = [lesson for lesson in taught if lesson.held_out]
    if len(train) < settings.batch or not held:
        raise TuningError(
            f"{rows}: {len(train)} rows to learn from and {len(held)} held out; needs at least "
            f"{settings.batch} and 1"
        )
    torch.manual_seed(settings.seed)
    model = adapters.put_on(model, base, settings.init, settings.rank)
    steps = max(1, round(settings.epochs * len(train) / settings.batch))
    every = max(1, round(len(train) / settings.batch / settings.checks))
    trainer = SFTTrainer(
        model=model,
        args=_arguments(out, settings, steps, every),
        train_dataset=_tokenised(train, tokenizer),
        eval_dataset=_tokenised(held, tokenizer),
        processing_class=tokenizer,
        callbacks=[EarlyStoppingCallback(settings.patience)],
    )
    trainer.train(resume_from_checkpoint=adapters.last_checkpoint(out))
    adapters.save(trainer.model, out)
    curve = [
        {key: entry[key] for key in ("step", "loss", "eval_loss") if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry or "eval_loss" in entry
    ]
    with (out / "metrics.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in curve)
    draw(out / "loss.png", curve)
    report = {
        "name": settings.name,
        "settings": about,
        "base": {"name": found.name, "licence": found.licence, "sha256": found.sha256},
        "rows": {
            "train": len(train),
            "held_out": len(held),
            "unsafe": sum(lesson.label for lesson in taught),
            "left_out": dict(given.left_out) | {"too long": len(given.taught) - len(taught)},
            "examples": [lesson.id for lesson in train[:EXAMPLES]],
        },
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": {"planned": steps, "done": trainer.state.global_step},
        "held_out_loss": {
            "before": next(e["eval_loss"] for e in curve if "eval_loss" in e),
            "best": trainer.state.best_metric,
        },
        "best_step": trainer.state.best_global_step,
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device": str(device()),
    }
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _length(lesson: Lesson, tokenizer: Any) -> int:
    return len(tokenizer(lesson.text, add_special_tokens=False)["input_ids"]) + 1


def _tokenised(given: Sequence[Lesson], tokenizer: Any) -> Dataset:
    """Tokens and labels; what is asked is not learnt, the end of the turn is."""
    rows = []
    for lesson in given:
        asked = tokenizer(render(tokenizer, lesson.prompt), add_special_tokens=False)["input_ids"]
        told = tokenizer(lesson.text, add_special_tokens=False)["input_ids"]
        told = [*told, tokenizer.eos_token_id]
        rows.append({"input_ids": asked + told, "labels": [-100] * len(asked) + told})
    return Dataset.from_list(rows)


def _arguments(out: Path, settings: Settings, steps: int, every: int) -> SFTConfig:
    micro = math.gcd(settings.batch, MICRO)
    return SFTConfig(
        output_dir=str(out / adapters.CHECKPOINTS),
        max_steps=steps,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        weight_decay=0.0,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        # Texts of like length together: half of a batch in random order is padding.
        group_by_length=True,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_steps=max(1, every // 4),
        max_length=None,
        **adapters.arguments(settings.seed),
    )


def draw(path: Path, curve: Sequence[dict[str, float]]) -> None:
    """Training and held-out loss by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    for key, name in (("loss", "training"), ("eval_loss", "held out")):
        points = [(entry["step"], entry[key]) for entry in curve if key in entry]
        axes.plot(*zip(*points, strict=True), label=name) if points else None
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token, nats")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)
