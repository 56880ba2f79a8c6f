"""What ``docs/reasoner.md`` says of a policy encoder beside its verdicts."""

from collections.abc import Mapping
from typing import Any, Final

from training.reasoner.evaluate import GROUPS, NOUNS

Run = Mapping[str, Any]
TOOK: Final = ("cold p50", "cold p95", "warm p50", "warm p95")


def sections(runs: Mapping[str, Run]) -> list[str]:
    """Single rules, what other rules change, and milliseconds, as far as they were measured."""
    return [*_single_rules(runs), *_stability(runs), *_milliseconds(runs)]


def percent(value: float | None) -> str:
    """A share in per cent, a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def _single_rules(runs: Mapping[str, Run]) -> list[str]:
    """How far probabilities of single rules can be trusted, and thresholds in place of the own."""
    rows, tried = [], []
    thresholds: list[str] = []
    for title, run in runs.items():
        for group, parts in run.get("rules", {}).items():
            for asked, found in parts.items():
                head = f"| {title} | {GROUPS[group]} | {asked} |"
                share = found["broken"] / found["pairs"]
                rows.append(
                    f"{head} {found['pairs']} | {percent(share)} | {percent(found['mean'])} "
                    f"| {percent(found['ece'])} |"
                )
                tried.append(f"{head} {' | '.join(map(percent, found['at'].values()))} |")
                thresholds = list(found["at"])
    if not rows:
        return []
    return [
        "## Encoder: probabilities of single rules\n",
        "Of policies that were not trained on, where every rule of every text is known. ECE: over "
        "15 bins of equal size.\n",
        "| | policies | judged | pairs | broken | mean probability | ECE |",
        "|---|---|---|" + "--:|" * 4,
        *rows,
        "",
        "S-Acc of the same texts at other thresholds than the bundle's own:\n",
        f"| | policies | judged | {' | '.join(thresholds)} |",
        "|---|---|---|" + "--:|" * len(thresholds),
        *tried,
        "",
    ]


def _stability(runs: Mapping[str, Run]) -> list[str]:
    rows = [
        f"| {title} | {name} | {found['texts']} | {found[name]['change']:.4f} "
        f"| {percent(found[name]['verdicts'])} | {percent(found[name]['categories'])} |"
        for title, run in runs.items()
        if (found := run.get("stability"))
        for name in ("removed", "added")
    ]
    if not rows:
        return []
    return [
        "## Encoder: a rule more, a rule less\n",
        "Texts of unseen organisations under their policy without one of the rules that they do "
        "not break, and with one of another unseen organisation that judges the same kind of text. "
        "A rule's probability depends on no other rule: what flips is what the added rule takes "
        "for broken, or what the removed one took.\n",
        "| | rule | texts | mean change of probability | verdicts that flip | or categories |",
        "|---|---|" + "--:|" * 4,
        *rows,
        "",
    ]


def _milliseconds(runs: Mapping[str, Run]) -> list[str]:
    rows = []
    for title, run in runs.items():
        for found in run.get("milliseconds", ()):
            cells = " | ".join(f"{found[name]:.1f}" for name in TOOK)
            rows.append(
                f"| {title} | {NOUNS[found['question']]} | {found['tokens']} | {found['rules']} "
                f"| {cells} |"
            )
    if not rows:
        return []
    return [
        "## Encoder: milliseconds\n",
        "One text at a time on two cores. Warm: the rules' tokens are known; cold: they are not.\n",
        f"| | judged | tokens | rules | {' | '.join(TOOK)} |",
        "|---|---|" + "--:|" * (2 + len(TOOK)),
        *rows,
        "",
    ]
