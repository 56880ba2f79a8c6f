"""Fine-tune a base into the classifier: one loop, resumable, deterministic given a seed."""

import ctypes
import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from tamis.windows import WindowShape
from training.classifier import bases, calibration
from training.classifier.calibration import Calibration
from training.classifier.model import GuardClassifier
from training.datasets import batches, feedback, mixing
from training.datasets.batches import INPUTS, UNKNOWN, Batch, Example
from training.datasets.registry import HEADS, QUESTIONS
from training.datasets.schema import Row, fingerprint
from training.evaluation.metrics import average_precision


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a checkpoint, besides the code and the data."""

    base: str = bases.DEFAULT
    variant: mixing.Variant = "permissive"
    # A finished checkpoint to go on from, instead of the bare base.
    init: str | None = None
    epochs: float = 2.0
    batch_tokens: int = 4096
    encoder_lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06
    # A row of a rich taxonomy has up to nine known categories but only one overall label.
    category_weight: float = 0.2
    seed: int = 0
    max_tokens: int = 256
    overlap: int = 64
    context_tokens: int = 96
    # Word vectors stay as pretrained: words that the training data lacks keep their meaning next
    # to those it has, and half of the optimiser's work is saved.
    train_embeddings: bool = False
    check_every: int = 500


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def autocast(on: torch.device) -> Any:
    """bf16 where the hardware multiplies in it (2.2 times the steps/s on an AVX512-BF16 CPU)."""
    fast = on.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(on.type, torch.bfloat16, enabled=fast)


def to_tensors(batch: Batch, on: torch.device) -> dict[str, torch.Tensor]:
    """The model's arguments, by name."""
    return {name: torch.from_numpy(getattr(batch, name)).to(on) for name in INPUTS}


def masked_loss(logits: torch.Tensor, labels: torch.Tensor, category_weight: float) -> torch.Tensor:
    """Binary cross-entropy over the known labels only, per row. logits, labels: (B, H)."""
    weight = torch.full((len(HEADS),), category_weight, device=logits.device)
    weight[: len(QUESTIONS)] = 1.0
    known = (labels != UNKNOWN) * weight
    each = binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
    return (each * known).sum() / len(labels)


@torch.inference_mode()
def predict(
    model: GuardClassifier, examples: list[Example], batch_tokens: int = 4096, fast: bool = True
) -> np.ndarray:
    """Logits of shape (rows, H): the highest over a row's windows, as in serving.

    ``fast=False`` computes in fp32, for calibration and parity.
    """
    model.eval()
    on = next(model.parameters()).device
    picks = [(i, window) for i, example in enumerate(examples) for window in example.windows]
    picks.sort(key=lambda pick: len(pick[1].ids))
    out = np.full((len(examples), len(HEADS)), -np.inf, dtype=np.float32)
    for batch in batches.by_tokens(picks, batch_tokens):
        with autocast(on) if fast else torch.autocast(on.type, enabled=False):
            scores = model(**to_tensors(batches.collate(batch, examples), on))
        np.maximum.at(out, [i for i, _ in batch], scores.logits.cpu().numpy())
    return out


def held_out_quality(rows: list[Row], examples: list[Example], logits: np.ndarray) -> float:
    """Mean average precision over (source, question) pairs that hold both labels.

    Only within one source does a label say where the boundary lies; across sources a model may
    simply recognise the source.
    """
    labels = np.stack([example.labels for example in examples])
    names = np.array([f"{row.source}/{row.target}" for row in rows])
    values = []
    for name in sorted(set(names)):
        for head in range(len(QUESTIONS)):
            known = (names == name) & (labels[:, head] != UNKNOWN)
            truth = labels[known, head]
            if min(truth.sum(), (1 - truth).sum()) >= 5:
                values.append(average_precision(truth, logits[known, head]))
    return float(np.mean(values))


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the kernel after every tensor.

    Page faults of activations of ever new shapes cost a third of a CPU step: 0.85 s against 0.54 s.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 256 * 2**20)
        mallopt(m_mmap_max, 0)


