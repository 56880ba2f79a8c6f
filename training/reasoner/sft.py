"""The cold start's second half: LoRA fine-tuning on packed examples; one loop, resumable."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tamis.bundle import sha256_of
from tamis.reasoner.protocol import Format, Order
from training.classifier.inference import device, keep_memory
from training.classifier.resuming import save
from training.reasoner import model as models
from training.reasoner.charts import draw_metrics
from training.reasoner.examples import read_examples
from training.reasoner.packing import Coder, Tree, batches, collate, pack

EXAMPLES: Final = "examples.jsonl.gz"
HELD_OUT: Final = "held-out.jsonl.gz"
METRICS: Final = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides an adapter, besides the code and the data.

    The paper fine-tunes whole 7B models at 1e-5 on 1,383 traces; an adapter of a 135M model that
    has to learn the task itself wants a rate a hundred times that.
    """

    base: str = models.DEFAULT
    init: str | None = None
    """An adapter of that base, or its checkpoint, to go on from; ``rank`` and ``alpha`` are its."""
    order: Order = "verdict-first"
    rank: int = 16
    alpha: int = 32
    epochs: float = 1.0
    steps: int | None = None
    """Stop after so many, whatever the epochs say."""
    batch_tokens: int = 4096
    tree_tokens: int = 1024
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    reason_weight: float = 2.0
    """What a whole reason counts, where each label of the verdict counts 1."""
    check_every: int = 100
    check_trees: int = 48
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Best:
    """The check whose adapter is kept."""

    step: int
    loss: float


