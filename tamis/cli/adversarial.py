"""``tamis train generator`` and ``adversarial``: a generator that looks for what is still hard."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from tamis.cli.common import Commands, whole


def add_to(stages: Commands) -> None:
    """Add the stages."""
    generator = stages.add_parser("generator", help="tune a generator on hard samples (LoRA)")
    generator.add_argument("--rows", type=Path, required=True, help="folder of hard rows")
    generator.add_argument("--out", type=Path, required=True, help="folder of the adapter; resumes")
    generator.add_argument("--base", help="causal language model (default SmolLM2-135M-Instruct)")
    generator.add_argument("--init", help="adapter to go on from, instead of a new one")
    generator.add_argument("--name", help="what rows call it (default sft)")
    generator.add_argument("--epochs", type=float)
    generator.add_argument("--lr", type=float)
    generator.add_argument("--batch", type=whole)
    generator.add_argument("--rank", type=whole)
    generator.add_argument("--max-tokens", type=whole, help="longer rows are left out (default 64)")
    generator.add_argument("--seed", type=int)
    generator.set_defaults(run=_generator)

    adversarial = stages.add_parser(
        "adversarial", help="one round of GRPO: requests that the classifier gets wrong"
    )
    adversarial.add_argument("--init", type=Path, required=True, help="adapter to begin with")
    adversarial.add_argument(
        "--classifier", type=Path, required=True, help="checkpoint that requests are to be hard for"
    )
    adversarial.add_argument(
        "--judge", required=True, help="'linear', another checkpoint, or the URL of an API"
    )
    adversarial.add_argument("--judge-model", help="the model's name behind a URL")
    adversarial.add_argument("--real", type=Path, help="rows that the judge 'linear' learns from")
    adversarial.add_argument("--variant", choices=("permissive", "all"), default="permissive")
    adversarial.add_argument("--out", type=Path, required=True, help="folder of the round; resumes")
    adversarial.add_argument("--exclude", type=Path, help="folder of rows that none may repeat")
    adversarial.add_argument("--seeds", type=Path, help="seed file (default: the project's)")
    adversarial.add_argument("--round", type=whole, help="its number (default 1)")
    adversarial.add_argument("--steps", type=whole)
    adversarial.add_argument("--prompts", type=whole, help="prompts a step (default 8)")
    adversarial.add_argument("--group", type=whole, help="completions a prompt (default 5)")
    adversarial.add_argument("--max-new-tokens", type=whole)
    adversarial.add_argument("--lr", type=float)
    adversarial.add_argument("--beta", type=float, help="weight of the KL term (default 0.04)")
    adversarial.add_argument("--temperature", type=float)
    adversarial.add_argument("--candidates", type=int, help="requests to write afterwards")
    adversarial.add_argument("--seed", type=int)
    worth = adversarial.add_argument_group("reward")
    worth.add_argument("--gate", type=float, help="least probability by the judge (default 0.5)")
    worth.add_argument("--easy", type=float, help="nats a token of fluent text")
    worth.add_argument("--hard", type=float, help="nats a token of gibberish")
    limits = adversarial.add_argument_group("guards")
    limits.add_argument("--window", type=whole, help="steps that a figure is averaged over")
    limits.add_argument("--least-distinct", type=float, help="share of the start's distinct-2")
    limits.add_argument("--most-compression", type=float, help="times the start's ratio")
    limits.add_argument("--more-repetition", type=float, help="above the start's share")
    limits.add_argument("--disagreement", type=float, help="share that is borne anyhow")
    limits.add_argument("--more-disagreement", type=float, help="above the start's share")
    limits.add_argument("--kl-limit", type=float, dest="kl", help="nats a token")
    adversarial.set_defaults(run=_adversarial)


def _generator(args: argparse.Namespace) -> int:
    from training.adversarial.finetune import Settings, finetune

    report = finetune(args.rows, args.out, Settings(**_chosen(args, Settings)))
    loss, rows = report["held_out_loss"], report["rows"]
    print(f"{rows['train']} rows, {report['steps']['done']} steps in {report['seconds']} s")
    print(f"held-out loss {loss['before']:.3f} -> {loss['best']:.3f} at step {report['best_step']}")
    return 0


def _adversarial(args: argparse.Namespace) -> int:
    from training.adversarial.grpo import Settings, adversarial
    from training.adversarial.guards import Limits
    from training.adversarial.scoring import Worth
    from training.curation.judge import judge_of

    chosen = _chosen(args, Settings) | {
        "init": str(args.init),
        "limits": Limits(**_chosen(args, Limits)),
        "worth": Worth(**_chosen(args, Worth)),
    }
    settings = Settings(**chosen)
    classifier = judge_of(str(args.classifier))
    judge = judge_of(args.judge, args.real, args.judge_model, args.variant)
    report = adversarial(args.out, settings, classifier, judge, args.exclude, args.seeds)
    start, end = report["start"], report["end"]
    for name in ("reward", "complexity", "agreement", "kl", "distinct_2"):
        print(f"{name:<12} {start[name]:.3f} -> {end[name]:.3f}")
    if report["rolled_back"]:
        trip = report["trip"]
        print(f"rolled back at step {trip['step']}: {trip['guard']} ({trip['measure']})")
    elif "rows" in report:
        print(f"{report['rows']['kept']} of {report['rows']['candidates']} rows kept")
    return 0


def _chosen(args: argparse.Namespace, settings: Any) -> dict[str, Any]:
    """The options that were given among the fields of some settings."""
    names = [field.name for field in fields(settings)]
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
