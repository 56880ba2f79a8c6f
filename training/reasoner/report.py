"""``docs/reasoner.md`` from the JSON of ``tamis evaluate-reasoner``.

python -m training.reasoner.report NAME=RESULTS.json … > docs/reasoner.md
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from training.reasoner.evaluate import GROUPS

HEAD: Final = """# The policy reasoner

Generated from the output of `tamis evaluate-reasoner`; do not edit.

    tamis train reasoner-data --data DATA/train --data SYN/templates --out EXAMPLES
    tamis train reasoner --data EXAMPLES --out runs/reasoner
    tamis train reasoner-grpo --data EXAMPLES --out runs/reasoner-grpo --init runs/reasoner
    tamis evaluate-reasoner --data DATA/train --data DATA/eval --checkpoint RUN --json RUN.json
    python -m training.reasoner.report base=base.json SFT=sft.json … > docs/reasoner.md

A policy in words and a text go in; a verdict, the one category that fits, and a short reason come
out (GSPR, arXiv 2509.24418). S-Acc is over parsable answers, C-Acc over all rows, "not applicable"
included, as in the paper; means are over taxonomies. All-unsafe public sets stand beside the safe
requests of XSTest, OKTest, WizardLM and MT-Bench.
"""

# Section 4.2 of the paper, its second version: S-Acc / C-Acc in per cent.
PAPER: Final = """## The paper's own

S-Acc / C-Acc, models of 7 and 8 billion parameters, other taxonomies and rows: for orientation.

| | base | RSafe | cold-start SFT | GSPR w/o CS | GSPR w/ CS |
|---|---|---|---|---|---|
| Qwen2.5-7B ID | 78.34/41.95 | 84.22/30.17 | 81.89/68.37 | 82.29/54.06 | 85.68/78.32 |
| Qwen2.5-7B OOD | 86.89/54.46 | 91.56/25.23 | 90.18/72.63 | 91.02/56.11 | 92.84/79.70 |
| Qwen3-8B ID | 83.87/72.12 | 84.00/21.71 | 82.68/69.78 | 84.07/74.00 | 86.36/77.89 |
| Qwen3-8B OOD | 92.70/76.48 | 91.75/18.45 | 92.15/75.21 | 92.06/77.92 | 93.11/79.85 |

Words per answer: 34.10 (Qwen2.5, GSPR w/ CS), 77.73 (Qwen3).
"""


def render(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; runs by the name that their rows get."""
    parts = [HEAD, _runs(runs)]
    for group, title in GROUPS.items():
        if any(group in run["means"] for run in runs.values()):
            parts += [f"## {title.capitalize()}\n", _means(runs, group), "", _sets(runs, group), ""]
    return "\n".join([*parts, PAPER])


def _runs(runs: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| run | answers | policies | device | date |", "|---|---|---|---|---|"]
    for name, run in runs.items():
        about = run["about"]
        policies = "names only" if about["names_only"] else "with definitions"
        cells = (name, about["mode"], policies, about["device"], about["date"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _means(runs: Mapping[str, Mapping[str, Any]], group: str) -> str:
    columns = ("s_acc", "s_acc_all", "s_f1", "c_acc", "c_acc_unsafe", "parsed", "grounded")
    lines = [
        "| | rows | S-Acc | over all | S-F1 | C-Acc | of unsafe | parsed | quotes stand | words |",
        "|---|" + "--:|" * 9,
    ]
    beside: str | None = None
    for name, run in runs.items():
        mean = run["means"].get(group)
        if mean is None:
            continue
        cells = " | ".join(_percent(mean.get(column)) for column in columns)
        words = mean.get("words")
        lines.append(f"| {name} | {mean['n']} | {cells} | {'–' if words is None else words} |")
        if other := mean.get("classifier"):
            cells = f"{_percent(other['s_acc'])} | | {_percent(other['s_f1'])}"
            beside = f"| *the classifier* | {other['n']} | {cells} | | | | | |"
    return "\n".join([*lines, *([beside] if beside else [])])


def _sets(runs: Mapping[str, Mapping[str, Any]], group: str) -> str:
    names = list(runs)
    lines = [
        "S-Acc / C-Acc by taxonomy:\n",
        "| taxonomy | judged | rows | unsafe | " + " | ".join(names) + " | classifier |",
        "|---|---|--:|--:|" + "--:|" * (len(names) + 1),
    ]
    found: dict[str, Mapping[str, Any]] = {}
    for run in runs.values():
        found |= {n: f for n, f in run["sets"].items() if f["group"] == group and n not in found}
    for taxonomy, first in found.items():
        cells = []
        for run in runs.values():
            figures = run["sets"].get(taxonomy)
            cells.append(
                f"{_percent(figures['s_acc'])} / {_percent(figures['c_acc'])}" if figures else "–"
            )
        cells.append(_percent(first.get("classifier", {}).get("s_acc")))
        head = f"| {taxonomy} | {first['question']} | {first['n']} | {first['unsafe']} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=JSON")
    chosen = [run.partition("=") for run in parser.parse_args().runs]
    print(render({name: json.loads(Path(path).read_text()) for name, _, path in chosen}))
