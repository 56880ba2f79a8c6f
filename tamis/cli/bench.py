"""``tamis bench``: measure."""

import argparse
import importlib
from pathlib import Path

from tamis import bundle as bundles
from tamis.cli.common import CommandError, Commands, one_a_line, whole
from tamis.tiers import TIERS

BENCHMARKS = {
    "latency": "HTTP latency of one client beside the bare runtime's",
    "saturation": "throughput beside the bare runtime's",
    "peers": "other servers on the same cores",
    "overload": "three times more than the machine can do",
    "invariance": "the same text, the same score, whatever the load",
    "soak": "memory over time",
    "roofline": "the bare graph beside what a core can do at most",
    "rolling": "what a rolling update costs the callers",
    "observability": "what logs, audit records and spans cost",
    "reasoner": "time to verdict and to reason",
    "rules": "what a policy's own rules add",
    "robustness": "what an obfuscated text still says, and a greedy attacker",
    "conversations": "last turns in the light of earlier ones",
    "tiers": "latency, memory and size of every tier",
    "workers": "threads beside worker processes",
    "mixed": "everything at once, while workers are killed",
    "profile": "where a request's time goes",
}


def add_to(commands: Commands) -> None:
    """Add the command."""
    bench = commands.add_parser(
        "bench",
        help="measure; docs/performance.md is made from it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=one_a_line(BENCHMARKS),
    )
    bench.add_argument("name", nargs="?", default="latency", choices=BENCHMARKS, metavar="NAME")
    bench.add_argument("--bundle", type=Path)
    bench.add_argument(
        "--data",
        type=Path,
        help="folder of real texts, for invariance, robustness, conversations and tiers",
    )
    bench.add_argument(
        "--rows",
        type=int,
        default=60,
        help="harmful and benign ones, of robustness and conversations",
    )
    bench.add_argument("--before", type=Path, help="robustness: the bundle that learnt less")
    bench.add_argument("--minutes", type=float, default=10, help="of the soak and the mix")
    bench.add_argument("--reasoner", type=Path, help="bundle of the reasoner (default: ours)")
    bench.add_argument("--tier", choices=TIERS, help="of robustness and conversations")
    bench.add_argument("--accurate", type=Path, help="bundle of the accurate tier")
    bench.add_argument(
        "--also", type=_named, action="append", default=[], metavar="NAME=BUNDLE",
        help="tiers: a further bundle, as it serves alone",
    )  # fmt: skip
    bench.add_argument("--rounds", type=whole, default=5, help="of tiers, workers and mixed")
    bench.add_argument(
        "--workers", type=_counts, default=[0, 1, 2], metavar="N,…",
        help="numbers of workers, of workers and mixed; 0: none",
    )  # fmt: skip
    bench.add_argument("--kill", type=float, default=20, help="mixed: seconds between two workers")
    bench.add_argument(
        "--policy-encoder",
        type=Path,
        nargs="+",
        help="rules: bundles to measure, one after another (default: ours)",
    )
    bench.add_argument(
        "--rehearse",
        action="store_true",
        help="tiers, workers, mixed, rules: short, nothing is kept",
    )
    bench.set_defaults(run=_bench)


def _named(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError("must be NAME=BUNDLE")
    return name, Path(path)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise argparse.ArgumentTypeError("must be whole numbers, by comma")
    return counts


def _bench(args: argparse.Namespace) -> int:
    if args.name in ("invariance", "robustness", "conversations") and args.data is None:
        raise CommandError(f"--data: {args.name} needs a folder of *.jsonl.gz")
    if args.rows < 1:
        raise CommandError("--rows: must be at least 1")
    modules = {
        "peers": "compare",
        "robustness": "robustness.measure",
        "conversations": "robustness.conversations",
        "profile": "profile.measure",
    }
    module = modules.get(args.name, args.name)
    try:
        benchmark = importlib.import_module(f"benchmarks.{module}")
    except ModuleNotFoundError as error:
        if error.name != "benchmarks":
            raise
        raise CommandError("benchmarks are run from a source tree") from None
    more = {
        "invariance": [args.data],
        "soak": [args.minutes],
        "reasoner": [args.reasoner],
        "rules": [args.policy_encoder, args.rehearse],
        "robustness": [args.data, args.rows, args.before, args.tier, args.accurate],
        "conversations": [args.data, args.rows, args.tier, args.accurate],
        **{name: [args.accurate] for name in ("profile", "overload", "peers", "roofline")},
        "workers": [args.accurate, args.workers, args.rounds, args.rehearse],
        "mixed": [
            *(args.accurate, args.workers, args.minutes, args.kill, args.rounds, args.rehearse)
        ],
        "tiers": [args.accurate, args.also, args.data, args.rounds, args.rehearse],
    }
    benchmark.run(args.bundle or bundles.default_bundle(), *more.get(args.name, []))
    return 0
