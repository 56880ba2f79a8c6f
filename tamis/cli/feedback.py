"""``tamis feedback list | export | delete``: what an operator does with corrections."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tamis.cli.common import CommandError, moment
from tamis.corrections.record import Correction, write_lines
from tamis.corrections.store import StoreError, default_location, open_store, read_corrections
from tamis.tiers import NONE

VARIABLE = "TAMIS_FEEDBACK"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which corrections are meant; every criterion that is given must hold."""

    ids: frozenset[str] = frozenset()
    reviewer: str | None = None
    key: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    containing: str | None = None

    @property
    def is_everything(self) -> bool:
        """No criterion is given."""
        return self == Selection()

    def holds(self, correction: Correction) -> bool:
        """Whether a correction is meant; an id is its own or that of the verdict it corrects."""
        texts = (correction.content.text, correction.content.context, correction.comment)
        return (
            (not self.ids or not self.ids.isdisjoint((correction.id, correction.verdict_id)))
            and self.reviewer in (None, correction.reviewer)
            and self.key in (None, correction.key)
            and (self.since is None or correction.time >= self.since)
            and (self.before is None or correction.time < self.before)
            and (
                self.containing is None
                or any(self.containing.casefold() in (text or "").casefold() for text in texts)
            )
        )


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command and its three verbs."""
    feedback = commands.add_parser("feedback", help="list, export or delete stored corrections")
    verbs = feedback.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, about: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=about)
        parser.add_argument("--store", help=f"path or postgresql:// URL (default: ${VARIABLE})")
        parser.add_argument(
            "--id", action="append", default=[], help="of a correction or of its verdict; again"
        )
        parser.add_argument("--reviewer")
        parser.add_argument("--key", help="name of the API key it came with")
        parser.add_argument(
            "--since", type=moment, metavar="TIME", help="ISO 8601, UTC if not said"
        )
        parser.add_argument("--before", type=moment, metavar="TIME")
        parser.add_argument("--containing", metavar="WORDS", help="in text, prompt or comment")
        return parser

    listing = verb("list", "print one line a correction, without its text")
    listing.add_argument("--text", action="store_true", help="print the texts, too")
    listing.set_defaults(run=_list)
    export = verb("export", "write corrections as JSON lines, which `tamis train` reads")
    export.add_argument("--out", type=Path, required=True, help="*.jsonl or *.jsonl.gz")
    export.set_defaults(run=_export)
    delete = verb("delete", "remove corrections for good")
    delete.add_argument("--all", action="store_true", help="every one of the store")
    delete.set_defaults(run=_delete)


def _location(args: argparse.Namespace) -> str:
    """Where corrections are kept: as for the service, which may be told to keep none.

    Raises:
        CommandError: where it is.
    """
    location: str = args.store or os.environ.get(VARIABLE, default_location())
    if location in NONE:
        raise CommandError(f"{VARIABLE}: {location!r} keeps no corrections; name their --store")
    return location


def _selection(args: argparse.Namespace) -> Selection:
    return Selection(
        frozenset(args.id),
        args.reviewer,
        args.key,
        args.since,
        args.before,
        args.containing or None,  # No words are in every text, and so no choice.
    )


def _selected(args: argparse.Namespace) -> Iterator[Correction]:
    return filter(_selection(args).holds, read_corrections(_location(args)))


def _list(args: argparse.Namespace) -> int:
    for found in _selected(args):
        said = [f"{question}={int(answer)}" for question, answer in found.answers.items()]
        print(
            found.id,
            found.time.isoformat(timespec="seconds"),
            " ".join([*said, *found.categories]),
            "agrees" if found.agrees else "differs",
            f"key {found.key or '-'}",
            f"reviewer {found.reviewer or '-'}",
            f"{len(found.content.text)} characters",
            sep="  ",
        )
        if args.text:
            # As JSON: a text may hold what a terminal obeys.
            shown = {"context": found.content.context, "text": found.content.text}
            print("   ", json.dumps(shown | {"comment": found.comment}))
    return 0


def _export(args: argparse.Namespace) -> int:
    if not args.out.name.endswith((".jsonl", ".jsonl.gz")):
        raise StoreError("--out: must end in .jsonl or .jsonl.gz")
    count = write_lines(_selected(args), args.out)
    print(f"corrections in {args.out}: {count}", file=sys.stderr)
    return 0


def _delete(args: argparse.Namespace) -> int:
    if _selection(args).is_everything and not args.all:
        raise StoreError("say which corrections to delete, or --all")
    ids = [correction.id for correction in _selected(args)]
    print(f"corrections deleted: {open_store(_location(args)).delete(ids)}", file=sys.stderr)
    return 0
