"""``tamis audit replay | show``: what an operator does with an audit log."""

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tamis import bundle as bundles
from tamis import rules
from tamis.cli.common import CommandError, Commands, load_classifier, moment
from tamis.rules import policy_encoder_there
from tamis.tiers import Bands, bands_file, load_bands
from tamis.verdict import Action

if TYPE_CHECKING:
    from service.observing.audit.replay import Report

SECRET = "TAMIS_AUDIT_SECRET"  # noqa: S105


def add_to(commands: Commands) -> None:
    """Add the command and its two verbs."""
    audit = commands.add_parser("audit", help="put an audit log to the test, or print from it")
    verbs = audit.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, about: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=about)
        parser.add_argument(
            "logs", nargs="+", metavar="LOG", help="file (.gz, too) or postgresql://…"
        )
        return parser

    replay = verb("replay", "decide again, and judge given texts again")
    replay.add_argument("--texts", type=Path, help="*.jsonl of texts, found by their hashes")
    replay.add_argument("--bundle", type=Path, help="bundle (default: the shipped one)")
    replay.add_argument("--accurate", type=Path, help="bundle of second opinions, with its bands")
    replay.add_argument("--multilingual", type=Path, help="bundle of other languages")
    replay.add_argument("--policy-encoder", type=Path, help="bundle of policies' own rules")
    replay.add_argument("--json", type=Path, metavar="OUT", help="write the report here")
    replay.set_defaults(run=_replay)
    show = verb("show", "print records as JSON lines")
    show.add_argument("--since", type=moment, metavar="TIME", help="ISO 8601, UTC if not said")
    show.add_argument("--before", type=moment, metavar="TIME")
    show.add_argument("--caller", help="name of the API key")
    show.add_argument("--action", choices=[action.value for action in Action])
    show.add_argument("--request", metavar="ID")
    show.set_defaults(run=_show)


def _replay(args: argparse.Namespace) -> int:
    report = _replayed(args)
    print(report)
    if args.json is not None:
        args.json.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return 0 if report.good else 1


def _replayed(args: argparse.Namespace) -> "Report":
    from service.observing.audit.replay import replay, texts_of, wanted

    others = [path for path in (args.accurate, args.multilingual) if path is not None]
    if args.texts is None and args.bundle is None and not others and not args.policy_encoder:
        return replay(args.logs)  # the logs hold all that deciding takes
    paths = [args.bundle or bundles.default_bundle(), *others]
    folder = args.policy_encoder or policy_encoder_there()
    ruling = [] if folder is None else [rules.load(folder)]
    bands = _bands(args.accurate)
    cascades = [] if bands is None else [bands.version]
    if args.texts is None:
        known = {bundles.load(path).fingerprint for path in paths}
        known |= {encoder.fingerprint for encoder in ruling}
        return replay(args.logs, bundles=known, cascades=cascades)
    from service.engine.split import KEPT_BYTES, encoder_of
    from service.observing.audit.again import Judges

    texts = texts_of(args.texts, wanted(args.logs), os.environ.get(SECRET))
    classifiers = [load_classifier(path) for path in paths]
    encoders = [encoder_of(bundle, 0, KEPT_BYTES) for bundle in ruling]
    judges = Judges(texts, classifiers, bands, encoders)
    return replay(args.logs, bundles=judges.bundles, cascades=cascades, again=judges.again)


def _bands(accurate: Path | None) -> Bands | None:
    """What settles two opinions, where there is a cascade: the accurate tier has no need of it."""
    if accurate is None or bands_file(accurate) is None:
        return None
    return load_bands(accurate)


def _show(args: argparse.Namespace) -> int:
    from service.observing.audit.history import Log

    asked = {"caller": args.caller, "action": args.action, "request_id": args.request}
    wished = {name: value for name, value in asked.items() if value is not None}
    for recorded in Log(args.logs).verdicts():
        raw = recorded.raw
        try:
            time = datetime.fromisoformat(raw["time"])
            fits = all(raw[name] == value for name, value in wished.items())
            early = args.since and time < args.since
            late = args.before and time >= args.before
        except (KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__} {error}"
            raise CommandError(f"{recorded.where}: not a whole record: {said}") from None
        if fits and not early and not late:
            print(json.dumps(raw))
    return 0
