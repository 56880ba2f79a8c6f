"""Fine-tune a body into the policy encoder: one loop, resumable, deterministic given a seed."""

import json
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from tamis import rules
from tamis.tokens import plain_tokenizer
from training.classifier import bases, calibration
from training.classifier.inference import autocast, device, keep_memory
from training.classifier.optimizer import parameter_groups
from training.classifier.recipe import feedback_behind
from training.classifier.resuming import same_run, save
from training.datasets.mixing import Variant
from training.reasoner.policies import Library
from training.rules.batching import Batch, batches
from training.rules.calibration import calibrate, figures, need_both_labels
from training.rules.data import Data, genuine, held_out_trials
from training.rules.forms import form_of, tensors
from training.rules.hints import Hinted, no_hints
from training.rules.judge import Judge, pair_shape
from training.rules.model import RuleEncoder
from training.rules.split import SplitError, rule_encoder
from training.rules.trials import Trial, trials

# At most so much work is lost by an interruption.
SAVE_SECONDS: Final = 240
# Texts of either label a policy that early figures look at.
EARLY: Final = 8
# What a run that is resumed cannot change.
FIXED: Final = ("steps", "split", "frozen_layers")


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the field and its limit."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a policy encoder, besides the code and the data."""

    base: str = bases.DEFAULT
    # A classifier's checkpoint of the same base, whose body knows harm already, or one of ours.
    init: str | None = None
    variant: Variant = "permissive"
    steps: int = 1200
    batch_tokens: int = 4096
    encoder_lr: float = 1.5e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.06
    # Beside the loss of each pair: how much it counts that of a text's rules the broken one leads.
    listwise: float = 0.3
    # So many layers read a rule and a text alone (``split``); 0: all read both together.
    split: int = 0
    # So many of the lowest layers stay as pretrained: no gradient is computed for them.
    frozen_layers: int = 0
    seed: int = 0
    max_tokens: int = 256
    overlap: int = 32
    rule_tokens: int = 96
    context_tokens: int = 64
    # The classifier whose verdict is in the mark before every text.
    hints: str | None = None
    check_every: int = 300

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RecipeError(f"steps must be at least 1, not {self.steps}")
        if self.listwise < 0:
            raise RecipeError(f"listwise must be at least 0, not {self.listwise}")
        if self.split < 0:
            raise RecipeError(f"split must be at least 0, not {self.split}")
        if self.frozen_layers < 0:
            raise RecipeError(f"frozen_layers must be at least 0, not {self.frozen_layers}")

    @property
    def sizes(self) -> dict[str, Any]:
        """Of a pair, and whether there are hints in it."""
        names = ("max_tokens", "overlap", "rule_tokens", "context_tokens")
        return {name: getattr(self, name) for name in names} | {"hints": self.hints is not None}


def loss_of(logits: Tensor, batch: Batch, listwise: float) -> Tensor:
    """Cross-entropy of every pair, and that of the broken rule among those of its text.

    Args:
        logits: (pairs,).
        batch: whose they are.
        listwise: the weight of the latter.
    """
    labels = torch.from_numpy(batch.labels).to(logits.device)
    each = binary_cross_entropy_with_logits(logits, labels)
    if not listwise:
        return each
    # One row a text, one column a pair: a text's own pairs are those of its row.
    texts = torch.from_numpy(batch.texts).to(logits.device)
    mine = texts[None, :] == torch.arange(int(batch.texts.max()) + 1, device=logits.device)[:, None]
    broken = mine & (labels > 0)[None, :]
    told = broken.any(dim=1) & (mine & ~broken).any(dim=1)
    if not told.any():
        return each
    everything = logits.expand_as(mine)
    lowest = torch.finfo(logits.dtype).min
    among = torch.logsumexp(everything.masked_fill(~mine, lowest)[told], dim=1)
    right = torch.logsumexp(everything.masked_fill(~broken, lowest)[told], dim=1)
    return each + listwise * (among - right).sum() / len(mine)


