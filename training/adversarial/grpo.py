"""The stage ``tamis train adversarial``: one round of GRPO against the classifier, with guards.

trl's GRPOTrainer samples and steps; here are the prompts, the reward, the record and the brakes. A
guard that trips stops the round and puts the adapter back to where the round began.
"""

import copy
import json
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from datasets import Dataset
from tqdm import tqdm
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tamis.bundle import sha256_of
from training.adversarial import adapters, curves, guards
from training.adversarial.adapters import TuningError
from training.adversarial.guards import Limits, Step, Trip
from training.adversarial.scoring import Fluency, Scored, Scorer, Worth
from training.adversarial.survivors import survivors
from training.classifier.inference import device, keep_memory
from training.curation.judge import Judge
from training.datasets.contamination import Seen
from training.synthesis import prompts
from training.synthesis.distinctness import compression_ratio, distinct_n
from training.synthesis.filters import Checks, OnTopic
from training.synthesis.generator import REPORT, base_of, load_causal, stop_ids
from training.synthesis.plan import TUNED, Planner
from training.synthesis.seeds import load_seeds
from training.synthesis.synthesize import Settings as SynthesisSettings
from training.synthesis.synthesize import synthesize

METRICS: Final = "metrics.jsonl"
# Texts of the steps so far, which an interrupted round must know again in order to call them old.
EARLIER: Final = "earlier.jsonl"
ROWS: Final = "rows"
CANDIDATES: Final = "candidates"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a round, besides the code, the seeds, the classifier and the judge.

    Where the paper gives no figure, the second paper's (GSPR) stand: groups of 5.
    """

    init: str
    round: int = 1
    steps: int = 40
    prompts: int = 8
    group: int = 5
    max_new_tokens: int = 48
    # Of an adapter, where ten times a whole model's rate is usual (1e-6 to 5e-6 in the literature).
    lr: float = 5e-5
    # Weight of the KL term, whose reference is the adapter that the round began with.
    beta: float = 0.04
    temperature: float = 1.0
    # Requests to write afterwards; those that survive filters and judge become rows.
    candidates: int = 1500
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    worth: Worth = field(default_factory=Worth)

    def __post_init__(self) -> None:
        for name, least in (("round", 1), ("steps", 1), ("prompts", 1), ("group", 2)):
            if getattr(self, name) < least:
                raise TuningError(f"--{name} must be at least {least}")
        if self.max_new_tokens < 4:
            raise TuningError("--max-new-tokens must be at least 4")
        if self.candidates < 0:
            raise TuningError("--candidates must not be below 0")
        if self.beta <= 0 or self.lr <= 0 or self.temperature <= 0:
            raise TuningError("--beta, --lr and --temperature must be above 0")

    @property
    def name(self) -> str:
        """What rows of the round call their generator."""
        return f"grpo-{self.round}"


def adversarial(
    out: Path,
    settings: Settings,
    classifier: Judge,
    judge: Judge,
    exclude: Path | None = None,
    seeds_file: Path | None = None,
) -> dict[str, Any]:
    """Write the adapter, ``metrics.jsonl``, ``curves.png``, ``rows/`` and ``report.json``.

    Interrupted, the same call goes on; finished, it returns the report. ``classifier`` is what the
    requests are to be hard for, ``judge`` says whether they still are what they were asked to be.

    Raises:
        TuningError: where ``out`` holds another round.
        GeneratorError: where ``settings.init`` is no adapter.
    """
    began = time.monotonic()
    start = Path(settings.init)
    base = base_of(start)
    banned = Seen.of(exclude) if exclude else None
    about = asdict(settings) | {
        "init": start.resolve().name,
        "init_sha256": sha256_of(start / adapters.ADAPTER_FILES[1]),
        "name": settings.name,
        "classifier": classifier.identity,
        "judge": judge.identity,
        "exclude_sha256": banned.sha256 if banned else None,
    }
    done = adapters.finished(out, about)
    if done is not None:
        return done
    trip, steps_seconds = _trained(out, settings, base, classifier, judge, banned, seeds_file)
    record = read_record(out)
    curves.draw({settings.name: out / METRICS}, out / "curves.png")
    report: dict[str, Any] = {
        "name": settings.name,
        "settings": about,
        "classifier": classifier.name,
        "judge": judge.name,
        "steps": {"planned": settings.steps, "done": len(record)},
        "rolled_back": trip is not None,
        "trip": asdict(trip) if trip else None,
        "start": _means(record[: settings.limits.window]),
        "end": _means(record[-settings.limits.window :]),
        "seconds": {"training": steps_seconds},
    }
    # A round that was rolled back has nothing of its own to say.
    if trip is None and settings.candidates:
        wanted = SynthesisSettings(
            settings.candidates,
            generator=str(out),
            seed=settings.seed + settings.round,
            max_new_tokens=settings.max_new_tokens,
        )
        made = synthesize(out / CANDIDATES, wanted, seeds_file, exclude)
        report["synthesis"] = {
            key: made[key] for key in ("rows", "kept_share", "dropped", "variety", "seconds")
        }
        report["rows"] = survivors(
            out / CANDIDATES, out / ROWS, classifier, judge, settings.worth.gate, made
        )
    report["seconds"]["all"] = round(time.monotonic() - began, 1)
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report["device"] = str(device())
    (out / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _trained(
    out: Path,
    settings: Settings,
    base: str,
    classifier: Judge,
    judge: Judge,
    banned: Seen | None,
    seeds_file: Path | None,
) -> tuple[Trip | None, float]:
    """Train, and leave the adapter in ``out``: the new one, or the round's start after a trip."""
    record = read_record(out)
    if (out / adapters.ADAPTER_FILES[1]).exists():
        # Interrupted while rows were written.
        return guards.check(record, settings.limits), sum(step.seconds for step in record)
    keep_memory()
    seeds = load_seeds(seeds_file)
    _, model, tokenizer = load_causal(base)
    fluency = Fluency(copy.deepcopy(model), tokenizer)
    from training.curation.embedding import SentenceEncoder

    checks = Checks(banned, OnTopic(seeds, SentenceEncoder()))
    scorer = Scorer(classifier, judge, fluency, checks, settings.worth)
    model = adapters.put_on(model, base, settings.init, rank=0)
    # Else what the base recommends for chatting overrides what is asked for here.
    model.generation_config.eos_token_id = stop_ids(model, tokenizer)
    planner = Planner(seeds, 1_000_003 * settings.round + settings.seed, 0.0, True, TUNED)
    checkpoint = adapters.last_checkpoint(out)
    reward = Reward(out, planner, scorer, stop_ids(model, tokenizer))
    reward.forget_after(int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0)
    brakes = Brakes(reward, settings.limits)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=_arguments(out, settings),
        train_dataset=_asked(planner, settings),
        processing_class=tokenizer,
        callbacks=[brakes, WithoutReference()],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    if brakes.trip is None:
        adapters.save(trainer.model, out)
    else:
        for name in adapters.ADAPTER_FILES:
            shutil.copyfile(Path(settings.init) / name, out / name)
    return brakes.trip, round(sum(step.seconds for step in read_record(out)), 1)


