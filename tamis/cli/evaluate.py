"""``tamis evaluate``: measure a bundle on labelled rows."""

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tamis.cli.common import Commands, load_classifier, policy_of, provenance_of
from tamis.content import Content
from tamis.verdict import Finding


def add_to(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser("evaluate", help="measure a bundle on labelled directories")
    labelled = evaluate.add_mutually_exclusive_group(required=True)
    labelled.add_argument("--data", type=Path, help="folder of *.jsonl.gz")
    labelled.add_argument(
        "--feedback", action="append", metavar="STORE", help="corrections, as for `tamis train`"
    )
    evaluate.add_argument("--bundle", type=Path)
    evaluate.add_argument("--policy", type=Path, help="policy file (default: the shipped one)")
    evaluate.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from service.engine.runtime import available_threads
    from training.datasets import feedback
    from training.evaluation import suite

    # One text per core: the best throughput, and the very graph and code path that serve.
    classifier, policy = load_classifier(args.bundle, threads=1), policy_of(args.policy)
    with (
        ThreadPoolExecutor(available_threads()) as pool,
        tempfile.TemporaryDirectory() as scratch,
    ):
        data = args.data or feedback.as_sets(args.feedback, Path(scratch))

        def judge_all(contents: Sequence[Content]) -> Iterator[Finding]:
            return pool.map(classifier.judge, contents)

        results = suite.evaluate(
            data,
            judge_all,
            policy,
            classifier.bundle.thresholds,
            provenance_of(classifier, policy),
            progress=lambda findings, n, name: tqdm(findings, total=n, desc=name, unit="text"),
        )
    print(suite.table(results))
    if args.json:
        results["about"] = {
            "name": classifier.bundle.name,
            "licence": classifier.bundle.manifest["licence"],
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{available_threads()} cores, {platform.processor() or platform.machine()}",
        }
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0
