"""``tamis train``: make a checkpoint, and the rows that it learns from."""

import argparse
from pathlib import Path
from typing import Any

from tamis.cli import synthesis
from tamis.cli.common import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    train = commands.add_parser("train", help="make a checkpoint").add_subparsers(
        dest="stage", required=True, metavar="STAGE"
    )
    classifier = train.add_parser("classifier", help="fine-tune and calibrate the classifier")
    classifier.add_argument("--data", type=Path, required=True, help="folder of training rows")
    classifier.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes")
    classifier.add_argument("--variant", choices=("permissive", "all"), default="permissive")
    classifier.add_argument("--base", help="base model: a known name, a hub id or a folder")
    classifier.add_argument("--init", help="finished checkpoint to go on from")
    classifier.add_argument("--epochs", type=float)
    classifier.add_argument("--lr", type=float, dest="encoder_lr", help="of the encoder")
    classifier.add_argument("--head-lr", type=float)
    classifier.add_argument("--seed", type=int)
    classifier.add_argument(
        "--feedback",
        action="append",
        default=[],
        metavar="STORE",
        help="corrections to learn from: a path, a postgresql:// URL or an exported *.jsonl.gz",
    )
    for who in ("reviewer", "key"):
        classifier.add_argument(f"--feedback-limit-per-{who}", type=int, metavar="N", dest=who)
    classifier.add_argument(
        "--feedback-exclude", type=Path, metavar="DIR", help="evaluation sets no feedback may meet"
    )
    classifier.set_defaults(run=_train_classifier)
    synthesis.add_to(train)


def _train_classifier(args: argparse.Namespace) -> int:
    from training.classifier import trainer
    from training.datasets import feedback

    names = ("base", "init", "epochs", "encoder_lr", "head_lr", "seed")
    chosen: dict[str, Any] = {
        name: getattr(args, name) for name in names if getattr(args, name) is not None
    }
    recipe = trainer.Recipe(variant=args.variant, **chosen)
    given = {"per_reviewer": args.reviewer, "per_key": args.key}
    limits = feedback.Limits(**{name: n for name, n in given.items() if n is not None})
    report = feedback.snapshot(args.feedback, args.out, limits, args.feedback_exclude)
    if args.feedback:
        print(report or "feedback: going on with the rows that this run began with")
        if args.feedback_exclude is None:
            print("  not compared with evaluation sets: no --feedback-exclude")
    trainer.train(args.data, args.out, recipe)
    for head in trainer.calibrate(args.data, args.out):
        print(f"{head.name:<15} f1 {head.f1:.3f} flag {head.flag:.3f} block {head.block:.3f}")
    return 0