def _asked(planner: Planner, settings: Settings) -> Dataset:
    rows = []
    for number in range(settings.steps * settings.prompts):
        prompt = planner.item(number).prompt
        assert prompt is not None
        turns = [{"role": role, "content": text} for role, text in prompt.turns]
        rows.append({"prompt": turns, "number": number})
    return Dataset.from_list(rows)


def _arguments(out: Path, settings: Settings) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(out / adapters.CHECKPOINTS),
        max_steps=settings.steps,
        learning_rate=settings.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(3, settings.steps - 1),
        weight_decay=0.0,
        max_grad_norm=1.0,
        # One prompt's group at a time forwards and backwards, all of a step when writing.
        per_device_train_batch_size=settings.group,
        gradient_accumulation_steps=settings.prompts,
        generation_batch_size=settings.prompts * settings.group,
        num_generations=settings.group,
        max_completion_length=settings.max_new_tokens,
        shuffle_dataset=False,
        temperature=settings.temperature,
        beta=settings.beta,
        use_vllm=False,
        log_completions=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=5,
        save_total_limit=2,
        **adapters.arguments(settings.seed),
    )


class Reward:
    """The reward function that trl calls, which also notes what it saw of each step."""

    # trl names its metrics after it.
    __name__ = "reward"

    def __init__(self, out: Path, planner: Planner, scorer: Scorer, stops: Sequence[int]) -> None:
        self.out, self._planner, self._scorer = out, planner, scorer
        self._stops = frozenset(stops)
        self._noted: dict[str, float] = {}
        self._began = time.monotonic()

    def __call__(
        self,
        completions: list[Any],
        completion_ids: list[list[int]],
        number: list[int],
        trainer_state: Any,
        **_: Any,
    ) -> list[float]:
        """The rewards of a step's completions; ``number`` is the item that each was asked for."""
        finished = [bool(ids) and ids[-1] in self._stops for ids in completion_ids]
        texts = [
            prompts.tidy(turns[0]["content"], ended)
            for turns, ended in zip(completions, finished, strict=True)
        ]
        items = [self._planner.item(n) for n in number]
        scored = self._scorer.score(items, texts)
        with (self.out / EARLIER).open("a", encoding="utf-8") as stream:
            step = trainer_state.global_step + 1
            stream.writelines(json.dumps({"step": step, "text": t}) + "\n" for t in texts)
        self._noted = _noted(scored, texts) | {
            "length": float(np.mean([len(ids) for ids in completion_ids])),
            "finished": float(np.mean(finished)),
        }
        return [part.reward for part in scored.parts]

    def step(self, number: int, kl: float) -> Step:
        """What the last call saw, as the record of a finished step."""
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        return Step(step=number, kl=kl, seconds=round(seconds, 2), **self._noted)

    def forget_after(self, step: int) -> None:
        """Go back to a checkpoint: what was written later was not, what was earlier is old."""
        for name in (METRICS, EARLIER):
            path = self.out / name
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        for line in (self.out / EARLIER).read_text(encoding="utf-8").splitlines():
            self._scorer.novelty.of(json.loads(line)["text"])
        self._began = time.monotonic()


