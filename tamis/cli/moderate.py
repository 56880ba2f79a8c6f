"""``tamis moderate``: judge one text, or the rows of a file."""

import argparse
import codecs
import json
import sys
from pathlib import Path

from tamis.cli import bulk
from tamis.cli.common import (
    CommandError,
    Commands,
    add_tier,
    given,
    load_tier,
    multilingual_of,
    policy_of,
    provenance_of,
    sides,
    with_rules,
)
from tamis.content import NotThereError, exchange, judged, prompt
from tamis.deciding import decide, withhold
from tamis.verdict import Action, FieldVerdict, Verdict


def add_to(commands: Commands) -> None:
    """Add the command."""
    moderate = commands.add_parser("moderate", help="judge one text, or the rows of a file")
    moderate.add_argument("text", nargs="?", help="a prompt; '-' reads standard input")
    moderate.add_argument("--response", help="judge this response to the prompt, too")
    moderate.add_argument(
        "--judge",
        type=sides,
        metavar="SIDES",
        help="judge this side alone, the other being context: 'prompt', 'response', or both with a "
        "comma (default: the policy's choice, else both)",
    )
    moderate.add_argument("--policy", type=Path, help="policy file")
    moderate.add_argument("--bundle", type=Path)
    add_tier(moderate)
    moderate.add_argument("--json", action="store_true", help="print the verdict as JSON")
    bulk.add_options(moderate.add_argument_group("files", "every row of a file: docs/bulk.md"))
    moderate.set_defaults(run=_moderate)


def _moderate(args: argparse.Namespace) -> int:
    from service.dialects.native import verdict_json

    if args.input is not None:
        return bulk.run(args)
    if args.text is None:
        raise CommandError("moderate: give a text, or a file with --input")
    if stray := given(args, bulk.OPTIONS):
        raise CommandError(f"{stray[0]}: goes with --input, not with a text")
    text = sys.stdin.read() if args.text == "-" else args.text
    contents = (prompt(text),) if args.response is None else exchange(text, args.response)
    if any(not _is_unicode(content.text) for content in contents):
        raise CommandError("moderate: the text is not UTF-8")
    policy = policy_of(args.policy, encoded=True)
    try:
        contents = judged(contents, policy.judge if args.judge is None else args.judge)
    except NotThereError as error:
        raise CommandError(f"moderate: the text {error}; give it with --response") from None
    other = multilingual_of(args.multilingual)
    tier = load_tier(args.tier, args.bundle, args.accurate, multilingual=other)
    classifier = with_rules(tier, policy)
    findings = [classifier.judge(content, evidence=True) for content in contents]
    own = classifier.bundle.thresholds
    verdict = decide(findings, policy, own, provenance_of(classifier, policy))
    if policy.mode == "score":
        verdict = withhold(verdict)
    if args.json:
        # JSON escapes what the output's encoding has not; what replaces it there is no JSON.
        whole = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
        print(json.dumps(verdict_json(verdict, None, None), indent=2, ensure_ascii=not whole))
    else:
        print(_readable(verdict))
    return 0


def _is_unicode(text: str) -> bool:
    """Whether an argument's bytes could be read: those that could not are lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _acts(found: Verdict | FieldVerdict) -> tuple[Action, str]:
    """What the policy does, or would do, and that it does not."""
    if found.withheld in (None, Action.ALLOW):
        return found.action, ""
    return found.withheld, " withheld"


def _field(name: str, field: FieldVerdict) -> str:
    declines = ", declines" if field.refusal is not None and field.refusal.flagged else ""
    by = "" if field.provenance is None else f", by {field.provenance.model}"
    action = "".join(_acts(field))
    return f"  {name:<15}{field.score:5.2f}  {action}, {field.severity}{declines}{by}"


def _readable(verdict: Verdict) -> str:
    """A verdict for people: the action, a bar for each score, and the words that decided."""
    acts, withheld = _acts(verdict)
    colour = {Action.ALLOW: "32", Action.FLAG: "33", Action.BLOCK: "31"}[acts]
    action = acts.value.upper()
    if sys.stdout.isatty():
        action = f"\x1b[1;{colour}m{action}\x1b[0m"
    limit = "" if verdict.threshold is None else f" (flag from {verdict.threshold:.2f})"
    lines = [f"{action}{withheld}  {verdict.severity}, unsafe {verdict.score:.2f}{limit}", ""]
    if len(verdict.fields) > 1:
        lines += [*(_field(name, field) for name, field in verdict.fields.items()), ""]
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
