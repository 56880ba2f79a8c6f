"""``tamis evaluate-reasoner``: measure a reasoner on labelled rows and an invented policy."""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tamis.cli import rules
from tamis.cli.common import (
    CommandError,
    Commands,
    load_classifier,
    load_reasoner,
    policy_of,
    provenance_of,
    whole,
)
from tamis.content import Content
from tamis.deciding import decide
from tamis.reasoner import bundle as reasoners
from tamis.reasoner.protocol import Answer, as_text, verdict

# Texts of either label a taxonomy: of the reasoner's older rows, and of those beside them.
FEW_TEXTS: Final = 20
MANY_TEXTS: Final = 60


def add_to(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser(
        "evaluate-reasoner", help="measure a reasoner on trained and unseen policies"
    )
    evaluate.add_argument(
        "--data", type=Path, required=True, action="append", help="folder of rows; repeatable"
    )
    evaluate.add_argument("--checkpoint", type=Path, help="adapter (default: the bare base)")
    evaluate.add_argument(
        "--examples", type=Path, help="what was trained on (default: as the checkpoint says)"
    )
    evaluate.add_argument("--base", help="what the adapter belongs to")
    evaluate.add_argument(
        "--mode",
        choices=("generated", "scored"),
        default="generated",
        help="write whole answers, or read the verdict off one pass (no reasons)",
    )
    evaluate.add_argument(
        "--served", type=Path, metavar="BUNDLE", help="a reasoner's bundle, as it is served"
    )
    evaluate.add_argument(
        "--encoder", type=Path, metavar="BUNDLE", help="a policy encoder's bundle, as it is served"
    )
    evaluate.add_argument(
        "--pages",
        type=Path,
        metavar="FOLDER",
        help="with --encoder: write every measurement that docs/reasoner.md shows of it here",
    )
    rules.add_policies(evaluate)
    evaluate.add_argument(
        "--most", type=whole, default=60, help="texts of either label, per taxonomy (default 60)"
    )
    evaluate.add_argument("--names-only", action="store_true", help="policies without definitions")
    evaluate.add_argument("--only", nargs="+", default=[], metavar="TAXONOMY")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--bundle",
        type=Path,
        help="classifier whose figures stand beside, and who gives hints to an encoder",
    )
    evaluate.add_argument(
        "--no-hints", action="store_true", help="tell an encoder nothing of what a classifier says"
    )
    evaluate.add_argument("--no-classifier", action="store_true")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    evaluate.set_defaults(run=_evaluate)


def flags_of(bundle: Path | None) -> Any:
    """Whether the classifier flags texts under the default policy."""
    from service.engine.runtime import available_threads

    classifier, policy = load_classifier(bundle, threads=1), policy_of(None)
    own, said = classifier.bundle.thresholds, provenance_of(classifier, policy)

    def flags(contents: Sequence[Content]) -> list[bool]:
        with ThreadPoolExecutor(available_threads()) as pool:
            findings = pool.map(classifier.judge, contents)
            return [decide([finding], policy, own, said).flagged for finding in findings]

    return flags


def trained_on(examples: Path) -> tuple[str, ...]:
    """The taxonomies that a folder of examples was drawn from."""
    report = json.loads((examples / "report.json").read_text(encoding="utf-8"))
    return tuple(report["examples.jsonl.gz"]["by_taxonomy"])


def said_of(bundle: Path) -> str:
    """Name and hash of a reasoner's bundle."""
    found = reasoners.load(bundle)
    return f"{found.name}@{found.fingerprint[:12]}"


