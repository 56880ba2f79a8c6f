"""``docs/results.md`` from the JSON of ``tamis evaluate``.

python -m training.evaluation.report SHIPPED.json RESEARCH.json > docs/results.md
"""

import argparse
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

HEAD: Final = """# Results

Generated from the output of `tamis evaluate`; do not edit.

    tamis evaluate --data DATA/eval --json shipped.json
    tamis evaluate --data DATA/eval --bundle RESEARCH_BUNDLE --json research.json
    python -m training.evaluation.report shipped.json research.json > docs/results.md

Read with care:

- Flag thresholds are the bundle's own, chosen on held-out *training* rows; nothing was tuned here.
- `question` says which score was measured: a set whose unsafe rows all carry one category (or are
  all attacks) is judged by that score, any other by the overall one.
- Sets that are all unsafe give recall only; read it beside the false-positive rates of XSTest,
  OKTest, MT-Bench and WizardLM at the same threshold.
- ToxicChat comes in two row counts with different figures; never compare across them.
- `beavertails_3k` has the distribution of training rows of the research variant: in-distribution.
- `floor` is the F1 of calling everything unsafe.
"""
COLUMNS: Final = ("f1", "precision", "recall", "fpr", "auprc", "auroc")


def render(shipped: Mapping[str, Any], research: Mapping[str, Any]) -> str:
    """The whole document."""
    parts = [HEAD]
    variants = (("permissive", "Shipped", shipped), ("all", "Research", research))
    for variant, title, results in variants:
        parts += [f"## {title}: {_about(results)}\n", _sets(results), ""]
        parts += [f"### {title} beside its pilot\n", _pilot(results, variant), ""]
    parts += ["## Categories\n", _categories(shipped, research)]
    return "\n".join(parts)


def _about(results: Mapping[str, Any]) -> str:
    about = results["about"]
    rows = sum(row["n"] for row in results["sets"].values())
    return (
        f"`{about['name']}`, {about['licence']}\n\nbundle `{results['bundle'][:12]}`, "
        f"{about['date']}, {about['machine']}, {rows:,} rows"
    )


def _sets(results: Mapping[str, Any]) -> str:
    lines = ["| set | question | n | unsafe | " + " | ".join(COLUMNS) + " | floor |"]
    lines.append("|---|---|" + "--:|" * (len(COLUMNS) + 3))
    for name, row in results["sets"].items():
        cells = " | ".join(_figure(row[column]) for column in (*COLUMNS, "floor_f1"))
        lines.append(f"| {name} | {row['question']} | {row['n']} | {row['positives']} | {cells} |")
    return "\n".join(lines)


def _pilot(results: Mapping[str, Any], variant: str) -> str:
    """Every figure that the pilot left, and the mean of the differences (FPR counts reversed)."""
    text = files("training.evaluation").joinpath("pilot.yaml").read_text(encoding="utf-8")
    lines = ["| set | figure | pilot | here | better by |", "|---|---|--:|--:|--:|"]
    gains = []
    for name, figures in yaml.safe_load(text)[variant].items():
        for figure, before in figures.items():
            now = results["sets"].get(name, {}).get(figure)
            if now is None:
                continue
            gain = before - now if figure == "fpr" else now - before
            gains.append(gain)
            lines.append(f"| {name} | {figure} | {before:.2f} | {now:.3f} | {gain:+.3f} |")
    mean = sum(gains) / len(gains)
    lines.append(f"| **mean of {len(gains)}** | | | | **{mean:+.3f}** |")
    return "\n".join(lines)


def _categories(shipped: Mapping[str, Any], research: Mapping[str, Any]) -> str:
    lines = [
        "F1 and recall where the set's own names map to ours (`sources.yaml`); safe rows of the",
        "set count as negatives. A dash: the bundle was not taught the category.\n",
        "| set | category | unsafe | shipped F1 | recall | research F1 | recall |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, categories in shipped["categories"].items():
        for category, row in categories.items():
            if not row["positives"]:
                continue
            other = research["categories"].get(name, {}).get(category, {})
            cells = (row["f1"], row["recall"], other.get("f1"), other.get("recall"))
            shown = " | ".join(_figure(cell) for cell in cells)
            lines.append(f"| {name} | {category} | {row['positives']} | {shown} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shipped", type=Path)
    parser.add_argument("research", type=Path)
    arguments = parser.parse_args()
    print(
        render(
            json.loads(arguments.shipped.read_text()), json.loads(arguments.research.read_text())
        )
    )
