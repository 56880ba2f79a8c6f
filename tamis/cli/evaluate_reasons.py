"""``tamis evaluate-reasons``: what the reasoner writes where verdict and rule are given."""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tamis.cli import rules
from tamis.cli.common import CommandError, Commands, load_reasoner, whole

ALL: Final = 10**6


def add_to(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser(
        "evaluate-reasons", help="measure reasons of given verdicts, and prepare a blind reading"
    )
    rules.add_policies(evaluate)
    evaluate.add_argument("--served", type=Path, metavar="BUNDLE", help="a reasoner's bundle")
    evaluate.add_argument(
        "--most", type=whole, default=ALL, help="texts of either label an organisation"
    )
    evaluate.add_argument("--json", type=Path, required=True, metavar="OUT", help="the figures")
    evaluate.add_argument(
        "--sheet",
        type=Path,
        help="add texts of organisations never seen and their reasons here, to be read: JSON "
        "lines whose 'apt' is to be filled",
    )
    evaluate.add_argument("--count", type=whole, default=60, help="texts to draw (default 60)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--read", type=Path, metavar="SHEET", help="add what was judged of a sheet to the figures"
    )
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    if (args.read is None) == (args.served is None):
        raise CommandError("--served or --read: one of them is needed")
    return _write(args) if args.read is None else _read(args)


def _write(args: argparse.Namespace) -> int:
    from training.reasoner import worded
    from training.rules.organisations import read_organisations

    groups = worded.held_out(read_organisations(args.policies), args.most, args.seed)
    if not groups:
        raise CommandError("--policies: no organisation that is not trained on")
    reasoner = load_reasoner(args.served)
    written = {
        group: [_word(reasoner, example) for example in examples]
        for group, examples in groups.items()
    }
    bundle = reasoner.bundle
    results: dict[str, Any] = {
        "about": {
            "bundle": f"{bundle.name}@{bundle.fingerprint[:12]}",
            "date": datetime.now(UTC).date().isoformat(),
        },
        "groups": {
            group: worded.measure(examples, written[group]) for group, examples in groups.items()
        },
        "by_hand": {group: worded.by_hand(examples) for group, examples in groups.items()},
    }
    if args.sheet is not None:
        group = worded.UNSEEN if worded.UNSEEN in groups else next(iter(groups))
        drawn, lines = worded.draw(
            groups[group], written[group], bundle.fingerprint, args.count, args.seed
        )
        worded.add_to_sheet(args.sheet, lines, args.seed)
        read = {line["id"] for line in lines}
        results |= {"drawn": drawn, "unwritten": [name for name in drawn if name not in read]}
    _save(args.json, results)
    print(json.dumps(results["groups"], indent=2))
    return 0


def _read(args: argparse.Namespace) -> int:
    from training.reasoner.worded import read_judgements

    results = json.loads(args.json.read_text(encoding="utf-8"))
    if "drawn" not in results:
        raise CommandError(f"--json: {args.json} was measured without --sheet")
    found = read_judgements(args.read, results)
    _save(args.json, results | {"reading": found})
    print(f"{found['share']:.1%} of {found['n']} reasons are apt")
    return 0


def _word(reasoner: Any, example: Any) -> Any:
    """A reason as the service writes it."""
    from service.engine.reasoner.explanation import Given, Reading
    from service.engine.reasoner.reasoner import TooLongError, go_on
    from service.settings import Settings
    from training.reasoner.worded import Worded

    most = Settings.model_fields["reasoner_max_tokens"].default
    given = Given(example.answer.safety, example.category)
    decided = Reading(float(example.category is not None), {}, None, given=given)
    began = time.perf_counter()
    try:
        found = reasoner.word(example.policy, example.content, decided, go_on, most)
    except TooLongError:
        return Worded(None, "too_long", 0.0)
    return Worded(found.reason, found.status, 1000 * (time.perf_counter() - began))


def _save(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
