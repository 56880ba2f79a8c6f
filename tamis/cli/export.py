"""``tamis export``: checkpoint → bundle."""

import argparse
import json
from pathlib import Path

from tamis.cli.common import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    export = commands.add_parser("export", help="checkpoint → bundle with a parity report")
    export.add_argument("--checkpoint", type=Path, required=True)
    export.add_argument(
        "--data", type=Path, required=True, nargs="+", help="folders of the training rows"
    )
    export.add_argument("--out", type=Path, required=True, help="bundle folder")
    export.add_argument("--name", required=True, help="name of the bundle, e.g. tamis-22m")
    export.add_argument(
        "--precision", choices=["int8", "fp16"], default="int8", help="int8 for CPUs, fp16 for GPUs"
    )
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from export.bundle import build

    report = build(args.checkpoint, args.data, args.out, args.name, args.precision)
    print(json.dumps(report, indent=2))
    return 0
