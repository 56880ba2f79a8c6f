"""``tamis train rules``: the policy encoder."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.bundle import default_bundle
from tamis.cli.common import CommandError, Commands, chosen, load_classifier, whole
from tamis.rules import hints_of, load

if TYPE_CHECKING:
    from training.rules.hints import Hinted

OPTIONS = (
    "base",
    "init",
    "variant",
    "steps",
    "batch_tokens",
    "encoder_lr",
    "head_lr",
    "listwise",
    "split",
    "frozen_layers",
    "check_every",
    "seed",
)


def add_to(stages: Commands) -> None:
    """Add the stage of training."""
    rules = stages.add_parser("rules", help="fine-tune and calibrate the policy encoder")
    rules.add_argument(
        "--data", type=Path, required=True, nargs="+", help="folders of training rows"
    )
    add_policies(rules, required=True)
    rules.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes")
    rules.add_argument("--base", help="base model: a known name, a hub id or a folder")
    rules.add_argument(
        "--hints",
        type=Path,
        metavar="BUNDLE",
        help="classifier whose verdict the encoder reads before every text",
    )
    rules.add_argument("--init", help="finished checkpoint of that base whose body to go on from")
    rules.add_argument("--variant", choices=("permissive", "all"))
    rules.add_argument("--steps", type=whole)
    rules.add_argument("--batch-tokens", type=whole, help="tokens of a step")
    rules.add_argument("--lr", type=float, dest="encoder_lr", help="of the encoder")
    rules.add_argument("--head-lr", type=float)
    rules.add_argument(
        "--listwise", type=float, help="what choosing among a text's rules counts in the loss"
    )
    rules.add_argument(
        "--split", type=int, metavar="K", help="so many layers read rule and text alone; 0: none"
    )
    rules.add_argument(
        "--frozen-layers", type=int, help="so many of the lowest layers stay as pretrained"
    )
    rules.add_argument("--check-every", type=whole, help="steps between held-out checks")
    rules.add_argument("--seed", type=int)
    rules.set_defaults(run=_train)


def add_policies(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The option that names written organisations."""
    parser.add_argument(
        "--policies",
        type=Path,
        nargs="+",
        required=required,
        default=[],
        help="folders of written organisations, their rules and texts under them",
    )


def _train(args: argparse.Namespace) -> int:
    from training.classifier import calibration
    from training.rules.hints import no_hints
    from training.rules.model import InitError
    from training.rules.trainer import Recipe, RecipeError, train

    hinted, hints = hints_by(args.hints) if args.hints else (no_hints, None)
    recipe = chosen(args, *OPTIONS) | {"hints": hints}
    try:
        report = train(args.data, args.policies, args.out, Recipe(**recipe), hinted=hinted)
    except (InitError, RecipeError) as error:
        raise CommandError(str(error)) from None
    print(f"{report['steps']} steps in {report['seconds']} s, best at {report['best']['step']}")
    for question in calibration.read(args.out):
        print(
            f"{question['name']:<10} flag {question['flag']:.3f} f1 {question['f1']:.3f} "
            f"ece {question['ece_after']:.3f}"
        )
    return 0


def hints_by(bundle: Path) -> tuple["Hinted", str]:
    """What a classifier's bundle says of texts, as hints, and who it is."""
    from service.engine.runtime import available_threads

    classifier = load_classifier(bundle, available_threads())
    who = f"{classifier.bundle.name}@{classifier.bundle.fingerprint[:12]}"
    return lambda content: hints_of(classifier.judge(content)), who


def hints_for(checkpoint: Path, bundle: Path | None) -> "Hinted":
    """What a checkpoint's classifier (default: the shipped one) says of texts.

    Raises:
        CommandError: where it was taught with another one's hints.
    """
    from training.rules.hints import no_hints

    taught = json.loads((checkpoint / "training.json").read_text())["recipe"].get("hints")
    if taught is None:
        return no_hints
    hinted, who = hints_by(bundle or default_bundle())
    if who != taught:
        raise CommandError(f"--bundle: {checkpoint} was taught with hints of {taught}, not {who}")
    return hinted


def measured(bundle: Path, classifier: Path | None, hints: bool = True) -> tuple[Any, Any]:
    """A policy encoder's bundle and its judge, on all cores.

    ``classifier`` (default: the shipped one) gives hints to an encoder that reads them, unless it
    is measured without ``hints``.
    """
    from service.engine.runtime import available_threads
    from training.rules.hints import no_hints
    from training.rules.judge import Judge

    found = load(bundle)
    hinted: Hinted = no_hints
    if hints and found.shape.hints:
        hinted, _ = hints_by(classifier or default_bundle())
    return found, Judge.of_bundle(found, available_threads(), hinted)
