"""``tamis export``: checkpoint, or base and adapter → bundle; bundle → what others load."""

import argparse
import json
import os
import sys
from pathlib import Path
from subprocess import CalledProcessError
from typing import Final

from tamis.bundle import BundleError, default_bundle
from tamis.cli.common import CommandError, Commands
from tamis.reasoner import WHERE, default_reasoner

WHAT: Final = ("classifier", "reasoner", "huggingface")
CLASSIFIER: Final = ("int8", "fp16")
REASONER: Final = ("int4", "int8", "fp32")


def add_to(commands: Commands) -> None:
    """Add the command."""
    export = commands.add_parser("export", help="checkpoint → bundle with a parity report")
    export.add_argument("what", nargs="?", choices=WHAT, default="classifier")
    export.add_argument("folder", nargs="?", type=Path, help="of huggingface: where to write")
    export.add_argument("--bundle", type=Path, help="of huggingface (default: the shipped one)")
    export.add_argument(
        "--text", action="store_true", help="huggingface: judge texts as posts, not as prompts"
    )
    export.add_argument("--checkpoint", type=Path, help="of the classifier")
    export.add_argument(
        "--data", type=Path, nargs="+", help="folders of the classifier's training rows"
    )
    export.add_argument(
        "--out", type=Path, help="bundle folder (reasoner: where it is served from)"
    )
    export.add_argument("--name", help="name of the bundle, e.g. tamis-22m")
    export.add_argument(
        "--precision",
        choices=sorted({*CLASSIFIER, *REASONER}),
        default="int8",
        help="classifier: int8 for CPUs, fp16 for GPUs; reasoner: int4, int8, fp32",
    )
    export.add_argument("--base", help="base model of the reasoner")
    export.add_argument("--adapter", type=Path, help="LoRA adapter of the reasoner (peft)")
    export.add_argument(
        "--if-needed", action="store_true", help="reasoner: leave a bundle made of the same alone"
    )
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    commands = {"reasoner": _reasoner, "huggingface": _huggingface, "classifier": _classifier}
    if args.folder is not None and args.what != "huggingface":
        raise CommandError(f"{args.folder}: the folder of a {args.what} is given with --out")
    return commands[args.what](args)


def _huggingface(args: argparse.Namespace) -> int:
    folder = args.folder or args.out
    if folder is None:
        raise CommandError("name the folder to write: tamis export huggingface FOLDER")
    from export import huggingface

    asked: huggingface.Asked = "text" if args.text else "prompt"
    config = huggingface.build(args.bundle or default_bundle(), folder, asked)
    print(json.dumps({"out": str(folder), "labels": list(config["label2id"])}, indent=2))
    return 0


def _classifier(args: argparse.Namespace) -> int:
    missing = [n for n in ("checkpoint", "data", "out", "name") if getattr(args, n) is None]
    if missing:
        raise CommandError(f"--{missing[0]}: the export of a classifier needs it")
    _one_of(args.precision, CLASSIFIER)
    from export.bundle import build

    report = build(args.checkpoint, args.data, args.out, args.name, args.precision)
    print(json.dumps(report, indent=2))
    return 0


def _reasoner(args: argparse.Namespace) -> int:
    _one_of(args.precision, REASONER)
    if args.if_needed and args.out is None and os.environ.get(WHERE) == "":
        print(f"no reasoner is wanted: {WHERE} is empty", file=sys.stderr)
        return 0
    try:
        from export import reasoner
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the package {error.name} is missing: pip install 'tamis[reasoner]'"
        ) from None
    adapter = args.adapter or reasoner.shipped_adapter()
    if args.if_needed and adapter is None:
        raise CommandError("--adapter: none is committed, and the base alone is no reasoner")
    out = args.out or default_reasoner()
    chosen = {n: getattr(args, n) for n in ("base", "name") if getattr(args, n) is not None}
    try:
        manifest = reasoner.build(
            out,
            adapter=adapter,
            precision=args.precision,
            if_needed=args.if_needed,
            **chosen,
        )
    except (BundleError, reasoner.BaseMismatchError, OSError, CalledProcessError) as error:
        raise CommandError(f"no reasoner: {error}") from None
    print(json.dumps({"out": str(out), "parity": manifest.get("parity")}, indent=2))
    return 0


def _one_of(precision: str, allowed: tuple[str, ...]) -> None:
    if precision not in allowed:
        raise CommandError(f"--precision: {precision} is not one of {', '.join(allowed)}")
