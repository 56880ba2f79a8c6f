"""Fine-tune a body into the policy encoder: one loop, resumable, deterministic given a seed."""

import hashlib
import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from tamis import rules
from tamis.rules import Encode, PairShape
from tamis.tokens import plain_tokenizer
from tamis.windows import Window
from training.classifier import bases, calibration
from training.classifier.inference import autocast, device, keep_memory
from training.classifier.trainer import parameter_groups, save
from training.datasets.mixing import Variant
from training.reasoner.cases import Pool, read_sourced
from training.reasoner.policies import Library, library
from training.rules.banks import Bank, banks_of
from training.rules.calibration import calibrate, figures
from training.rules.drawing import Item, Mixture, draw
from training.rules.judge import WIDTH_STEP, Judge, feed_of, pair_shape
from training.rules.model import RuleEncoder
from training.rules.organisations import ORGANISATIONS, name_of, part_of, read_organisations
from training.rules.trials import Trial, trials

# At most so much work is lost by an interruption.
SAVE_SECONDS: Final = 240
# Batches are cut from so many texts sorted by length: little padding, random enough.
POOL: Final = 1024
# Texts of either label a policy: early figures look at few, calibration at more.
EARLY: Final = 8
LATE: Final = 40


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
    seed: int = 0
    max_tokens: int = 256
    overlap: int = 32
    rule_tokens: int = 96
    context_tokens: int = 64
    check_every: int = 300

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RecipeError(f"steps must be at least 1, not {self.steps}")
        if self.listwise < 0:
            raise RecipeError(f"listwise must be at least 0, not {self.listwise}")

    @property
    def sizes(self) -> dict[str, int]:
        """Of a pair."""
        names = ("max_tokens", "overlap", "rule_tokens", "context_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from, and what it is stopped and calibrated by."""

    train: list[Bank]
    held_out: list[Bank]
    organisations: dict[str, list[str]]
    """By part: their names. ``test`` was neither trained on nor calibrated with."""

    @classmethod
    def read(
        cls,
        folders: Sequence[Path],
        policies: Sequence[Path],
        recipe: Recipe,
        given: Library | None = None,
    ) -> "Data":
        """Rows of folders, and organisations; raises as their readers do."""
        known = given or library()
        rows = read_sourced(folders, recipe.variant)
        found = read_organisations(policies)
        train, held = (
            banks_of(rows, found, known, held_out, recipe.seed) for held_out in (False, True)
        )
        return cls(train, held, _by_part(found))

    def report(self) -> dict[str, Any]:
        """Counts and names for ``training.json``; no text."""
        return {
            "taxonomies": sorted(
                bank.pool.taxonomy.name for bank in self.train if bank.kind != ORGANISATIONS
            ),
            "organisations": {p: n for p, n in self.organisations.items() if p != "test"},
            "rows": {
                part: sum(bank.pool.size + sum(map(len, bank.pool.safe.values())) for bank in banks)
                for part, banks in (("train", self.train), ("held_out", self.held_out))
            },
            "data_sha256": _fingerprint(self.train + self.held_out),
        }


class Batch(NamedTuple):
    """Some texts' pairs: the graph's arrays, and of each pair its text and its label."""

    feed: dict[str, np.ndarray]
    texts: np.ndarray
    labels: np.ndarray


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
) -> dict[str, Any]:
    """Write ``out/model.pt``, ``tokenizer.json``, ``calibration.json`` and ``training.json``.

    Interrupted, the same call goes on from the last checkpoint in ``out``, at most SAVE_SECONDS
    old. Returns the report.

    Raises:
        RecipeError, InitError: where the recipe cannot be followed.
        FileNotFoundError, SchemaError: where data cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_memory()
    torch.manual_seed(recipe.seed)
    on = device()
    base, path = bases.resolve(recipe.base)
    tokenizer = plain_tokenizer(bases.tokenizer_file(path))
    ids, shape = rules.encoder(tokenizer), pair_shape(tokenizer, recipe.sizes)
    model = RuleEncoder.from_base(path, **base.load_arguments())
    if recipe.init:
        model.go_on_from(Path(recipe.init))
    model.to(on)
    found = Data.read(data, policies, recipe, given)
    early = trials(found.held_out, EARLY, defined=True, seed=recipe.seed)
    optimizer, schedule = _optimizer(model, recipe)

    start, best, seconds = 0, {"step": 0, "quality": -1.0}, 0.0
    if (out / "last.pt").exists():
        state = torch.load(out / "last.pt", map_location=on, weights_only=True)
        if state["steps"] != recipe.steps:
            raise RecipeError(f"steps: {out} holds a run of {state['steps']} steps")
        model.reader.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, best, seconds = state["step"], state["best"], state["seconds"]

    began = time.monotonic() - seconds
    saved = time.monotonic()
    steps = islice(_batches(found.train, ids, shape, recipe), start, recipe.steps)
    bar = tqdm(steps, initial=start, total=recipe.steps, desc="train rules", unit="step")
    pairs = 0
    for step, batch in enumerate(bar, start):
        model.train()
        feed = {name: torch.from_numpy(value).to(on) for name, value in batch.feed.items()}
        with autocast(on):
            logits = model(**feed)[:, 0].float()
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
            said = Judge.of_model(model, ids, shape, fast=True).logits(
                [(trial.content, trial.rules) for trial in early]
            )
            quality = _quality(figures(early, said))
            bar.write(f"step {done}: {_told(early, said)}")
            if quality > best["quality"]:
                best = {"step": done, "quality": quality}
                torch.save(model.reader.state_dict(), out / "model.pt")
        saved = time.monotonic()
        state = {
            "model": model.reader.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "step": done,
            "steps": recipe.steps,
            "best": best,
            "seconds": time.monotonic() - began,
        }
        save(state, out / "last.pt")

    tokenizer.save(str(out / "tokenizer.json"))
    report = {
        "recipe": asdict(recipe) | {"init": recipe.init and Path(recipe.init).name},
        "base": {"name": base.name, "licence": base.licence, "sha256": base.sha256},
        "pairs": asdict(shape),
        **found.report(),
        "steps": recipe.steps,
        "best": best,
        "seconds": round(time.monotonic() - began),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "device": str(on),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    state = torch.load(out / "model.pt", map_location=on, weights_only=True)
    model.reader.load_state_dict(state)
    asked = held_out_trials(found, recipe.seed)
    judge = Judge.of_model(model, ids, shape, fast=True)
    logits_of = judge.logits([(trial.content, trial.rules) for trial in asked])
    calibration.write(out, calibrate(asked, logits_of))
    return report


def held_out_trials(data: Data, seed: int) -> list[Trial]:
    """What calibrates: every held-out policy, with and without its definitions.

    By the names alone an organisation's exceptions cannot be known: those are shown defined.
    """
    written = [bank for bank in data.held_out if bank.kind == ORGANISATIONS]
    others = [bank for bank in data.held_out if bank.kind != ORGANISATIONS]
    return [
        *trials(written, LATE, defined=True, seed=seed),
        *trials(others, LATE // 2, defined=True, seed=seed),
        *trials(others, LATE // 4, defined=False, seed=seed + 1),
    ]


def _quality(found: dict[str, float]) -> float:
    known = [value for value in found.values() if value == value]
    return float(np.mean(known)) if known else 0.0


def _told(early: Sequence[Trial], said: Sequence[np.ndarray]) -> str:
    """Early figures on organisations that are not trained on, and on all held-out policies."""
    written = [n for n, trial in enumerate(early) if trial.written]
    new = figures([early[n] for n in written], [said[n] for n in written])
    everything = figures(early, said)
    return (
        f"held-out policies: verdict {everything['verdict']:.3f}, category "
        f"{everything['category']:.3f}; new organisations: {new['verdict']:.3f}, "
        f"{new['category']:.3f}"
    )


def _optimizer(
    model: RuleEncoder, recipe: Recipe
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up and a linear fall; word vectors stay as they are.

    Customers' rules are full of words that no data of ours has: they keep their meaning.
    """
    model.encoder.get_input_embeddings().requires_grad_(False)
    groups = parameter_groups(model.reader, recipe.encoder_lr, recipe.head_lr, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    warm = max(1, round(recipe.warmup * recipe.steps))
    left = max(1, recipe.steps - warm)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (recipe.steps - step) / left, 1.0)
    )


