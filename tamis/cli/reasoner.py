"""``tamis train reasoner-data | reasoner | …``: the policy reasoner, stage by stage."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tamis.cli import rules
from tamis.cli.common import CommandError, Commands, chosen, load_classifier, load_reasoner, whole
from tamis.content import Content
from tamis.verdict import UNSAFE

# Sources whose held-out texts are other wordings of what was trained on: too well known to say how
# sure the reasoner may be of a new one.
MADE: Final = frozenset({"tamis_synthetic", "invented"})


def add_to(stages: Commands) -> None:
    """Add the stages of training."""
    data = stages.add_parser("reasoner-data", help="policy-conditioned examples with reasons")
    data.add_argument(
        "--data", type=Path, required=True, action="append", help="folder of rows; repeatable"
    )
    data.add_argument("--out", type=Path, required=True, help="folder of examples")
    data.add_argument("--exclude", type=Path, help="folder of rows that none may repeat")
    data.add_argument("--variant", choices=("permissive", "all"))
    data.add_argument("--groups", type=whole, help="policies to draw, of up to 8 texts each")
    data.add_argument("--reasons", type=float, help="share of examples that teach a reason")
    data.add_argument("--seed", type=int)
    data.add_argument("--bundle", type=Path, help="classifier whose evidence is quoted")
    data.add_argument("--writer", help="URL of an API that writes the reasons (OPENAI_API_KEY)")
    data.add_argument("--model", help="the model's name behind the URL")
    data.set_defaults(run=_data)

    reasons = stages.add_parser("reasoner-reasons", help="examples of reasons that people wrote")
    rules.add_policies(reasons, required=True)
    reasons.add_argument("--out", type=Path, required=True, help="folder of examples")
    reasons.add_argument(
        "--replay", type=Path, help="folder of older examples, a third of all by default"
    )
    reasons.add_argument("--replayed", type=float, help="their share in all, below 1")
    reasons.add_argument("--passes", type=whole, help="how often each text comes (default 2)")
    reasons.add_argument("--seed", type=int)
    reasons.set_defaults(run=_reasons)

    sft = stages.add_parser("reasoner", help="the cold start: LoRA fine-tuning on the examples")
    sft.add_argument("--data", type=Path, required=True, help="folder of examples")
    sft.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes")
    sft.add_argument("--base", help="base model: a known name, a hub id or a folder")
    sft.add_argument("--init", help="adapter or checkpoint of that base to go on from")
    sft.add_argument("--order", choices=("verdict-first", "reason-first"))
    sft.add_argument("--epochs", type=float)
    sft.add_argument("--steps", type=whole, help="stop after so many")
    sft.add_argument("--batch-tokens", type=whole)
    sft.add_argument("--lr", type=float)
    sft.add_argument("--rank", type=whole)
    sft.add_argument("--check-every", type=whole, metavar="STEPS")
    sft.add_argument("--seed", type=int)
    sft.set_defaults(run=_sft)

    own = stages.add_parser(
        "reasoner-self", help="reasons in the reasoner's own words, of those the right ones"
    )
    own.add_argument("--data", type=Path, required=True, help="folder of examples")
    own.add_argument("--init", type=Path, required=True, help="checkpoint that writes")
    own.add_argument("--out", type=Path, required=True, help="folder of examples")
    own.add_argument("--count", type=whole, default=2000, help="examples to try (default 2000)")
    own.add_argument("--base", help="what the checkpoint belongs to")
    own.add_argument("--given", action="store_true", help="tell it all verdicts: reasons alone")
    own.add_argument("--seed", type=int, default=0)
    own.set_defaults(run=_self)

    grpo = stages.add_parser(
        "reasoner-grpo", help="reinforcement from the paper's reward, or that of reasons"
    )
    grpo.add_argument("--data", type=Path, required=True, help="folder of examples")
    grpo.add_argument("--out", type=Path, required=True, help="checkpoint folder; resumes")
    grpo.add_argument("--init", help="the cold start's checkpoint; without one, the bare base")
    grpo.add_argument("--base", help="base model: a known name, a hub id or a folder")
    grpo.add_argument("--steps", type=whole)
    grpo.add_argument("--prompts", type=whole, help="a step, each with a group of rollouts")
    grpo.add_argument("--group", type=whole, help="rollouts of a prompt (default 5)")
    grpo.add_argument("--micro", type=whole, help="rollouts per pass; divides prompts x group")
    grpo.add_argument(
        "--most-question-tokens", type=whole, help="leave out longer ones (default 384)"
    )
    grpo.add_argument("--lr", type=float)
    grpo.add_argument("--seed", type=int)
    grpo.set_defaults(run=_grpo)

    fit = stages.add_parser("reasoner-calibrate", help="probabilities of an exported reasoner")
    fit.add_argument("--data", type=Path, required=True, help="folder of examples")
    fit.add_argument("--bundle", type=Path, required=True, help="made without a calibration")
    fit.add_argument("--adapter", type=Path, required=True, help="where calibration.json belongs")
    fit.add_argument("--json", type=Path, metavar="OUT", help="write how well it holds here")
    fit.set_defaults(run=_calibrate)


def evidence_of(bundle: Path | None) -> Any:
    """Spans that decided "is it unsafe?", by the classifier of a bundle."""
    from service.engine.runtime import available_threads

    classifier = load_classifier(bundle, threads=available_threads())

    def spans(contents: Sequence[Content]) -> list[list[tuple[int, int]]]:
        found = [classifier.judge(content, evidence=True).evidence for content in contents]
        return [[(e.start, e.end) for e in said if e.category == UNSAFE] for said in found]

    return spans


def _data(args: argparse.Namespace) -> int:
    from training.reasoner import traces
    from training.reasoner.prepare import Settings, prepare

    settings = Settings(**chosen(args, "variant", "groups", "reasons", "seed"))
    explain: Any = traces.explainer(evidence_of(args.bundle), settings.seed)
    if args.writer:
        from training.reasoner.writers import writer_of

        explain = writer_of(args.writer, args.model, fallback=explain, seed=settings.seed)
    report = prepare(args.data, args.out, settings, explain, args.exclude)
    for name in ("examples.jsonl.gz", "held-out.jsonl.gz"):
        part = report[name]
        print(f"{name}: {part['examples']} examples, {part['groups']} policies")
        for taxonomy, count in part["by_taxonomy"].items():
            print(f"  {taxonomy:<32} {count}")
    return 0


def _reasons(args: argparse.Namespace) -> int:
    from training.reasoner.written import Settings, prepare

    if args.replayed is not None and not 0 <= args.replayed < 1:
        raise CommandError("--replayed: must be at least 0 and below 1")
    settings = Settings(**chosen(args, "passes", "replayed", "seed"))
    report = prepare(args.policies, args.out, settings, args.replay)
    for name in ("examples.jsonl.gz", "held-out.jsonl.gz"):
        part = report[name]
        print(
            f"{name}: {part['examples']} examples, {part['replayed']} of them older, "
            f"of {len(part['organisations'])} organisations; left out: {part['faults']}"
        )
    return 0


def _sft(args: argparse.Namespace) -> int:
    from training.reasoner.sft import Recipe, train

    names = (
        "base",
        "init",
        "order",
        "epochs",
        "steps",
        "batch_tokens",
        "lr",
        "rank",
        "check_every",
        "seed",
    )
    report = train(args.data, args.out, Recipe(**chosen(args, *names)))
    print(
        f"{report['examples']} examples in {report['steps']} steps, {report['seconds']} s "
        f"({report['tokens_per_second']} tokens/s, {report['examples_per_second']} examples/s)"
    )
    return 0


def _self(args: argparse.Namespace) -> int:
    from training.reasoner.model import DEFAULT
    from training.reasoner.sft import EXAMPLES
    from training.reasoner.writers import self_explained

    args.out.mkdir(parents=True, exist_ok=True)
    found = self_explained(
        args.data / EXAMPLES,
        args.init,
        args.out / EXAMPLES,
        args.count,
        args.base or DEFAULT,
        args.seed,
        args.given,
    )
    print(f"kept {found['kept']} of {found['tried']}")
    return 0


def _grpo(args: argparse.Namespace) -> int:
    from training.reasoner.grpo import Recipe, train

    names = ("init", "base", "steps", "prompts", "group", "micro", "lr", "seed")
    options = chosen(args, *names, "most_question_tokens")
    report = train(args.data, args.out, Recipe(**options))
    print(f"{report['rollouts']} rollouts in {report['seconds']} s on {report['device']}")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from service.engine.reasoner.reasoner import TooLongError, go_on
    from training.reasoner import calibrate
    from training.reasoner.examples import read_examples
    from training.reasoner.sft import HELD_OUT

    reasoner = load_reasoner(args.bundle)
    if reasoner.bundle.calibration.fitted:
        raise CommandError(f"--bundle: {args.bundle} was made with a calibration")
    judged = []
    for example in read_examples(args.data / HELD_OUT):
        if example.source in MADE:
            continue
        try:
            said = reasoner.judge(example.policy, example.content, go_on)
        except TooLongError:
            continue
        names = [name for name, _ in example.policy]
        truth = None if example.category is None else names.index(example.category)
        shares = [said.categories[name] for name in names]
        judged.append(calibrate.Judged(said.unsafe, shares, truth, example.view))
    found = calibrate.report(judged)
    (args.adapter / "calibration.json").write_text(json.dumps(found["calibration"]) + "\n")
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0
