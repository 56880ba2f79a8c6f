"""``tamis export``: checkpoint → bundle; base and delta → made on use; bundle → for others."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError
from typing import Final

from tamis import tiers
from tamis.bundle import MANIFEST, BundleError, default_bundle
from tamis.cli import rules
from tamis.cli.common import CommandError, Commands, load_classifier, one_a_line, whole
from tamis.reasoner.bundle import WHERE, default_reasoner
from tamis.rules import ACCURATE as RULES
from tamis.rules import accurate_wanted, default_policy_encoder
from tamis.tiers import ACCURATE, MULTILINGUAL, Companion

CLASSIFIER: Final = ("int8", "fp16")
REASONER: Final = ("int4", "int8", "fp32")
WHAT_FOR: Final = {
    "classifier": "a checkpoint as a bundle",
    "checkpoint": "a bundle as a checkpoint to go on training from",
    "thresholds": "a bundle's scales and thresholds anew",
    "delta": "a bundle as its difference from its public base",
    "accurate": "the accurate tier's bundle, from base and delta",
    "multilingual": "the bundle for other languages, from base and delta",
    "policy-encoder": "an accurate policy encoder, from base and delta",
    "cascade": "when the fast bundle is to ask the accurate one",
    "reasoner": "the reasoner, from base and adapter",
    "rules": "a policy encoder's checkpoint as a bundle",
    "huggingface": "a bundle as optimum and transformers load it",
}


def add_to(commands: Commands) -> None:
    """Add the command."""
    export = commands.add_parser(
        "export",
        help="checkpoint → bundle with a parity report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=one_a_line(WHAT_FOR),
    )
    export.add_argument(
        "what",
        nargs="?",
        choices=WHAT,
        default="classifier",
        metavar="WHAT",
        help="classifier unless said otherwise",
    )
    export.add_argument("folder", nargs="?", type=Path, help="huggingface: where to write")
    export.add_argument(
        "--text", action="store_true", help="huggingface: judge texts as posts, not as prompts"
    )
    export.add_argument("--checkpoint", type=Path, help="of the classifier or policy encoder")
    export.add_argument("--data", type=Path, nargs="+", help="folders of its training rows")
    rules.add_policies(export)
    export.add_argument(
        "--out", type=Path, help="bundle folder (reasoner: where it is served from)"
    )
    export.add_argument("--name", help="name of the bundle, e.g. tamis-22m")
    export.add_argument(
        "--bundle",
        type=Path,
        help="delta: an exported bundle, not a checkpoint (a policy encoder's always); "
        "huggingface, checkpoint, thresholds: what to write (default: the shipped one)",
    )
    export.add_argument(
        "--delta",
        type=Path,
        help="accurate, multilingual, policy-encoder: the delta (default: the shipped one)",
    )
    export.add_argument("--fast", type=Path, help="cascade: bundle (default: the shipped one)")
    export.add_argument("--accurate", type=Path, help="cascade: bundle of the accurate tier")
    export.add_argument(
        "--share",
        type=float,
        default=0.25,
        help="cascade: of safe rows, asked twice (default 0.25)",
    )
    export.add_argument("--rows", type=whole, help="cascade: held-out rows to judge (default: all)")
    export.add_argument(
        "--precision",
        choices=sorted({*CLASSIFIER, *REASONER}),
        default="int8",
        help="classifier: int8 for CPUs, fp16 for GPUs; reasoner: int4, int8, fp32",
    )
    export.add_argument("--base", help="base model of the reasoner")
    export.add_argument("--adapter", type=Path, help="LoRA adapter of the reasoner (peft)")
    export.add_argument(
        "--if-needed",
        action="store_true",
        help="accurate, multilingual, policy-encoder, reasoner: only where one is used, "
        "and none made of the same "
        "is there",
    )
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    if args.folder is not None and args.what != "huggingface":
        raise CommandError(f"{args.folder}: the folder of a {args.what} is given with --out")
    return WHAT[args.what](args)


def _needs(args: argparse.Namespace, *names: str) -> None:
    if missing := [name for name in names if getattr(args, name) is None]:
        raise CommandError(f"--{missing[0]}: the export of a {args.what} needs it")


def _huggingface(args: argparse.Namespace) -> int:
    folder = args.folder or args.out
    if folder is None:
        raise CommandError("name the folder to write: tamis export huggingface FOLDER")
    from export import huggingface

    asked: huggingface.Asked = "text" if args.text else "prompt"
    config = huggingface.build(args.bundle or default_bundle(), folder, asked)
    print(json.dumps({"out": str(folder), "labels": list(config["label2id"])}, indent=2))
    return 0


def _checkpoint(args: argparse.Namespace) -> int:
    _needs(args, "out")
    from export.restore import RestoreError, restore

    bundle = args.bundle or default_bundle()
    try:
        restore(bundle, args.out)
    except (BundleError, RestoreError) as error:
        raise CommandError(f"no checkpoint: {error}") from None
    print(json.dumps({"out": str(args.out)}))
    return 0


def _thresholds(args: argparse.Namespace) -> int:
    _needs(args, "data", "out")
    from export.recalibrate import recalibrate

    try:
        heads = recalibrate(args.bundle or default_bundle(), args.data, args.out)
    except BundleError as error:
        raise CommandError(f"no thresholds: {error}") from None
    told = ("flag", "block", "f1", "alarms", "rows")
    print(json.dumps({head["name"]: {name: head[name] for name in told} for head in heads}))
    return 0


def _classifier(args: argparse.Namespace) -> int:
    _needs(args, "checkpoint", "data", "out", "name")
    _one_of(args.precision, CLASSIFIER)
    from export.bundle import build

    report = build(args.checkpoint, args.data, args.out, args.name, args.precision)
    print(json.dumps(report, indent=2))
    return 0


def _rules(args: argparse.Namespace) -> int:
    _needs(args, "checkpoint", "data")
    if not args.policies:
        raise CommandError("--policies: the export of a policy encoder needs it")
    from export.rules import build

    out = args.out or default_policy_encoder()
    hinted = rules.hints_for(args.checkpoint, args.bundle)
    report = build(
        args.checkpoint, args.data, args.policies, out, args.name or out.name, hinted=hinted
    )
    print(json.dumps(report, indent=2))
    return 0


def _delta(args: argparse.Namespace) -> int:
    _needs(args, "out")
    if args.bundle is None:
        _needs(args, "checkpoint", "data")
    with tempfile.TemporaryDirectory() as scratch, _installed():
        from export import rebuild

        bundle = args.bundle
        if bundle is None:
            from export.bundle import build

            name = args.name or ACCURATE.name
            bundle = Path(scratch) / name
            report = build(args.checkpoint, args.data, bundle, name)
            print(json.dumps(report, indent=2))
        try:
            size = rebuild.write_delta(bundle, args.out)
        except (BundleError, rebuild.BaseMismatchError, OSError) as error:
            raise CommandError(f"no delta: {error}") from None
    print(json.dumps({"out": str(args.out), "bytes": size}))
    return 0


def _accurate(args: argparse.Namespace) -> int:
    if args.if_needed and args.out is None:
        tier = os.environ.get("TAMIS_TIER") or tiers.DEFAULT
        if tier == "fast" or not ACCURATE.wanted:
            print(f"no accurate bundle is wanted: the tier is {tier}", file=sys.stderr)
            return 0
    return _rebuilt(args, ACCURATE)


def _multilingual(args: argparse.Namespace) -> int:
    if args.if_needed and args.out is None:
        if not MULTILINGUAL.wanted:
            print(f"no multilingual bundle is wanted: {MULTILINGUAL.variable}", file=sys.stderr)
            return 0
        if args.delta is None and not (MULTILINGUAL.delta / MANIFEST).is_file():
            print(f"no multilingual bundle to make: {MULTILINGUAL.delta} is none", file=sys.stderr)
            return 0
    return _rebuilt(args, MULTILINGUAL)


def _policy_encoder(args: argparse.Namespace) -> int:
    if args.if_needed and args.out is None:
        if not accurate_wanted():
            print("no accurate policy encoder is wanted", file=sys.stderr)
            return 0
        if args.delta is None and not (RULES.delta / MANIFEST).is_file():
            print(f"no accurate policy encoder to make: {RULES.delta} is none", file=sys.stderr)
            return 0
    return _rebuilt(args, RULES)


def _rebuilt(args: argparse.Namespace, companion: Companion) -> int:
    with _installed():
        from export import rebuild
    out = args.out or companion.folder
    try:
        bundle = rebuild.build(out, args.delta or companion.delta, if_needed=args.if_needed)
    except (BundleError, rebuild.BaseMismatchError, OSError, CalledProcessError) as error:
        raise CommandError(f"no {args.what} bundle: {error}") from None
    print(json.dumps({"out": str(out), "bundle": f"{bundle.name}@{bundle.fingerprint[:12]}"}))
    return 0


def _cascade(args: argparse.Namespace) -> int:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from tqdm import tqdm

    from service.engine.runtime import available_threads
    from training.datasets import mixing
    from training.evaluation.cascade import Judged, better_told, choose, telling
    from training.evaluation.suite import content_of

    _needs(args, "data")
    if not 0 < args.share < 1:
        raise CommandError("--share: must be above 0 and below 1")
    paths = args.fast or default_bundle(), args.accurate or ACCURATE.folder
    out = args.out or ACCURATE.delta
    out.mkdir(parents=True, exist_ok=True)
    classifiers = [load_classifier(path, threads=1) for path in paths]
    _, held = mixing.split(mixing.load(args.data, "permissive"))
    held = telling(held)
    drawn = np.random.default_rng(0).permutation(len(held))[: args.rows]
    rows = [held[n] for n in drawn]
    findings = []
    with ThreadPoolExecutor(available_threads()) as pool:
        for classifier in classifiers:
            judged = pool.map(classifier.judge, [content_of(row) for row in rows])
            name = classifier.bundle.name
            findings.append(list(tqdm(judged, total=len(rows), desc=name, unit="text")))
    fast, accurate = (classifier.bundle for classifier in classifiers)
    own = fast.thresholds, accurate.thresholds
    chosen = choose(Judged(rows, findings[0], findings[1], own), args.share)
    found = {
        "format": tiers.FORMAT,
        "fast": {"name": fast.name, "fingerprint": fast.fingerprint},
        "accurate": {"name": accurate.name, "fingerprint": accurate.fingerprint},
        "kept": better_told(fast.manifest, accurate.manifest),
    } | chosen
    text = json.dumps(found, indent=2) + "\n"
    # Beside the delta to be committed, and in the bundle's folder to be used.
    for folder in (out, accurate.path):
        (folder / tiers.BANDS).write_text(text, encoding="utf-8")
    print(text)
    return 0


def _reasoner(args: argparse.Namespace) -> int:
    _one_of(args.precision, REASONER)
    if args.if_needed and args.out is None and os.environ.get(WHERE) in tiers.NONE:
        print(f"no reasoner is wanted: {WHERE} is empty", file=sys.stderr)
        return 0
    with _installed():
        from export import reasoner
    adapter = args.adapter or reasoner.shipped_adapter()
    if args.if_needed and adapter is None:
        raise CommandError("--adapter: none is committed, and the base alone is no reasoner")
    out = args.out or default_reasoner()
    chosen = {n: getattr(args, n) for n in ("base", "name") if getattr(args, n) is not None}
    try:
        manifest = reasoner.build(
            out,
            adapter=adapter,
            precision=args.precision,
            if_needed=args.if_needed,
            **chosen,
        )
    except (BundleError, reasoner.BaseMismatchError, OSError, CalledProcessError) as error:
        raise CommandError(f"no reasoner: {error}") from None
    print(json.dumps({"out": str(out), "parity": manifest.get("parity")}, indent=2))
    return 0


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the package {error.name} is missing: pip install 'tamis[reasoner]'"
        ) from None


def _one_of(precision: str, allowed: tuple[str, ...]) -> None:
    if precision not in allowed:
        raise CommandError(f"--precision: {precision} is not one of {', '.join(allowed)}")


WHAT: Final = {
    "classifier": _classifier,
    "checkpoint": _checkpoint,
    "thresholds": _thresholds,
    "delta": _delta,
    "accurate": _accurate,
    "multilingual": _multilingual,
    "policy-encoder": _policy_encoder,
    "cascade": _cascade,
    "reasoner": _reasoner,
    "rules": _rules,
    "huggingface": _huggingface,
}