def _batches(
    banks: Sequence[Bank], ids: Encode, shape: PairShape, recipe: Recipe
) -> Iterator[Batch]:
    """Batches without end: of at most ``batch_tokens`` tokens, all pairs of a text together."""
    items = draw(Mixture(banks), recipe.seed)
    order = np.random.default_rng([recipe.seed, 1])
    while True:
        some = [_encoded(item, ids, shape) for item in islice(items, POOL)]
        some.sort(key=lambda item: -_widest(item[0]))
        cut = list(_cut(some, recipe.batch_tokens))
        for n in order.permutation(len(cut)):
            yield _collate(cut[int(n)])


Encoded = tuple[list[Window], tuple[float, ...]]


def _encoded(item: Item, ids: Encode, shape: PairShape) -> Encoded:
    """The pairs of a text; of a long one its beginning: the label is of the whole."""
    text = rules.read_text(item.content, ids, shape)
    read = (rules.read_rule(rule, ids, shape) for rule in item.rules)
    return [rules.pairs(rule, text, shape)[0] for rule in read], item.labels


def _widest(windows: Sequence[Window]) -> int:
    return -(-max(len(window.ids) for window in windows) // WIDTH_STEP) * WIDTH_STEP


def _cut(items: Sequence[Encoded], tokens: int) -> Iterator[list[Encoded]]:
    """Texts sorted by their longest pair → batches."""
    batch: list[Encoded] = []
    width = height = 0
    for item in items:
        if batch and width * (height + len(item[0])) > tokens:
            yield batch
            batch, height = [], 0
        if not batch:
            width = _widest(item[0])
        batch.append(item)
        height += len(item[0])
    if batch:
        yield batch


def _collate(items: Sequence[Encoded]) -> Batch:
    windows = [window for found, _ in items for window in found]
    return Batch(
        feed_of(windows),
        np.repeat(np.arange(len(items)), [len(found) for found, _ in items]),
        np.array([label for _, labels in items for label in labels], np.float32),
    )


def _by_part(pools: Sequence[Pool]) -> dict[str, list[str]]:
    names = [name_of(pool) for pool in pools]
    return {part: [n for n in names if part_of(n) == part] for part in ("train", "dev", "test")}


def _fingerprint(banks: Sequence[Bank]) -> str:
    """SHA-256 over the ids and labels of the texts, in order."""
    digest = hashlib.sha256()
    for bank in banks:
        pool = bank.pool
        for cases in (*pool.unsafe.values(), *pool.safe.values()):
            for case in cases:
                digest.update(
                    f"{pool.taxonomy.name}\t{case.source}\t{case.id}\t{case.key}\n".encode()
                )
    return digest.hexdigest()