def train(
    data: Sequence[Path],
    policies: Sequence[Path],
    out: Path,
    recipe: Recipe,
    given: Library | None = None,
    hinted: Hinted = no_hints,
) -> dict[str, Any]:
    """Write ``out/model.pt``, ``tokenizer.json``, ``calibration.json`` and ``training.json``.

    Interrupted, the same call goes on from the last checkpoint in ``out``, at most SAVE_SECONDS
    old. ``hinted`` is what ``recipe.hints`` says of a text. Returns the report.

    Raises:
        RecipeError, InitError: where the recipe cannot be followed, ``out`` holds a run of another
            recipe or other data, or no texts of both labels are held out.
        FileNotFoundError, SchemaError: where data cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    on = device()
    base, path = bases.resolve(recipe.base)
    tokenizer = plain_tokenizer(bases.tokenizer_file(path))
    ids, shape = rules.encoder(tokenizer), pair_shape(tokenizer, recipe.sizes)
    try:
        model = rule_encoder(path, recipe.split, **base.load_arguments())
    except SplitError as error:
        raise RecipeError(f"split: {error}") from None
    learnt = 0
    if recipe.init:
        learnt = feedback_behind(Path(recipe.init), recipe.variant)
        model.go_on_from(Path(recipe.init))
    model.to(on)
    found = Data.read(data, policies, recipe.variant, recipe.seed, given)
    asked = held_out_trials(found, recipe.seed)
    try:
        need_both_labels(asked)
    except ValueError as error:
        raise RecipeError(f"data: of what is held out, {error}") from None
    learnt_from = found.report()
    learnt_from["rows"]["feedback"] = learnt
    early = trials(genuine(found.held_out), EARLY, defined=True, seed=recipe.seed)
    optimizer, schedule = _optimizer(model, recipe)
    form = form_of(recipe.split)

    how = asdict(recipe) | {"init": recipe.init and Path(recipe.init).name}
    run = {name: value for name, value in how.items() if name != "check_every"}
    run["data"] = learnt_from["data_sha256"]
    start, best, seconds = 0, {"step": 0, "quality": -1.0}, 0.0
    if (out / "last.pt").exists():
        state = torch.load(out / "last.pt", map_location=on, weights_only=True)
        for name in FIXED:
            if state.get(name, 0) != getattr(recipe, name):
                raise RecipeError(f"{name}: {out} holds a run of {state.get(name, 0)} {name}")
        same_run(out, state, run)
        model.reader.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, best, seconds = state["step"], state["best"], state["seconds"]

    judge = Judge.of_model(model, ids, shape, fast=True, hinted=hinted)
    began = time.monotonic() - seconds
    saved = time.monotonic()
    endless = batches(found.train, ids, shape, recipe.batch_tokens, recipe.seed, form, hinted)
    steps = islice(endless, start, recipe.steps)
    bar = tqdm(steps, initial=start, total=recipe.steps, desc="train rules", unit="step")
    pairs = 0
    for step, batch in enumerate(bar, start):
        model.train()
        with autocast(on):
            logits = model(**tensors(batch.feed, on))[:, 0].float()
        loss = loss_of(logits, batch, recipe.listwise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        pairs += len(batch.labels)
        bar.set_postfix(loss=f"{loss.item():.3f}", pairs=pairs)
        done = step + 1
        check = done % recipe.check_every == 0 or done == recipe.steps
        if not (check or time.monotonic() - saved > SAVE_SECONDS):
            continue
        if check:
            said = judge.logits([(trial.content, trial.rules) for trial in early])
            told = early_figures(early, said)
            quality = sum(told.values()) / max(1, len(told))
            bar.write(f"step {done}: " + ", ".join(f"{n} {v:.3f}" for n, v in told.items()))
            if quality > best["quality"]:
                best = {"step": done, "quality": quality}
                torch.save(model.reader.state_dict(), out / "model.pt")
        saved = time.monotonic()
        state = {
            "model": model.reader.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "step": done,
            "run": run,
            "best": best,
            "seconds": time.monotonic() - began,
        } | {name: getattr(recipe, name) for name in FIXED}
        save(state, out / "last.pt")

    tokenizer.save(str(out / "tokenizer.json"))
    report = {
        "recipe": how,
        "base": {"name": base.name, "licence": base.licence, "sha256": base.sha256},
        "pairs": asdict(shape),
        **learnt_from,
        "steps": recipe.steps,
        "best": best,
        "seconds": round(time.monotonic() - began),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device": str(on),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    state = torch.load(out / "model.pt", map_location=on, weights_only=True)
    model.reader.load_state_dict(state)
    logits_of = judge.logits([(trial.content, trial.rules) for trial in asked])
    hints = [judge.hints(trial.content) for trial in asked]
    calibration.write(out, calibrate(asked, logits_of, hints))
    return report


def early_figures(early: Sequence[Trial], said: Sequence[np.ndarray]) -> dict[str, float]:
    """Of policies that were trained on and of organisations that were not; none that is not known.

    What a customer writes is new: either side counts half for which step is best.
    """
    found = {}
    for side, written in (("known policies", False), ("new organisations", True)):
        mine = [n for n, trial in enumerate(early) if trial.written == written]
        of_side = figures([early[n] for n in mine], [said[n] for n in mine])
        found |= {f"{side}: {name}": v for name, v in of_side.items() if not math.isnan(v)}
    return found


def _optimizer(
    model: RuleEncoder, recipe: Recipe
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up and a linear fall; word vectors stay as they are.

    Customers' rules are full of words that no data of ours has: they keep their meaning.
    """
    model.encoder.get_input_embeddings().requires_grad_(False)
    if recipe.frozen_layers:
        try:
            model.reader.freeze(recipe.frozen_layers)
        except ValueError as error:
            raise RecipeError(f"frozen_layers: {error}") from None
    groups = parameter_groups(model.reader, recipe.encoder_lr, recipe.head_lr, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    warm = max(1, round(recipe.warmup * recipe.steps))
    left = max(1, recipe.steps - warm)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (recipe.steps - step) / left, 1.0)
    )
