"""``tamis serve | keys | moderate | evaluate | train | feedback | export | bench``.

Each command imports its stage when it is asked for. This is the one module of the domain that
knows the other rooms: it wires them together.
"""

import argparse
import functools
import importlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import __version__
from tamis import bundle as bundles
from tamis.content import Content, exchange, prompt
from tamis.corrections import command
from tamis.policy import Policy, default_policy
from tamis.verdict import Action, Finding, Provenance, Verdict, decide

if TYPE_CHECKING:
    from service.engine.classifier import Classifier


class CommandError(RuntimeError):
    """Something the user can put right; printed without a traceback."""


# Options of ``moderate`` that make no sense without a file.
BULK = (
    *("output", "prompt_field", "response_field", "messages_field", "text_field", "id_field"),
    *("keep", "explain", "limit", "on_error", "overwrite", "threads", "quiet", "ray"),
    *("workers", "part_rows"),
)
BENCHMARKS = (
    *("latency", "saturation", "peers", "overload", "invariance", "soak", "roofline"),
    "rolling",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except ModuleNotFoundError as error:
        hint = {"serve": "cpu", "moderate": "cpu", "evaluate": "cpu"}.get(args.command, "training")
        # Parquet and clusters are extras of their own.
        hint = {"pyarrow": "bulk", "ray": "ray"}.get(str(error.name).partition(".")[0], hint)
        print(f"tamis: {error}; install the extra: pip install 'tamis[{hint}]'", file=sys.stderr)
        return 1
    except (CommandError, OSError, RuntimeError, ValueError) as error:
        print(f"tamis: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tamis", description=sys.modules["tamis"].__doc__)
    parser.add_argument("--version", action="version", version=f"tamis {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="answer HTTP requests")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 8000)")
    serve.add_argument("--bundle", type=Path, help="bundle to serve (default: the shipped one)")
    serve.add_argument("--policies", type=Path, help="folder of *.yaml policies")
    serve.add_argument("--keys", type=Path, help="file of API keys (see 'tamis keys new')")
    serve.add_argument("--mode", choices=("enforce", "score"), help="score: no policy acts")
    serve.add_argument("--admin-port", type=int, help="port of its own for metrics and reload")
    serve.add_argument("--provider", choices=("cpu", "cuda"), help="execution provider")
    serve.add_argument("--threads", type=int, help="cores to compute on (default: the CPU quota)")
    serve.add_argument("--workers", type=int, help="runs at the same time (default: one a thread)")
    serve.add_argument("--processes", type=int, help="server processes (default 1)")
    serve.set_defaults(run=_serve)

    keys = commands.add_parser("keys", help="make API keys").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    new = keys.add_parser(
        "new", help="print a new key (on standard error, once) and its entry for the file of keys"
    )
    new.add_argument("name", help="of its holder; appears in logs and audit records")
    new.add_argument(
        "--scope", action="append", dest="scopes", help="moderate, feedback, metrics or admin"
    )
    new.add_argument("--policy", help="the policy it gets where it names none")
    new.add_argument("--rate", type=float, help="items a second")
    new.add_argument("--burst", type=float, help="items at once (default: a second's)")
    new.set_defaults(run=_keys_new)

    moderate = commands.add_parser("moderate", help="judge one text, or the rows of a file")
    moderate.add_argument("text", nargs="?", help="a prompt; '-' reads standard input")
    moderate.add_argument("--response", help="judge this response to the prompt, too")
    moderate.add_argument("--policy", type=Path, help="policy file")
    moderate.add_argument("--bundle", type=Path)
    moderate.add_argument("--json", action="store_true", help="print the verdict as JSON")
    _bulk_arguments(moderate.add_argument_group("files", "every row of a file: docs/bulk.md"))
    moderate.set_defaults(run=_moderate)

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

    train = commands.add_parser("train", help="make a checkpoint").add_subparsers(
        dest="stage", required=True, metavar="STAGE"
    )
    classifier = train.add_parser("classifier", help="fine-tune and calibrate the classifier")
    classifier.add_argument("--data", type=Path, required=True, help="folder of training rows")
    classifier.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes")
    classifier.add_argument("--variant", choices=("permissive", "all"), default="permissive")
    classifier.add_argument("--base", help="base model: a known name, a hub id or a folder")
    classifier.add_argument("--init", help="finished checkpoint to go on from")
    classifier.add_argument("--epochs", type=float)
    classifier.add_argument("--lr", type=float, dest="encoder_lr", help="of the encoder")
    classifier.add_argument("--head-lr", type=float)
    classifier.add_argument("--seed", type=int)
    classifier.add_argument(
        "--feedback",
        action="append",
        default=[],
        metavar="STORE",
        help="corrections to learn from: a path, a postgresql:// URL or an exported *.jsonl.gz",
    )
    for who in ("reviewer", "key"):
        classifier.add_argument(f"--feedback-limit-per-{who}", type=int, metavar="N", dest=who)
    classifier.add_argument(
        "--feedback-exclude", type=Path, metavar="DIR", help="evaluation sets no feedback may meet"
    )
    classifier.set_defaults(run=_train_classifier)

    command.add_to(commands)

    export = commands.add_parser("export", help="checkpoint → bundle with a parity report")
    export.add_argument("--checkpoint", type=Path, required=True)
    export.add_argument("--data", type=Path, required=True, help="the training rows")
    export.add_argument("--out", type=Path, required=True, help="bundle folder")
    export.add_argument("--name", required=True, help="name of the bundle, e.g. tamis-22m")
    export.add_argument(
        "--precision", choices=["int8", "fp16"], default="int8", help="int8 for CPUs, fp16 for GPUs"
    )
    export.set_defaults(run=_export)

    bench = commands.add_parser("bench", help="measure; docs/performance.md is made from it")
    bench.add_argument("name", nargs="?", default="latency", choices=BENCHMARKS)
    bench.add_argument("--bundle", type=Path)
    bench.add_argument("--data", type=Path, help="folder of real texts, for invariance")
    bench.add_argument("--minutes", type=float, default=10, help="of the soak")
    bench.set_defaults(run=_bench)
    return parser


def _bulk_arguments(bulk: "argparse._ArgumentGroup") -> None:
    """Options that go with ``--input``; each is None where it was not given."""
    formats = ".jsonl, .jsonl.gz or .parquet"
    add = functools.partial(bulk.add_argument, default=None)
    add("--input", metavar="PATH", help=f"{formats}, a folder of them, or '-'")
    add("--output", metavar="PATH", help=f"{formats}; default '-': standard output")
    for name, what in (
        ("prompt", "users' requests (default 'prompt')"),
        ("response", "models' responses to them (default 'response')"),
        ("messages", "conversations (default 'messages')"),
        ("text", "posts and comments (default 'text')"),
    ):
        add(f"--{name}-field", metavar="COLUMN", help=f"column of {what}")
    add("--id-field", metavar="COLUMN", help="column of the rows' ids (default 'id')")
    add("--keep", metavar="A,B", help="columns to pass through; 'all' for all; default: none")
    add("--explain", choices=("evidence",), help="add the words that decided")
    add("--limit", type=_whole, metavar="N", help="judge the first N rows")
    add(
        "--on-error",
        choices=("record", "skip", "fail"),
        help="what to do with a malformed row: put an error in its place (default), leave it out, "
        "or stop; the exit status is 2 after the first two",
    )
    add("--overwrite", action="store_true", help="begin anew instead of going on")
    add("--threads", type=_whole, metavar="N", help="cores to compute on (default: all; Ray: 1)")
    add("--quiet", action="store_true", help="no progress on standard error")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster (default: RAY_ADDRESS, else one started here); --output is then "
        "a folder of parts",
    )
    add("--workers", type=_whole, metavar="N", help="with --ray: workers, of --threads cores each")
    add("--part-rows", type=_whole, metavar="N", help="with --ray: rows of a part (default 5000)")


