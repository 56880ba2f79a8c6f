"""``tamis evaluate``: measure a bundle on labelled rows."""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import bundle as bundles
from tamis.cli.common import (
    Commands,
    add_tier,
    load_tier,
    multilingual_of,
    policy_of,
    provenance_of,
)
from tamis.content import Content
from tamis.policy import Policy, Thresholds
from tamis.verdict import Finding, Provenance

if TYPE_CHECKING:
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
    judge = evaluate.add_mutually_exclusive_group()
    judge.add_argument("--bundle", type=Path)
    judge.add_argument("--checkpoint", type=Path, help="a calibrated checkpoint, before its export")
    add_tier(evaluate)
    evaluate.add_argument("--policy", type=Path, help="policy file (default: the shipped one)")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    evaluate.add_argument(
        "--scores", type=Path, metavar="OUT", help="write every row's id, label and score here"
    )
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from training.datasets import feedback
    from training.evaluation import suite

    policy = policy_of(args.policy)
    if args.held_out:
        return _held_out(args, policy)
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


def _held_out(args: argparse.Namespace, policy: Policy) -> int:
    from training.evaluation import held_out

    rows = held_out.rows_of(args.held_out)
    with _judge(args, policy) as judge:
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


@contextmanager
def _judge(args: argparse.Namespace, policy: Policy) -> Iterator[_Judge]:
    if args.checkpoint:
        from training.evaluation.checkpoint import CheckpointJudge

        trained = CheckpointJudge(args.checkpoint)
        who = Provenance(args.checkpoint.name, "", policy.name, policy.version)
        about = {"name": args.checkpoint.name, "training": trained.checkpoint.training}
        yield _Judge(trained.judge_all, trained.thresholds, who, about)
        return
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
        thresholds = classifier.bundle.thresholds
        yield _Judge(judge_all, thresholds, provenance_of(classifier, policy), about)
