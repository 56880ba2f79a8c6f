"""GSPR's second stage: GRPO with trl, from the bare base or from a cold start.

Hyperparameters are the paper's (section 4.1 and its launcher) where a small machine allows: groups
of 5, temperature 0.7, top-p 0.8, KL 0.001, clip 0.2 with a dual clip of 3, mean over tokens. An
adapter learns at a rate of its own; a CPU run takes fewer prompts a step than 128, and one update
from them, so that nothing is ever clipped.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerFast, TrainerCallback

from tamis.bundle import sha256_of
from tamis.reasoner.protocol import END, Format, prefix
from training.classifier import bases
from training.classifier.inference import autocast, device, keep_memory
from training.reasoner import decode
from training.reasoner import model as models
from training.reasoner.charts import draw_metrics
from training.reasoner.decode import Sampling
from training.reasoner.examples import Example, read_examples
from training.reasoner.packing import Coder
from training.reasoner.rewards import ReasonReward, Reward, reason_reward, reward
from training.reasoner.sft import EXAMPLES, METRICS, cut, same_recipe

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is one, and pinned

# What was learnt here alone, on top of the cold start.
DELTA: Final = "delta"
CURVES: Final = {
    "reward": "reward",
    "parsed": "format",
    "safety": "safety right",
    "category": "category right",
    "quotes": "quotes stand",
    "rule": "its own rule",
    "frac_reward_zero_std": "groups of equal rewards",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a run, besides the code and the data."""

    base: str = models.DEFAULT
    init: str | None = None
    """The cold start's folder; None starts from the bare base."""
    steps: int = 100
    prompts: int = 8
    """A step; the paper takes 128."""
    group: int = 5
    micro: int = 10
    """Rollouts per pass through the model."""
    lr: float = 1e-5
    beta: float = 0.001
    temperature: float = 0.7
    top_p: float = 0.8
    clip: float = 0.2
    dual_clip: float = 3.0
    entropy: float = 0.0
    """The paper's is 0.001. Where all rewards of a step are equal it is the only gradient, which
    Adam makes a full step towards random text."""
    most_tokens: int = 72
    most_question_tokens: int = 384
    rank: int = 16
    alpha: int = 32
    save_every: int = 25
    seed: int = 0


