"""Fine-tune a base into the classifier: one loop, resumable, deterministic given a seed."""

import hashlib
import json
import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from tokenizers import Tokenizer
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from tamis.tokens import plain_tokenizer
from tamis.windows import Window, WindowShape
from training.classifier import bases, calibration, distillation
from training.classifier.calibration import Calibration
from training.classifier.inference import (
    Checkpoint,
    autocast,
    device,
    keep_memory,
    predict,
    shape_of,
    to_tensors,
)
from training.classifier.model import GuardClassifier
from training.classifier.pooling import SPANS
from training.datasets import batches, feedback, mixing
from training.datasets.batches import UNKNOWN, Example
from training.datasets.registry import BORDERLINE, HEADS, QUESTIONS, source_of
from training.datasets.schema import Row, fingerprint
from training.evaluation.metrics import average_precision

# Rows by number, and one window of each.
Picks = list[tuple[int, Window]]

# At most so much work is lost by an interruption.
SAVE_SECONDS: Final = 420
# What a call that goes on with a run may say otherwise than the first: how long it is.
LENGTH: Final = frozenset({"epochs", "steps", "cooldown", "check_every"})


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the field and its limit."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a checkpoint, besides the code and the data."""

    base: str = bases.DEFAULT
    variant: mixing.Variant = "permissive"
    # A finished checkpoint to go on from, instead of the bare base.
    init: str | None = None
    epochs: float = 2.0
    # So many optimiser steps, instead of epochs: how runs on unlike mixtures are compared.
    steps: int | None = None
    batch_tokens: int = 4096
    encoder_lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06
    # The share of the steps over which the learning rate falls to zero, at their end. Below 1 it is
    # constant before: such a run can be prolonged by more steps, and nothing of it was in vain.
    cooldown: float = 1.0
    # A row of a rich taxonomy has up to nine known categories but only one overall label.
    category_weight: float = 0.2
    seed: int = 0
    max_tokens: int = 256
    overlap: int = 64
    context_tokens: int = 96
    # Word vectors stay as pretrained: words that the training data lacks keep their meaning next
    # to those it has, and half of the optimiser's work is saved.
    train_embeddings: bool = False
    # So many of the lowest layers stay as pretrained, too: no gradient is computed for them, and a
    # delta to the public base does not hold them.
    frozen_layers: int = 0
    check_every: int = 500
    # How unsafe a borderline row is to its question; 0 and 1 teach it as safe and as unsafe.
    borderline: float = BORDERLINE
    # Finished checkpoints to learn from, and how much their opinion counts beside the labels.
    teachers: tuple[str, ...] = ()
    teaching: float = 0.5

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise RecipeError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.epochs < math.inf:
            raise RecipeError(f"epochs must be above 0 and finite, not {self.epochs}")
        if not 0 < self.cooldown <= 1:
            raise RecipeError(f"cooldown must be a share above 0, not {self.cooldown}")
        if self.frozen_layers < 0:
            raise RecipeError(f"frozen_layers must be at least 0, not {self.frozen_layers}")
        if not 0 <= self.borderline <= 1:
            raise RecipeError(f"borderline must be between 0 and 1, not {self.borderline}")
        if not 0 <= self.teaching <= 1:
            raise RecipeError(f"teaching must be a share between 0 and 1, not {self.teaching}")

    def told(self) -> dict[str, Any]:
        """For reports: where a checkpoint lay is nobody's business; which one it was is."""
        named = {"teachers": [Path(teacher).name for teacher in self.teachers]}
        return asdict(self) | {"init": self.init and Path(self.init).name} | named


OPTIONS: Final = tuple(field.name for field in fields(Recipe))


def processes() -> PartialState:
    """The processes that train together: one, unless `accelerate launch` has started more."""
    return PartialState(cpu=device().type == "cpu")


def masked_loss(logits: torch.Tensor, labels: torch.Tensor, category_weight: float) -> torch.Tensor:
    """Binary cross-entropy over the known labels only, per row. logits, labels: (B, H)."""
    weight = torch.full((len(HEADS),), category_weight, device=logits.device)
    weight[: len(QUESTIONS)] = 1.0
    known = (labels != UNKNOWN) * weight
    each = binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
    return (each * known).sum() / len(labels)