def _whole(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def _serve(args: argparse.Namespace) -> int:
    from service.server import serve
    from service.settings import Settings

    serve(Settings(**{k: v for k, v in vars(args).items() if k in Settings.model_fields and v}))
    return 0


def _keys_new(args: argparse.Namespace) -> int:
    import yaml

    from service.access import new_key

    more = {name: getattr(args, name) for name in ("scopes", "policy", "rate", "burst")}
    key, entry = new_key(args.name, **more)
    print(yaml.safe_dump([entry], sort_keys=False), end="")
    print(f"the key, which is shown this once:\n{key}", file=sys.stderr)
    return 0


def _classifier(path: Path | None, threads: int | None = None) -> "Classifier":
    from service.engine.classifier import load_classifier
    from service.engine.runtime import CpuRuntime

    bundle = bundles.load(path or bundles.default_bundle())
    return load_classifier(bundle, CpuRuntime(bundle.graph, threads))


def _policy(path: Path | None) -> Policy:
    return Policy.load(path) if path else default_policy()


def _provenance(classifier: "Classifier", policy: Policy) -> Provenance:
    bundle = classifier.bundle
    return Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)


def _moderate(args: argparse.Namespace) -> int:
    from service.dialects.native import verdict_json

    if args.input is not None:
        return _bulk(args)
    if args.text is None:
        raise CommandError("moderate: give a text, or a file with --input")
    if given := _given(args, BULK):
        raise CommandError(f"{given[0]}: goes with --input, not with a text")
    text = sys.stdin.read() if args.text == "-" else args.text
    contents = (prompt(text),) if args.response is None else exchange(text, args.response)
    classifier, policy = _classifier(args.bundle), _policy(args.policy)
    findings = [classifier.judge(content, evidence=True) for content in contents]
    own = classifier.bundle.thresholds
    verdict = decide(findings, policy, own, _provenance(classifier, policy))
    if args.json:
        print(json.dumps(verdict_json(verdict, None, None), indent=2, ensure_ascii=False))
    else:
        print(_readable(verdict))
    return 0


