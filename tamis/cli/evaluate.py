"""``tamis evaluate``: measure a bundle on labelled rows."""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import bundle as bundles
from tamis.cli.common import (
    CommandError,
    Commands,
    add_tier,
    load_tier,
    multilingual_of,
    policy_of,
    provenance_of,
)
from tamis.content import Content
from tamis.policy import Policy, Thresholds
from tamis.tiers import ACCURATE, load_bands
from tamis.tokens import plain_tokenizer
from tamis.verdict import Finding, Provenance, Second

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from training.evaluation.suite import JudgeAll


def add_to(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser("evaluate", help="measure a bundle on labelled directories")
    labelled = evaluate.add_mutually_exclusive_group(required=True)
    labelled.add_argument("--data", type=Path, help="folder of *.jsonl.gz")
    labelled.add_argument(
        "--feedback", action="append", metavar="STORE", help="corrections, as for `tamis train`"
    )
    labelled.add_argument(
        "--held-out",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of rows that were read: what their held-out ones show",
    )
    labelled.add_argument(
        "--padding",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of training data: whether a harmful sentence is found among calm ones",
    )
    judge = evaluate.add_mutually_exclusive_group()
    judge.add_argument("--bundle", type=Path)
    judge.add_argument("--checkpoint", type=Path, help="a calibrated checkpoint, before its export")
    judge.add_argument(
        "--recorded",
        type=Path,
        nargs="+",
        metavar="FINDINGS",
        help="no model: what one wrote with --findings, or fast and accurate as a cascade",
    )
    add_tier(evaluate)
    evaluate.add_argument("--policy", type=Path, help="policy file (default: the shipped one)")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    evaluate.add_argument(
        "--scores", type=Path, metavar="OUT", help="write every row's id, label and score here"
    )
    evaluate.add_argument(
        "--findings", type=Path, metavar="OUT", help="write all that was found, for --recorded"
    )
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.datasets import feedback
    from training.evaluation import suite

    policy = policy_of(args.policy)
    if args.held_out or args.padding:
        return _told(args, policy)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        each = None
        if args.scores:
            lines = stack.enter_context(args.scores.open("w", encoding="utf-8"))

            def each(told: dict[str, Any]) -> None:
                lines.write(json.dumps(told) + "\n")

        data = args.data or feedback.as_sets(args.feedback, Path(scratch))
        with _judge(args, policy) as judge:
            results = suite.evaluate(
                data,
                judge.judge_all,
                policy,
                judge.thresholds,
                judge.provenance,
                progress=lambda found, n, name: tqdm(found, total=n, desc=name, unit="text"),
                each=each,
            )
    print(suite.table(results))
    if args.json:
        results["about"] = judge.about | {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        }
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


def _told(args: argparse.Namespace, policy: Policy) -> int:
    from training.evaluation import held_out, padding

    with _judge(args, policy) as judge:
        if args.padding:
            if judge.tokens is None:
                raise CommandError("--padding: needs a model, and no findings on file")
            texts = padding.texts_of(padding.rows_of(args.padding), judge.tokens)
            figures = padding.measure(texts, judge.judge_all, judge.thresholds)
        else:
            rows = held_out.rows_of(args.held_out)
            figures = held_out.measure(
                rows, judge.judge_all, policy, judge.thresholds, judge.provenance
            )
    text = json.dumps(figures | {"about": judge.about}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True, slots=True)
class _Judge:
    judge_all: "JudgeAll"
    thresholds: Mapping[str, Thresholds]
    provenance: Provenance
    about: dict[str, Any]
    tokens: Callable[[str], int] | None
    """How many tokens a text has; unknown of findings on file, which padded texts are not among."""


def _counter(tokenizer: "Tokenizer") -> Callable[[str], int]:
    """How many tokens a text has."""
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


@contextmanager
def _judge(args: argparse.Namespace, policy: Policy) -> Iterator[_Judge]:
    with _who_judges(args, policy) as judge:
        if args.findings is None:
            yield judge
            return
        from training.evaluation import recorded

        several = judge.about.get("tier") == "cascade" or judge.about.get("multilingual")
        if args.checkpoint or several:
            raise CommandError("--findings: those of one bundle are recorded")
        about, who = judge.about, judge.provenance
        with args.findings.open("w", encoding="utf-8") as out:
            head = recorded.head(about["name"], about["licence"], who.bundle, judge.thresholds)
            out.write(json.dumps(head) + "\n")

            def judge_all(contents: Sequence[Content]) -> Iterator[Finding]:
                return recorded.recording(contents, judge.judge_all(contents), out)

            yield replace(judge, judge_all=judge_all)


@contextmanager
def _who_judges(args: argparse.Namespace, policy: Policy) -> Iterator[_Judge]:
    if args.recorded:
        yield _recorded(args, policy)
        return
    if args.checkpoint:
        from training.evaluation.checkpoint import CheckpointJudge

        trained = CheckpointJudge(args.checkpoint)
        who = Provenance(args.checkpoint.name, "", policy.name, policy.version)
        about = {"name": args.checkpoint.name, "training": trained.checkpoint.training}
        counting = _counter(trained.checkpoint.tokenizer)
        yield _Judge(trained.judge_all, trained.thresholds, who, about, counting)
        return
    from service.engine.cascade import Cascade
    from service.engine.runtime import available_threads

    # One text per core: the best throughput, and the very graph and code path that serve.
    other = multilingual_of(args.multilingual)
    classifier = load_tier(args.tier, args.bundle, args.accurate, 1, other)
    with ThreadPoolExecutor(available_threads()) as pool:

        def judge_all(contents: Sequence[Content]) -> Iterator[Finding]:
            return pool.map(classifier.judge, contents)

        about = {
            "name": classifier.bundle.name,
            "licence": classifier.bundle.manifest["licence"],
            "tier": args.tier or "fast",
            "multilingual": None if other is None else bundles.load(other).name,
        }
        if isinstance(classifier, Cascade):
            about["second"] = _second(classifier.second)
        thresholds = classifier.bundle.thresholds
        counting = _counter(plain_tokenizer(classifier.bundle.tokenizer))
        yield _Judge(judge_all, thresholds, provenance_of(classifier, policy), about, counting)


def _recorded(args: argparse.Namespace, policy: Policy) -> _Judge:
    from training.evaluation import recorded

    if len(args.recorded) > 2:
        raise CommandError("--recorded: findings of one bundle, or of fast and accurate")
    first, *others = (recorded.read(path) for path in args.recorded)
    judge = first.judge
    about: dict[str, Any] = {
        "name": first.name,
        "licence": first.licence,
        "tier": args.tier,
        "multilingual": None,
    }
    for second in others:
        bands = load_bands(args.accurate or ACCURATE.folder)
        cascade = recorded.RecordedCascade(first, second, bands)
        judge = cascade.judge
        about |= {"tier": "cascade", "second": _second(cascade.second)}

    def judge_all(contents: Sequence[Content]) -> Iterator[Finding]:
        return map(judge, contents)

    who = Provenance(first.name, first.fingerprint, policy.name, policy.version)
    return _Judge(judge_all, first.thresholds, who, about, None)


def _second(who: Second) -> str:
    return f"{who.model}@{who.bundle[:12]}"
