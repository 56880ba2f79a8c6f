"""Fine-tune a base into the classifier: one loop, resumable, deterministic given a seed."""

import hashlib
import json
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Final

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
from training.classifier.optimizer import falling_from, optimizer_of
from training.classifier.pooling import SPANS
from training.classifier.recipe import Recipe, RecipeError, feedback_behind
from training.classifier.resuming import LENGTH, resumed, same_run, save
from training.datasets import batches, feedback, mixing
from training.datasets.batches import UNKNOWN, Example
from training.datasets.registry import HEADS, QUESTIONS, source_of
from training.datasets.schema import Row, fingerprint
from training.evaluation.metrics import average_precision

# Rows by number, and one window of each.
Picks = list[tuple[int, Window]]

# At most so much work is lost by an interruption.
SAVE_SECONDS: Final = 420


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

    optimizer, schedule = optimizer_of(model, recipe, len(plan))
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)
    quality = -1.0
    start, best, seconds = 0, {"step": 0, "quality": quality}, 0.0
    resume = out / "last.pt"
    if (state := resumed(out, len(plan), accelerator.device)) is not None:
        same_run(out, state, run)
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, best, seconds = state["step"], state["best"], state["seconds"]

    began = time.monotonic() - seconds
    saved, falling = time.monotonic(), falling_from(recipe, len(plan))
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


def _digest(steps: Sequence[Sequence[Picks]], examples: Sequence[Example]) -> str:
    """SHA-256 of rows, windows and labels; those of the first step depend on all that is drawn."""
    digest = hashlib.sha256()
    for at, window in (pick for step in steps for batch in step for pick in batch):
        digest.update(f"{at} {window.ids}".encode() + examples[at].labels.tobytes())
    return digest.hexdigest()


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
