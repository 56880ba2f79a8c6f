"""``tamis train``: make a checkpoint, and the rows that it learns from."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tamis.cli import adversarial, curation, reasoner, rules, synthesis
from tamis.cli.common import Commands, whole


def add_to(commands: Commands) -> None:
    """Add the command."""
    train = commands.add_parser("train", help="make a checkpoint").add_subparsers(
        dest="stage", required=True, metavar="STAGE"
    )
    classifier = train.add_parser("classifier", help="fine-tune and calibrate the classifier")
    classifier.add_argument(
        "--data", type=Path, required=True, nargs="+", help="folders of training rows"
    )
    classifier.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes")
    classifier.add_argument("--variant", choices=("permissive", "all"), default="permissive")
    classifier.add_argument("--base", help="base model: a known name, a hub id or a folder")
    classifier.add_argument("--init", help="finished checkpoint to go on from")
    classifier.add_argument("--epochs", type=float)
    classifier.add_argument("--steps", type=whole, help="so many steps, instead of epochs")
    classifier.add_argument("--lr", type=float, dest="encoder_lr", help="of the encoder")
    classifier.add_argument("--head-lr", type=float)
    classifier.add_argument(
        "--cooldown", type=float, help="share of the steps in which the learning rate falls"
    )
    classifier.add_argument("--check-every", type=whole, help="steps between held-out checks")
    classifier.add_argument(
        "--borderline", type=float, help="how unsafe a borderline row is, 0 to 1"
    )
    classifier.add_argument(
        "--frozen-layers", type=int, help="so many of the lowest layers stay as pretrained"
    )
    classifier.add_argument("--seed", type=int)
    classifier.add_argument(
        "--teacher", action="append", default=[], help="finished checkpoint to learn from, too"
    )
    classifier.add_argument("--teaching", type=float, help="share of the teachers in the loss")
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

    average = train.add_parser("average", help="the mean of checkpoints that began as one")
    average.add_argument(
        "--checkpoint", type=Path, action="append", default=[], help="a run's best step"
    )
    average.add_argument("--last", type=Path, action="append", default=[], help="its last step")
    average.add_argument("--data", type=Path, required=True, nargs="+", help="to calibrate with")
    average.add_argument("--out", type=Path, required=True, help="checkpoint folder")
    average.set_defaults(run=_average)

    vocabulary = train.add_parser("vocabulary", help="cut a base's pieces to some languages")
    vocabulary.add_argument("--base", required=True, help="a known name or a folder (XLM-R's kind)")
    vocabulary.add_argument(
        "--texts", type=_language_texts, nargs="+", required=True, metavar="LANGUAGE=FILE",
        help="a text a line, or a word and, behind a tab, how often it occurs",
    )  # fmt: skip
    vocabulary.add_argument(
        "--share", type=float, default=0.99, help="of each language's pieces (0.99)"
    )
    vocabulary.add_argument("--out", type=Path, required=True, help="folder for --base")
    vocabulary.set_defaults(run=_vocabulary)
    synthesis.add_to(train)
    curation.add_to(train)
    adversarial.add_to(train)
    reasoner.add_to(train)
    rules.add_to(train)


def _train_classifier(args: argparse.Namespace) -> int:
    from training.classifier import trainer
    from training.classifier.recipe import OPTIONS, Recipe
    from training.datasets import feedback

    given = {name: getattr(args, name, None) for name in OPTIONS}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    recipe = Recipe(**chosen | {"teachers": tuple(args.teacher)})
    processes = trainer.processes()
    counts = {"per_reviewer": args.reviewer, "per_key": args.key}
    limits = feedback.Limits(**{name: n for name, n in counts.items() if n is not None})
    with processes.main_process_first():
        report = feedback.snapshot(args.feedback, args.out, limits, args.feedback_exclude)
    if args.feedback and processes.is_main_process:
        print(report or "feedback: going on with the rows that this run began with")
        if args.feedback_exclude is None:
            print("  not compared with evaluation sets: no --feedback-exclude")
    trainer.train(args.data, args.out, recipe)
    if not processes.is_main_process:
        return 0
    _calibrate(args)
    return 0


def _average(args: argparse.Namespace) -> int:
    from training.classifier import soup

    soup.average(args.checkpoint, args.out, args.last)
    _calibrate(args)
    return 0


def _language_texts(given: str) -> tuple[str, Path]:
    language, _, file = given.partition("=")
    if not language or not Path(file).is_file():
        raise argparse.ArgumentTypeError(
            f"{given!r} is not LANGUAGE=FILE with a file that is there"
        )
    return language, Path(file)


def _vocabulary(args: argparse.Namespace) -> int:
    from training.classifier import bases, vocabulary

    if unknown := {language for language, _ in args.texts} - vocabulary.LANGUAGES.keys():
        known = ", ".join(sorted(vocabulary.LANGUAGES))
        print(f"--texts: {', '.join(sorted(unknown))} is not one of {known}", file=sys.stderr)
        return 2
    if not 0 < args.share <= 1:
        print(f"--share must be above 0 and at most 1, not {args.share}", file=sys.stderr)
        return 2
    _, source = bases.resolve(args.base)
    before, after = vocabulary.cut_to(Path(source), args.texts, args.share, args.out)
    print(f"{after} of {before} pieces: {args.out}")
    return 0


def _calibrate(args: argparse.Namespace) -> None:
    from training.classifier import trainer

    for head in trainer.calibrate(args.data, args.out):
        print(f"{head.name:<15} f1 {head.f1:.3f} flag {head.flag:.3f} block {head.block:.3f}")
