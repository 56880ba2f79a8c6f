"""``tamis serve | keys | moderate | audit | evaluate | evaluate-reasoner | train | feedback | …``.

One module per command, which imports its stage when it is run. This is the one part of the domain
that knows the other rooms: it wires them together.
"""

import argparse
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from tamis import __version__
from tamis.cli import (
    audit,
    bench,
    evaluate,
    evaluate_reasoner,
    evaluate_reasons,
    export,
    feedback,
    keys,
    moderate,
    perspective,
    serve,
    train,
)
from tamis.cli.common import CommandError

COMMANDS = (
    serve,
    keys,
    moderate,
    audit,
    evaluate,
    evaluate_reasoner,
    evaluate_reasons,
    train,
    feedback,
    export,
    perspective,
    bench,
)
# Which extra brings a module that is missing; else the one that the command needs.
EXTRAS = {"pyarrow": "bulk", "ray": "ray", "psycopg": "postgres"}
# What compressed files raise that end early or are damaged: neither is an OSError or a ValueError.
DAMAGED = (EOFError, zlib.error)
BROKEN_PIPE = 128 + 13
INTERRUPTED = 128 + 2
ABOUT = (
    "Judge prompts, answers and posts on your own hardware. Commands from `train` on, but for "
    "`feedback`, need the extra `training`."
)
SERVING = ("serve", "keys", "moderate", "audit", "evaluate")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    _open_closed()
    if hasattr(sys.stdout, "reconfigure"):
        # A bar that an old code page has not must not cost the verdict beside it.
        sys.stdout.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read has had enough (`| head`): end quietly, and leave nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        needed = "cpu" if args.command in SERVING else "training"
        extra = EXTRAS.get(str(error.name).partition(".")[0], needed)
        print(f"tamis: {error}; install the extra: pip install 'tamis[{extra}]'", file=sys.stderr)
        return 1
    except (CommandError, OSError, RuntimeError, ValueError, *DAMAGED) as error:
        print(f"tamis: {error}", file=sys.stderr)
        return 1
    return status


def _open_closed() -> None:
    """Let standard streams that are closed (`2>&-`) lead nowhere.

    Else the next file that is opened gets their number, and with it what libraries print there; and
    ``print`` takes a stream that is None for standard output, where keys and errors have no place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tamis", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"tamis {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