def train(data: Path, out: Path, recipe: Recipe) -> Path:
    """Train and write ``out/model.pt``, ``tokenizer.json`` and ``training.json``.

    Interrupted, the same call goes on from the last checkpoint in ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Its debugging aid of filling fresh memory with NaN costs two thirds of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    base, path = bases.resolve(recipe.base)
    model = GuardClassifier.from_base(path, len(HEADS), **base.load_arguments()).to(device())
    if recipe.init:
        model.load_state_dict(torch.load(Path(recipe.init) / "model.pt", weights_only=True))
    tokenizer = batches.plain_tokenizer(bases.tokenizer_file(path))
    shape = window_shape(tokenizer, recipe)

    rows, held = _rows(data, out, recipe)
    examples = batches.encode(rows, tokenizer, shape)
    held_examples = batches.encode(held, tokenizer, shape, batches.HELD_OUT_WINDOWS)
    chances = mixing.probabilities(rows)
    plan = [
        batch
        for n in range(math.ceil(recipe.epochs))
        for batch in batches.epoch(examples, chances, recipe.batch_tokens, recipe.seed + n)
    ]
    steps = math.ceil(len(plan) * recipe.epochs / math.ceil(recipe.epochs))
    optimizer, schedule = _optimizer(model, recipe, steps)

    start, best, seconds = 0, {"step": 0, "quality": -1.0}, 0.0
    resume = out / "last.pt"
    if resume.exists():
        state = torch.load(resume, map_location=device(), weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, best, seconds = state["step"], state["best"], state["seconds"]

    began = time.monotonic() - seconds
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=f"train {recipe.variant}")
    for step in bar:
        model.train()
        batch = batches.collate(plan[step], examples)
        with autocast(device()):
            scores = model(**to_tensors(batch, device()))
        labels = torch.from_numpy(batch.labels).to(device())
        loss = masked_loss(scores.logits, labels, recipe.category_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % recipe.check_every and step + 1 < steps:
            continue
        quality = held_out_quality(held, held_examples, predict(model, held_examples))
        bar.write(f"step {step + 1}: held-out mean average precision {quality:.4f}")
        if quality > best["quality"]:
            best = {"step": step + 1, "quality": quality}
            torch.save(model.state_dict(), out / "model.pt")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "step": step + 1,
                "best": best,
                "seconds": time.monotonic() - began,
            },
            resume,
        )

    tokenizer.save(str(out / "tokenizer.json"))
    report = {
        # Where a checkpoint lay is nobody's business; which one it was is.
        "recipe": asdict(recipe) | {"init": recipe.init and Path(recipe.init).name},
        "base": {"name": base.name, "licence": base.licence, "sha256": base.sha256},
        "heads": list(HEADS),
        "rows": {
            "train": len(rows),
            "held_out": len(held),
            "feedback": sum(row.licence == feedback.LICENCE for row in rows + held),
        },
        "data_sha256": fingerprint(rows + held),
        "steps": steps,
        "best": best,
        "seconds": round(time.monotonic() - began),
        "device": str(device()),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return out


def calibrate(data: Path, checkpoint: Path) -> list[Calibration]:
    """Calibrate a finished checkpoint on its held-out slice, and write ``calibration.json``."""
    keep_memory()
    report = json.loads((checkpoint / "training.json").read_text())
    recipe = Recipe(**report["recipe"])
    model = load_model(checkpoint).to(device())
    tokenizer = batches.plain_tokenizer(checkpoint / "tokenizer.json")
    _, held = _rows(data, checkpoint, recipe)
    shape = window_shape(tokenizer, recipe)
    examples = batches.encode(held, tokenizer, shape, batches.HELD_OUT_WINDOWS)
    logits = predict(model, examples, fast=False)
    found = calibration.calibrate(held, np.stack([e.labels for e in examples]), logits)
    text = json.dumps(calibration.as_json(found), indent=2)
    (checkpoint / "calibration.json").write_text(text + "\n")
    return found


def _rows(data: Path, checkpoint: Path, recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """(train, held out): the data, and the feedback that this run began with."""
    return mixing.split(mixing.load(data, recipe.variant, checkpoint / feedback.SNAPSHOT))


def load_model(checkpoint: Path) -> GuardClassifier:
    """The trained model, in evaluation mode on the CPU."""
    report = json.loads((checkpoint / "training.json").read_text())
    base, path = bases.resolve(report["recipe"]["base"])
    model = GuardClassifier.from_base(path, len(report["heads"]), **base.load_arguments())
    state = torch.load(checkpoint / "model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    return model.eval()


def window_shape(tokenizer: Tokenizer, recipe: Recipe) -> WindowShape:
    """Window sizes of the recipe with the tokenizer's own special tokens.

    Raises:
        ValueError: where the tokenizer has none that can open and close a text.
    """

    def first_of(*names: str) -> int:
        ids = [tokenizer.token_to_id(name) for name in names]
        try:
            return next(i for i in ids if i is not None)
        except StopIteration:
            raise ValueError(f"the tokenizer has none of {', '.join(names)}") from None

    return WindowShape(
        cls=first_of("[CLS]", "<s>", "<|im_start|>", "<|endoftext|>"),
        sep=first_of("[SEP]", "</s>", "<|im_end|>", "<|endoftext|>"),
        max_tokens=recipe.max_tokens,
        overlap=recipe.overlap,
        context_tokens=recipe.context_tokens,
    )


def _optimizer(
    model: GuardClassifier, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up and decay; no weight decay on biases and norms."""
    if not recipe.train_embeddings:
        model.encoder.get_input_embeddings().requires_grad_(False)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = recipe.encoder_lr if name.startswith("encoder.") else recipe.head_lr
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    )
    warm = max(1, round(recipe.warmup * steps))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