class Master:
    """AdamW over fp32 copies of weights that the model holds in bf16.

    bf16 has 8 bits of mantissa: an update below 1/256 of a weight would be lost in it.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], recipe: Recipe, steps: int
    ) -> None:
        self.parameters = list(parameters)
        self.copies = [p.detach().float().clone().requires_grad_() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.copies, lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        warm = max(1, round(recipe.warmup * steps))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm)),
        )

    @torch.no_grad()
    def step(self) -> float:
        """One update from the model's gradients; returns their norm before clipping to 1."""
        for copy, parameter in zip(self.copies, self.parameters, strict=True):
            copy.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.copies, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.publish()
        return float(norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Write the copies into the model."""
        for copy, parameter in zip(self.copies, self.parameters, strict=True):
            parameter.copy_(copy)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "copies": [copy.detach() for copy in self.copies],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        with torch.no_grad():
            for copy, saved in zip(self.copies, state["copies"], strict=True):
                copy.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.publish()


def loss_of(model: Any, trees: Sequence[Tree]) -> tuple[Tensor, int]:
    """Weighted negative log likelihood per example, and how many examples there are."""
    batch = collate(trees)
    states = models.hidden_states(model, batch)
    # The token at t is predicted from the state before it. A segment's first token follows the end
    # of its parent, not its neighbour; it carries no weight, as it belongs to the question.
    at = np.flatnonzero(batch.weights)
    on = states.device
    ids = torch.from_numpy(batch.ids[at]).to(on)
    weights = torch.from_numpy(batch.weights[at]).to(on)
    before = torch.from_numpy(at - 1).to(on)
    likelihood = models.log_probabilities(model, states, before, ids)
    examples = sum(len(tree.parents) - 1 for tree in trees)
    return -(likelihood * weights).sum() / examples, examples


@torch.inference_mode()
def held_out_loss(model: Any, trees: Sequence[Tree], tokens: int) -> float:
    """Mean loss per held-out example."""
    model.eval()
    total, count = 0.0, 0
    for members in batches(trees, tokens, 0):
        loss, examples = loss_of(model, [trees[n] for n in members])
        total, count = total + float(loss) * examples, count + examples
    return total / max(1, count)


def train(data: Path, out: Path, recipe: Recipe) -> dict[str, Any]:
    """Train on ``data/examples.jsonl.gz`` and write ``out/adapter`` and ``out/report.json``.

    The adapter is that of the check with the least held-out loss, where anything is held out.
    Interrupted, the same call goes on from the last check in ``out``. Returns the report.

    Raises:
        FileNotFoundError: where ``data`` holds no examples.
        AdapterError: where ``recipe.init`` is no adapter.
        ValueError: where ``out`` holds a run of another recipe, or on other examples.
    """
    out.mkdir(parents=True, exist_ok=True)
    same_recipe(out, recipe)
    keep_memory()
    torch.manual_seed(recipe.seed)
    model, coder = models.load_base(recipe.base)
    if recipe.init is None:
        model = models.with_adapter(model, recipe.rank, recipe.alpha)
    else:
        model = models.with_trained(model, Path(recipe.init))
    trees = load_trees(data / EXAMPLES, coder, recipe)
    held = load_trees(data / HELD_OUT, coder, recipe) if (data / HELD_OUT).exists() else []
    held = held[:: max(1, len(held) // recipe.check_trees)][: recipe.check_trees]

    plan = [
        members
        for n in range(math.ceil(recipe.epochs))
        for members in batches(trees, recipe.batch_tokens, recipe.seed + n)
    ]
    steps = math.ceil(len(plan) * recipe.epochs / math.ceil(recipe.epochs))
    steps = min(steps, recipe.steps or steps)
    master = Master([p for p in model.parameters() if p.requires_grad], recipe, steps)

    start, seconds, cpu, tokens, examples = 0, 0.0, 0.0, 0, 0
    best = Best(step=0, loss=math.inf)
    last, learnt_from = out / "last.pt", sha256_of(data / EXAMPLES)
    if last.exists():
        state = torch.load(last, map_location=device(), weights_only=True)
        # Older checkpoints do not say. Of others some would be skipped, and some come twice.
        if state.get("data", learnt_from) != learnt_from:
            raise ValueError(f"--data: {out} holds a run on other examples")
        master.load(state["master"])
        start, seconds, cpu = state["step"], state["seconds"], state["cpu"]
        tokens, examples = state["tokens"], state["examples"]
        best = Best(**state["best"])
    cut(out / METRICS, start)
    began, began_cpu = time.monotonic() - seconds, time.process_time() - cpu
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="sft")
    with (out / METRICS).open("a", encoding="utf-8") as metrics:
        for step in bar:
            model.train()
            members = [trees[n] for n in plan[step]]
            loss, count = loss_of(model, members)
            loss.backward()
            norm = master.step()
            tokens, examples = tokens + sum(map(len, members)), examples + count
            said = {"step": step + 1, "loss": round(loss.item(), 4), "norm": round(norm, 3)}
            bar.set_postfix(loss=f"{said['loss']:.3f}")
            if (step + 1) % recipe.check_every == 0 or step + 1 == steps:
                if held:
                    said["held_out"] = round(held_out_loss(model, held, recipe.batch_tokens), 4)
                    bar.write(f"step {step + 1}: held-out loss {said['held_out']:.4f}")
                if (loss_now := said.get("held_out", -math.inf)) <= best.loss:
                    best = Best(step + 1, loss_now)
                    models.save_adapter(model, recipe.base, out, form=Format(recipe.order))
                saved = {"master": master.state(), "step": step + 1, "tokens": tokens}
                saved |= {"examples": examples, "seconds": time.monotonic() - began}
                saved |= {"best": asdict(best), "data": learnt_from}
                save(saved | {"cpu": time.process_time() - began_cpu}, last)
            metrics.write(json.dumps(said) + "\n")
            metrics.flush()
    if start < steps:
        seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    report = {
        "recipe": asdict(recipe)
        | {
            "base": Path(recipe.base).name if Path(recipe.base).is_dir() else recipe.base,
            "init": recipe.init and Path(recipe.init).name,
        },
        "taxonomies": models.taught_by(
            (e.taxonomy for e in read_examples(data / EXAMPLES)), recipe.init
        ),
        "steps": steps,
        "best": best.step,
        "trees": len(trees),
        "examples": examples,
        "tokens": tokens,
        "seconds": round(seconds),
        "cpu_seconds": round(cpu),
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "examples_per_second": round(examples / max(seconds, 1e-9), 2),
        "device": str(device()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw_metrics(out / METRICS, out / "loss.png", {"loss": "training", "held_out": "held out"})
    return report


def load_trees(path: Path, coder: Coder, recipe: Recipe) -> list[Tree]:
    """The packed examples of a file."""
    form = Format(recipe.order)
    return list(pack(read_examples(path), coder, form, recipe.tree_tokens, recipe.reason_weight))


def same_recipe(out: Path, recipe: Any, data: str | None = None) -> None:
    """Note what decides a run; a run of anything else is refused with a ValueError.

    Args:
        out: of the run.
        recipe: a dataclass.
        data: the hash of its examples, where no checkpoint of its own holds that.
    """
    path = out / "recipe.json"
    said = json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        there = json.loads(path.read_text())
        # Older runs do not say.
        learnt_from = there.pop("data", data)
        if there != said:
            raise ValueError(f"--out: {out} holds a run of another recipe")
        if learnt_from != data:
            raise ValueError(f"--data: {out} holds a run on other examples")
    if data is not None:
        said["data"] = data
    path.write_text(json.dumps(said, indent=2) + "\n")


def cut(path: Path, steps: int) -> None:
    """Forget what was measured after the last checkpoint."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= steps]
    path.write_text("".join(f"{line}\n" for line in kept))