def held_out_quality(rows: list[Row], examples: list[Example], logits: np.ndarray) -> float:
    """Mean average precision over (source, question) pairs that hold both labels.

    Only within one source does a label say where the boundary lies; across sources a model may
    simply recognise the source. NaN where no pair does.
    """
    labels = batches.settled(np.stack([example.labels for example in examples]))
    names = np.array([f"{row.source}/{row.target}" for row in rows])
    values = []
    for name in sorted(set(names)):
        for head in range(len(QUESTIONS)):
            known = (names == name) & (labels[:, head] != UNKNOWN)
            truth = labels[known, head]
            if min(truth.sum(), (1 - truth).sum()) >= 5:
                values.append(average_precision(truth, logits[known, head]))
    return float(np.mean(values)) if values else math.nan


def train(data: Sequence[Path], out: Path, recipe: Recipe) -> Path:
    """Train and write ``out/model.pt``, ``tokenizer.json`` and ``training.json``.

    Interrupted, the same call goes on from the last checkpoint in ``out``, at most SAVE_SECONDS
    old. With another number of steps it goes on from before the learning rate fell. Started by
    ``accelerate launch``, every process takes its share of the batches, and a step has as many as
    there are processes.

    Raises:
        RecipeError: where the recipe cannot be followed, or ``out`` holds a run of another recipe
            or other data.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Its debugging aid of filling fresh memory with NaN costs two thirds of a CPU step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    accelerator = Accelerator(cpu=processes().device.type == "cpu")

    with accelerator.main_process_first():
        base, path = bases.resolve(recipe.base)
        tokenizer = plain_tokenizer(bases.tokenizer_file(path))
    model = GuardClassifier.from_base(path, len(HEADS), **base.load_arguments())
    model.read_spans(SPANS, HEADS)
    learnt = sum(
        feedback_behind(Path(teacher), recipe.variant, "teachers") for teacher in recipe.teachers
    )
    if recipe.init:
        learnt += feedback_behind(Path(recipe.init), recipe.variant)
        state = torch.load(Path(recipe.init) / "model.pt", map_location="cpu", weights_only=True)
        try:
            model.load_state_dict(state)
        except RuntimeError:
            name = Path(recipe.init).name
            raise RecipeError(f"init: {name} has another base or other heads") from None
    shape = window_shape(tokenizer, recipe)

    rows, held = rows_for(data, out, recipe)
    examples = batches.encode(rows, tokenizer, shape, borderline=recipe.borderline)
    genuine = [row for row in held if not source_of(row).synthetic]
    held_examples = batches.encode(genuine, tokenizer, shape, batches.HELD_OUT_WINDOWS)
    plan = _plan(rows, examples, recipe, accelerator.num_processes)
    run = {name: value for name, value in recipe.told().items() if name not in LENGTH}
    run |= {"data": fingerprint(rows + held), "first batches": _digest(plan[:1], examples)}
    soft = None
    if recipe.teachers:
        drawn = np.unique([i for step in plan for batch in step for i, _ in batch])
        teachers = [Path(teacher) for teacher in recipe.teachers]
        with accelerator.main_process_first():
            soft = distillation.soft_targets(teachers, rows, drawn, out / "teachers.npy")

    optimizer, schedule = _optimizer(model, recipe, len(plan))
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    quality = -1.0
    start, best, seconds = 0, {"step": 0, "quality": quality}, 0.0
    resume = out / "last.pt"
    if (state := _state(out, len(plan), accelerator.device)) is not None:
        same_run(out, state, run)
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, best, seconds = state["step"], state["best"], state["seconds"]

    began = time.monotonic() - seconds
    saved, falling = time.monotonic(), _falling_from(recipe, len(plan))
    bar = tqdm(
        range(start, len(plan)),
        initial=start,
        total=len(plan),
        desc=f"train {recipe.variant}",
        disable=not accelerator.is_main_process,
    )
    for step in bar:
        model.train()
        picks = plan[step][accelerator.process_index]
        batch = batches.collate(picks, examples)
        with autocast(accelerator.device):
            scores = model(**to_tensors(batch, accelerator.device))
        labels = torch.from_numpy(batch.labels).to(accelerator.device)
        loss = masked_loss(scores.logits, labels, recipe.category_weight)
        if soft is not None:
            targets = torch.from_numpy(soft[[i for i, _ in picks]]).to(accelerator.device)
            taught = distillation.soft_loss(scores.logits, targets, labels, recipe.category_weight)
            loss = (1 - recipe.teaching) * loss + recipe.teaching * taught
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        check = (step + 1) % recipe.check_every == 0 or step + 1 == len(plan)
        stable = step + 1 == falling
        # The other processes wait for the next gradient: when one saves is a matter of its clock.
        due = check or stable or time.monotonic() - saved > SAVE_SECONDS
        if not (accelerator.is_main_process and due):
            continue
        saved = time.monotonic()
        # A run too short to have a choice is measured once, by its calibration.
        if check and len(plan) > recipe.check_every:
            logits = predict(plain, held_examples)
            quality = held_out_quality(genuine, held_examples, logits)
            bar.write(f"step {step + 1}: held-out mean average precision {quality:.4f}")
        # Where nothing is held out that could be ranked (NaN), the last step is as good as any.
        if check and (len(plan) <= recipe.check_every or not quality <= best["quality"]):
            best = {"step": step + 1, "quality": quality}
            torch.save(plain.state_dict(), out / "model.pt")
        state = {
            "model": plain.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "step": step + 1,
            "steps": len(plan),
            "run": run,
            "best": best,
            "seconds": time.monotonic() - began,
        }
        save(state, resume)
        if stable and recipe.cooldown < 1:
            save(state, out / "stable.pt")

    if accelerator.is_main_process:
        tokenizer.save(str(out / "tokenizer.json"))
        report = {
            "recipe": recipe.told(),
            "base": {"name": base.name, "licence": base.licence, "sha256": base.sha256},
            "heads": list(HEADS),
            "pooling": asdict(SPANS),
            "rows": {
                "train": len(rows),
                "held_out": len(held),
                "feedback": learnt + sum(row.licence == feedback.LICENCE for row in rows + held),
                "synthetic": sum(source_of(row).synthetic for row in rows + held),
            },
            "data_sha256": fingerprint(rows + held),
            "steps": len(plan),
            "best": best | {"quality": _told(best["quality"])},
            "seconds": round(time.monotonic() - began),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
        }
        (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    accelerator.wait_for_everyone()
    return out


def _told(quality: float) -> float | None:
    """A quality as JSON has it, which knows no NaN."""
    return None if math.isnan(quality) else quality


def feedback_behind(init: Path, variant: mixing.Variant, name: str = "init") -> int:
    """How many rows of feedback a checkpoint has learnt from that is gone on from, or taught by.

    What its weights may be used for holds of whatever is made of them. ``name`` is the recipe's
    field.

    Raises:
        RecipeError: where it learnt from rows whose licence this variant keeps out.
    """
    report = json.loads((init / "training.json").read_text())
    if variant == "permissive" and report["recipe"]["variant"] != variant:
        raise RecipeError(
            f"{name}: {init.name} learnt from rows that the variant {variant!r} keeps out"
        )
    return int(report["rows"].get("feedback", 0))


def _state(out: Path, steps: int, on: torch.device) -> dict[str, Any] | None:
    """Where a run of so many steps goes on: None where it begins.

    Raises:
        RecipeError: where as many were taken already, in a run of another length.
    """
    for name in ("last.pt", "stable.pt"):
        if not (out / name).exists():
            continue
        state: dict[str, Any] = torch.load(out / name, map_location=on, weights_only=True)
        if state["steps"] != steps:
            # What a shorter run forgot its learning rate for is not gone on from.
            if name == "last.pt" and (out / "stable.pt").exists():
                continue
            if state["step"] >= steps:
                taken = f"{out} has taken {state['step']} of {state['steps']} steps"
                raise RecipeError(f"steps: {taken}, and {steps} are no more")
        if name == "stable.pt":
            # Weights that were chosen behind it are not of this run.
            state["best"] = {"step": 0, "quality": -1.0}
        return state
    return None


def same_run(out: Path, state: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """See to it that a run is gone on with as it began; older checkpoints do not say how.

    Its batches would be skipped or come twice, and its report speak of what it never saw.

    Raises:
        RecipeError: naming what differs.
    """
    begun = state.get("run", run)
    if others := sorted(name for name in run if begun.get(name) != run[name]):
        raise RecipeError(
            f"{others[0]}: {out} holds a run that began with another ({', '.join(others)}); "
            "give another --out, and go on from its weights with --init"
        )


def _digest(steps: Sequence[Sequence[Picks]], examples: Sequence[Example]) -> str:
    """SHA-256 of rows, windows and labels; those of the first step depend on all that is drawn."""
    digest = hashlib.sha256()
    for at, window in (pick for step in steps for batch in step for pick in batch):
        digest.update(f"{at} {window.ids}".encode() + examples[at].labels.tobytes())
    return digest.hexdigest()


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole, or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _falling_from(recipe: Recipe, steps: int) -> int:
    """The step from which the learning rate falls."""
    return steps - round(recipe.cooldown * steps)


def calibrate(data: Sequence[Path], folder: Path) -> list[Calibration]:
    """Calibrate a finished checkpoint on its held-out slice, and write ``calibration.json``.

    In bf16 where training was: its error of the logits is below what int8 will add, and fp32 took
    longer than a short training run.
    """
    keep_memory()
    checkpoint = Checkpoint(folder)
    report = checkpoint.training
    # Thresholds belong to a pooling. A checkpoint that was calibrated before keeps its own until
    # it is calibrated again.
    checkpoint.model.read_spans(SPANS, report["heads"])
    report["pooling"] = asdict(SPANS)
    _, held = rows_for(data, folder, Recipe(**report["recipe"]))
    examples = checkpoint.encode(held)
    logits = predict(checkpoint.model, examples)
    found = calibration.calibrate(held, np.stack([e.labels for e in examples]), logits)
    calibration.write(folder, found)
    genuine = [i for i, row in enumerate(held) if not source_of(row).synthetic]
    quality = held_out_quality(
        [held[i] for i in genuine], [examples[i] for i in genuine], logits[genuine]
    )
    report["best"]["quality"] = _told(quality)
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return found


def rows_for(data: Sequence[Path], checkpoint: Path, recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """(train, held out): what the base can read of the data, and the run's first feedback."""
    rows = mixing.load(data, recipe.variant, checkpoint / feedback.SNAPSHOT)
    if bases.english(recipe.base):
        rows = [row for row in rows if row.english]
    return mixing.split(rows)