def served(bundle: Path) -> Any:
    """Answers of a reasoner's bundle, by the engine that serves it, as long as it lets them be."""
    from service.engine.reasoner.reasoner import TooLongError, go_on
    from service.settings import Settings
    from training.reasoner.decode import Said

    reasoner = load_reasoner(bundle)
    most = Settings.model_fields["reasoner_max_tokens"].default

    def said(example: Any) -> Any:
        try:
            _, found = reasoner.explain(example.policy, [example.content], go_on, most)
        except TooLongError:
            return Said(None, "layout")
        reading = found.reading
        if found.reason is None:
            return Said(None, found.fault or "layout", unsafe=reading.unsafe)
        answer = Answer(reading.safety, reading.category, found.reason)
        words = len(as_text(verdict(answer.safety, answer.category)).split())
        return Said(answer, words=words + len(answer.reason.split()), unsafe=reading.unsafe)

    return lambda examples: [said(example) for example in examples]


def _evaluate(args: argparse.Namespace) -> int:
    from training.reasoner.evaluate import Settings, evaluate, save, table
    from training.reasoner.model import DEFAULT
    from training.rules.organisations import name_of, part_of, read_organisations

    if args.encoder is not None:
        return _encoder(args)
    if args.pages is not None:
        raise CommandError("--pages: needs --encoder")

    settings = Settings(
        mode=args.mode,
        most=args.most,
        names_only=args.names_only,
        seed=args.seed,
        only=tuple(args.only),
        trained=None if args.examples is None else trained_on(args.examples),
    )
    flags = None if args.no_classifier else flags_of(args.bundle)
    says = None if args.served is None else served(args.served)
    # The reasoner was trained on none of them; those that no policy encoder was are what compares.
    tests = [p for p in read_organisations(args.policies) if part_of(name_of(p)) == "test"]
    results = evaluate(
        args.data,
        args.checkpoint,
        settings,
        flags,
        args.base or DEFAULT,
        says=says,
        organisations=tests,
    )
    if args.served is not None:
        results["about"] |= {"mode": "served", "adapter": said_of(args.served)}
    print(table(results))
    if args.json:
        save(results, args.json)
    return 0


def _encoder(args: argparse.Namespace) -> int:
    """Measure a policy encoder: as the options say, or all that its page shows."""
    from training.reasoner.evaluate import Settings, evaluate, save, table
    from training.rules import evaluation
    from training.rules.organisations import read_organisations

    bundle, judge = rules.measured(args.encoder, args.bundle, not args.no_hints)
    pools = evaluation.unseen(read_organisations(args.policies), bundle)
    flags = None if args.no_classifier else flags_of(args.bundle)
    trained = tuple(bundle.manifest["training"]["taxonomies"])
    of_runs = {"": (args.most, args.names_only, pools)}
    if args.pages is not None:
        args.pages.mkdir(parents=True, exist_ok=True)
        # As the reasoner's older rows were measured, then on more texts, then without definitions.
        of_runs = {
            "": (FEW_TEXTS, False, []),
            "-more": (MANY_TEXTS, False, pools),
            "-names": (MANY_TEXTS, True, pools),
        }
    for suffix, (most, names_only, organisations) in of_runs.items():
        settings = Settings(
            most=most,
            names_only=names_only,
            seed=args.seed,
            only=tuple(args.only),
            trained=trained,
        )
        results = evaluate(
            args.data,
            None,
            settings,
            flags,
            says=evaluation.says_of(judge, bundle),
            organisations=organisations,
        )
        made = bundle.manifest["training"]
        results["about"] |= {
            "mode": "served",
            "adapter": f"{bundle.name}@{bundle.fingerprint[:12]}",
            "base": bundle.manifest["base"]["name"],
            "trained": {key: made[key] for key in ("rows", "steps", "seconds", "device")},
        }
        if organisations and not names_only:
            results["stability"] = evaluation.stability(judge, bundle, organisations, args.seed)
            rules_of = [rule for pool in organisations for rule in evaluation.rules_of(pool)]
            results["milliseconds"] = evaluation.speed(judge, rules_of)
        print(table(results))
        where = args.json if args.pages is None else args.pages / f"{bundle.name}{suffix}.json"
        if where is not None:
            save(results, where)
    return 0