class Rollouts:
    """Answers of the model at hand, all texts of one policy behind its keys and values.

    Rewards are those of ``rewards.py``; nothing of texts or answers goes into the trainer's logs,
    which know examples by number.
    """

    def __init__(self, examples: Sequence[Example], coder: Coder, form: Format, recipe: Recipe):
        self.examples, self.coder, self.form, self.recipe = examples, coder, form, recipe
        self.parts: list[Reward | ReasonReward] = []

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """One rollout per prompt (the trainer repeats a prompt for its group), in their order."""
        chosen = [self.examples[int(prompt)] for prompt in prompts]
        model = trainer.accelerator.unwrap_model(trainer.model)
        found: dict[int, list[int]] = {}
        by_view: dict[str, list[int]] = {}
        for n, example in enumerate(chosen):
            by_view.setdefault(example.view, []).append(n)
        for view, members in by_view.items():
            sampling = Sampling(
                self.recipe.temperature,
                self.recipe.top_p,
                # Another draw for every step and policy, and the same on the same run.
                seed=hash((self.recipe.seed, trainer.state.global_step, int(view[:8], 36))) % 2**31,
            )
            with autocast(device()):
                written = decode.write_ids(
                    model,
                    self.coder,
                    self.form,
                    [chosen[n] for n in members],
                    self.recipe.most_tokens,
                    sampling,
                )
            for n, (ids, finished) in zip(members, written, strict=True):
                found[n] = [*ids, self.coder.control[END]] if finished else ids
        return {
            "prompt_ids": [question_ids(example, self.coder, self.form) for example in chosen],
            "completion_ids": [found[n] for n in range(len(chosen))],
            "logprobs": None,
        }

    def reward(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The paper's reward of each rollout; that of its reason, where the verdict was given."""
        stop = self.coder.control[END]
        parts = []
        for prompt, ids in zip(prompts, completion_ids, strict=True):
            example = self.examples[int(prompt)]
            finished = bool(ids) and ids[-1] == stop
            text = self.coder.decode(ids[:-1] if finished else ids)
            parts.append(self._reward(example, text, finished))
        self.parts += parts
        return [part.total for part in parts]

    def shares(self) -> dict[str, float]:
        """How the rollouts since the last call did."""
        parts, self.parts = self.parts, []
        found: dict[str, list[float]] = {}
        for part in parts:
            for name, value in asdict(part).items():
                found.setdefault(name, []).append(value)
        return {name: sum(v) / len(v) for name, v in found.items() if name != "total"}

    def _reward(self, example: Example, text: str, finished: bool) -> Reward | ReasonReward:
        if example.given:
            return reason_reward(text, finished, example)
        names = [name for name, _ in example.policy]
        return reward(text, finished, example.category, names, self.form)


class _Metrics(TrainerCallback):
    """Appends what the trainer logs, and the rollouts' shares, to ``metrics.jsonl``."""

    def __init__(self, path: Path, rollouts: Rollouts) -> None:
        self.path, self.rollouts = path, rollouts
        self.last = time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """From here the first step takes its time."""
        self.last = time.monotonic()

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """One line a step."""
        if not logs or "reward" not in logs:
            return
        keys = ("reward", "reward_std", "frac_reward_zero_std", "kl", "loss", "entropy")
        said = {key: round(float(logs[key]), 5) for key in keys if key in logs}
        said |= {key: round(value, 4) for key, value in self.rollouts.shares().items()}
        now = time.monotonic()
        said["seconds"], self.last = round(now - self.last, 2), now
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": state.global_step} | said) + "\n")


def question_ids(example: Example, coder: Coder, form: Format) -> list[int]:
    """A whole question, policy and, where it is given, verdict included."""
    return coder.ids([*prefix(example.policy, form), *decode.asked(example, form)])


def train(data: Path, out: Path, recipe: Recipe) -> dict[str, Any]:
    """Train on ``data/examples.jsonl.gz``; write ``out/adapter``, curves and ``out/report.json``.

    The adapter that is written applies to the bare base: a cold start's is part of it. Interrupted,
    the same call goes on from the last checkpoint. Returns the report.

    Raises:
        FileNotFoundError, AdapterError: where data or cold start are missing.
        ValueError: where ``out`` holds a run of another recipe, or on other examples, or a step's
            rollouts are no multiple of ``micro``.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rollouts_a_step = recipe.prompts * recipe.group
    if rollouts_a_step % recipe.micro:
        raise ValueError(
            f"--micro: {rollouts_a_step} rollouts a step cannot be parted into {recipe.micro} each"
        )
    out.mkdir(parents=True, exist_ok=True)
    same_recipe(out, recipe, sha256_of(data / EXAMPLES))
    checkpoints = sorted((out / "trainer").glob("checkpoint-*"))
    cut(out / METRICS, max((int(c.name.rpartition("-")[2]) for c in checkpoints), default=0))
    keep_memory()
    torch.manual_seed(recipe.seed)
    model, coder = models.load_base(recipe.base, torch.float32)
    if recipe.init:
        # The frozen reference of the KL term is the model without its adapter, so the cold start
        # has to be part of that.
        model = PeftModel.from_pretrained(model, str(models.adapter_of(Path(recipe.init))))
        model = model.merge_and_unload()
    form = models.form_of(Path(recipe.init)) if recipe.init else Format()
    examples = [
        example
        for example in read_examples(data / EXAMPLES)
        if len(question_ids(example, coder, form)) <= recipe.most_question_tokens
    ]
    rollouts = Rollouts(examples, coder, form, recipe)
    on_cpu = device().type == "cpu"
    args = GRPOConfig(
        output_dir=str(out / "trainer"),
        max_steps=recipe.steps,
        learning_rate=recipe.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, recipe.steps // 20),
        per_device_train_batch_size=recipe.micro,
        gradient_accumulation_steps=rollouts_a_step // recipe.micro,
        num_generations=recipe.group,
        max_completion_length=recipe.most_tokens,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        beta=recipe.beta,
        epsilon=recipe.clip,
        delta=recipe.dual_clip,
        entropy_coef=recipe.entropy,
        loss_type="bnpo",  # the mean over all tokens
        max_grad_norm=1.0,
        bf16=models.half() == torch.bfloat16,
        use_cpu=on_cpu,
        gradient_checkpointing=False,
        logging_steps=1,
        save_steps=recipe.save_every,
        save_total_limit=1,
        seed=recipe.seed,
        report_to=[],
        disable_tqdm=False,
        dataloader_pin_memory=not on_cpu,
        log_completions=False,
    )
    trainer = GRPOTrainer(
        model=model,
        # Wrapped by trl: of a model that is wrapped already it would keep a second adapter as the
        # reference, and a resumed run would begin with a fresh first one.
        peft_config=models.lora(recipe.rank, recipe.alpha),
        reward_funcs=[rollouts.reward],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(len(examples))]}),
        processing_class=_tokenizer(recipe.base),
        rollout_func=rollouts,
        callbacks=[_Metrics(out / METRICS, rollouts)],
    )
    trainer.train(resume_from_checkpoint=bool(checkpoints))
    models.save_adapter(trainer.model, recipe.base, out, folder=DELTA)
    _combine(recipe, out, form)
    report = {
        "recipe": asdict(recipe) | {"init": recipe.init and Path(recipe.init).name},
        "taxonomies": models.taught_by((e.taxonomy for e in examples), recipe.init),
        "examples": len(examples),
        "rollouts": recipe.steps * rollouts_a_step,
        "seconds": round(sum(step.get("seconds", 0) for step in _steps(out / METRICS))),
        "device": str(device()),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw_metrics(out / METRICS, out / "rewards.png", CURVES)
    return report


def _steps(path: Path) -> list[dict[str, float]]:
    """What was measured of each step, those before an interruption included."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _tokenizer(base: str) -> PreTrainedTokenizerFast:
    """What the trainer pads and stops by; it never tokenises a text (``Rollouts`` does)."""
    _, path = bases.resolve(base)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(bases.tokenizer_file(path)), eos_token=END, pad_token=END
    )
    tokenizer.padding_side = "left"
    return tokenizer


def _combine(recipe: Recipe, out: Path, form: Format) -> None:
    """Write ``out/adapter``: what was learnt here on top of the cold start's, for the bare base.

    The sum of two low-rank updates is one whose factors stand side by side.
    """
    model, _ = models.load_base(recipe.base, torch.float32)
    first = PeftModel.from_pretrained(model, str(out / DELTA), adapter_name="grpo")
    name = "grpo"
    if recipe.init:
        first.load_adapter(str(models.adapter_of(Path(recipe.init))), adapter_name="cold")
        for parameter in first.parameters():
            parameter.data = parameter.data.float()
        first.add_weighted_adapter(["cold", "grpo"], [1.0, 1.0], "both", combination_type="cat")
        name = "both"
    models.save_adapter(first, recipe.base, out, name, form=form)