def _bulk(args: argparse.Namespace) -> int:
    from service.bulk.job import Job
    from service.bulk.rows import Columns
    from service.settings import Settings

    if args.text is not None:
        raise CommandError("moderate: give a text or --input, not both")
    if given := _given(args, ("response", "json")):
        raise CommandError(f"{given[0]}: goes with a text, not with --input")
    fields = ("prompt", "response", "messages", "text", "id")
    columns = {name: column for name in fields if (column := getattr(args, f"{name}_field"))}
    settings = Settings()
    job = Job(
        input=args.input,
        output=args.output or "-",
        policy=_policy(args.policy),
        bundle_path=args.bundle,
        columns=Columns(**columns, keep=tuple(args.keep.split(",")) if args.keep else ()),
        evidence=args.explain == "evidence",
        threads=args.threads,
        limit=args.limit,
        on_error=args.on_error or "record",
        max_characters=settings.max_text_characters,
        cache_bytes=settings.cache_bytes,
        overwrite=bool(args.overwrite),
        quiet=bool(args.quiet),
    )
    if args.ray is None:
        from service.bulk import local

        if given := _given(args, ("workers", "part_rows")):
            raise CommandError(f"{given[0]}: goes with --ray")
        return local.run(job)
    from service.bulk import cluster

    where = cluster.Cluster(args.ray or None, args.workers, args.part_rows or cluster.PART_ROWS)
    return cluster.run(job, where)


def _given(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Options among these that were given."""
    return [
        f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)
    ]


def _readable(verdict: Verdict) -> str:
    """A verdict for people: the action, a bar for each score, and the words that decided."""
    colour = {Action.ALLOW: "32", Action.FLAG: "33", Action.BLOCK: "31"}[verdict.action]
    action = verdict.action.value.upper()
    if sys.stdout.isatty():
        action = f"\x1b[1;{colour}m{action}\x1b[0m"
    limit = "" if verdict.threshold is None else f" (flag from {verdict.threshold:.2f})"
    lines = [f"{action}  unsafe {verdict.score:.2f}{limit}", ""]
    scores = dict(verdict.categories)
    if verdict.attack is not None:
        scores["attack"] = verdict.attack
    for name, score in sorted(scores.items(), key=lambda item: -item[1].score):
        bar = "█" * round(20 * score.score)
        mark = " ← flagged" if score.flagged else ""
        lines.append(f"  {name:<15}{score.score:5.2f}  {bar:<20}{mark}")
    lines += [f'\n  {e.category} {e.score:.2f}: "{e.text}"' for e in verdict.evidence]
    where = verdict.provenance
    lines.append(f"\n  {where.model}@{where.bundle[:12]}, policy {where.policy}, ")
    lines[-1] += f"{verdict.windows} window{'s'[: verdict.windows != 1]}"
    return "\n".join(lines)


def _evaluate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from service.engine.runtime import available_threads
    from training.datasets import feedback
    from training.evaluation import suite

    # One text per core: the best throughput, and the very graph and code path that serve.
    classifier, policy = _classifier(args.bundle, threads=1), _policy(args.policy)
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
            _provenance(classifier, policy),
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


def _train_classifier(args: argparse.Namespace) -> int:
    from training.classifier import trainer
    from training.datasets import feedback

    names = ("base", "init", "epochs", "encoder_lr", "head_lr", "seed")
    chosen: dict[str, Any] = {
        name: getattr(args, name) for name in names if getattr(args, name) is not None
    }
    recipe = trainer.Recipe(variant=args.variant, **chosen)
    given = {"per_reviewer": args.reviewer, "per_key": args.key}
    limits = feedback.Limits(**{name: n for name, n in given.items() if n is not None})
    report = feedback.snapshot(args.feedback, args.out, limits, args.feedback_exclude)
    if args.feedback:
        print(report or "feedback: going on with the rows that this run began with")
        if args.feedback_exclude is None:
            print("  not compared with evaluation sets: no --feedback-exclude")
    trainer.train(args.data, args.out, recipe)
    for head in trainer.calibrate(args.data, args.out):
        print(f"{head.name:<15} f1 {head.f1:.3f} flag {head.flag:.3f} block {head.block:.3f}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from export.bundle import build

    report = build(args.checkpoint, args.data, args.out, args.name, args.precision)
    print(json.dumps(report, indent=2))
    return 0


def _bench(args: argparse.Namespace) -> int:
    if args.name == "invariance" and args.data is None:
        raise CommandError("--data: invariance needs a folder of *.jsonl.gz")
    module = {"peers": "compare"}.get(args.name, args.name)
    try:
        benchmark = importlib.import_module(f"benchmarks.{module}")
    except ModuleNotFoundError as error:
        if error.name != "benchmarks":
            raise
        raise CommandError("benchmarks are run from a source tree") from None
    more = {"invariance": [args.data], "soak": [args.minutes]}.get(args.name, [])
    benchmark.run(args.bundle or bundles.default_bundle(), *more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