def _noted(scored: Scored, texts: Sequence[str]) -> dict[str, float]:
    parts = [asdict(part) | {"reward": part.reward} for part in scored.parts]
    means = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    return means | {
        "agreement": float(scored.agreed.mean()) if len(scored.agreed) else float("nan"),
        "distinct_2": distinct_n(texts, 2),
        "compression": compression_ratio(texts),
        "repetition": 1 - means["freshness"],
    }


class Brakes(TrainerCallback):
    """Writes the record of every step and stops the round where a guard trips."""

    def __init__(self, reward: Reward, limits: Limits) -> None:
        self._reward, self._limits = reward, limits
        self.trip: Trip | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """After each step, when its KL is known."""
        if not logs or "kl" not in logs:
            return
        kl = logs["kl"]
        step = self._reward.step(state.global_step, float("nan") if kl is None else float(kl))
        with (self._reward.out / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(step)) + "\n")
        self.trip = guards.check(read_record(self._reward.out), self._limits)
        if self.trip is not None:
            tqdm.write(f"step {step.step}: {self.trip.guard} ({self.trip.measure}); rolling back")
            control.should_training_stop = True


class WithoutReference(TrainerCallback):
    """Keeps trl's frozen copy of the adapter out of checkpoints.

    With it transformers reads the copy alone when it resumes, and goes on with an untrained one. It
    is made anew from the round's start whenever a trainer is built.
    """

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """After a checkpoint is written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "ref"
        shutil.rmtree(folder, ignore_errors=True)


def read_record(out: Path) -> list[Step]:
    """The steps of a round so far."""
    path = out / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Step(**json.loads(line)) for line in lines]


def _means(record: Sequence[Step]) -> dict[str, float]:
    names = [name for name in Step.__slots__ if name != "step"]
    return {name: round(guards.mean(record, name), 4) for name in names} if record else {}