def window_shape(tokenizer: Tokenizer, recipe: Recipe) -> WindowShape:
    """How the recipe cuts texts."""
    return shape_of(
        tokenizer,
        max_tokens=recipe.max_tokens,
        overlap=recipe.overlap,
        context_tokens=recipe.context_tokens,
    )


def _plan(
    rows: list[Row], examples: list[Example], recipe: Recipe, processes: int
) -> list[list[Picks]]:
    """The batches of every step, one for each process."""
    if not rows:
        raise RecipeError(f"variant: the data holds no row of {recipe.variant!r} to train on")
    chances = mixing.probabilities(rows)

    def epoch(number: int) -> list[Picks]:
        return batches.epoch(examples, chances, recipe.batch_tokens, recipe.seed + number)

    flat: list[Picks] = []
    if recipe.steps:
        wanted, numbers = recipe.steps * processes, count()
        # Epochs are of unlike lengths: windows are drawn anew, and fill batches otherwise.
        while len(flat) < wanted:
            flat += epoch(next(numbers))
    else:
        epochs = math.ceil(recipe.epochs)
        for number in range(epochs):
            flat += epoch(number)
        wanted = math.ceil(len(flat) * recipe.epochs / epochs)
    return [flat[at : at + processes] for at in range(0, wanted - processes + 1, processes)]


def _optimizer(
    model: GuardClassifier, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up and cool-down; no weight decay on biases and norms."""
    if not recipe.train_embeddings:
        model.encoder.get_input_embeddings().requires_grad_(False)
    if recipe.frozen_layers:
        try:
            model.freeze(recipe.frozen_layers)
        except ValueError as error:
            raise RecipeError(f"frozen_layers: {error}") from None
    groups = parameter_groups(model, recipe.encoder_lr, recipe.head_lr, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    warm = max(1, round(recipe.warmup * steps))
    cool = max(1, steps - max(warm, _falling_from(recipe, steps)))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 1.0, (steps - step) / cool)
    )


def parameter_groups(
    model: GuardClassifier, encoder_lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """What is trained, by learning rate; no weight decay on biases and norms."""
    # BERT's own pooler is not asked; several processes would wait for its gradient.
    if getattr(model.encoder, "pooler", None) is not None:
        model.encoder.pooler.requires_grad_(False)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = encoder_lr if name.startswith("encoder.") else head_lr
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
