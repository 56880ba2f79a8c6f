"""``docs/ablation.md`` from saved runs.

    python -m training.evaluation.ablation collect RUNS docs/measurements/ablation.json
    python -m training.evaluation.ablation render docs/measurements > docs/ablation.md

``collect`` keeps the figures of ``RUNS/NAME-SEED.{eval,unseen}.json``, which ``tamis evaluate
--checkpoint`` wrote; ``render`` needs nothing but the folder of measurements in the repository.
"""

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from training.curation import planted
from training.evaluation import cumulative
from training.evaluation.metrics import spread
from training.evaluation.published import published

FIGURES: Final = ("n", "positives", "f1", "recall", "fpr", "auprc")
# Set -> heading and the figures shown.
PROMPTS: Final = {
    "toxicchat_judgebench_test": ("ToxicChat 2,853", ("f1", "auprc")),
    "toxicchat_test": ("ToxicChat 5,083", ("f1", "auprc")),
    "aegis_test_prompts": ("Aegis", ("f1", "auprc")),
    "harmbench": ("HarmBench", ("recall",)),
    "xstest_prompts": ("XSTest safe", ("fpr",)),
    "oktest": ("OKTest", ("fpr",)),
    "mt_bench": ("MT-Bench", ("fpr",)),
    "wizardlm_test": ("WizardLM", ("fpr",)),
}
OTHERS: Final = {
    "harmbench_response": ("HarmBench responses", ("f1", "auprc")),
    "beavertails_3k": ("BeaverTails", ("f1", "auprc")),
    "hatecheck": ("HateCheck", ("f1", "auprc")),
}
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name of a run -> one record for each seed."""


def collect(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The figures of every run in a folder, by name, seeds in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.eval.json")):
        matched = re.fullmatch(r"(.+)-(\d+)\.eval\.json", path.name)
        if matched is None:
            continue
        raw = json.loads(path.read_text(encoding="utf-8"))
        unseen = path.with_name(path.name.replace(".eval.", ".unseen."))
        training = raw["about"]["training"]
        record = {
            "seed": int(matched[2]),
            "date": raw["about"]["date"],
            "machine": raw["about"]["machine"],
            "steps": training["steps"],
            "rows": training["rows"],
            "seconds": training["seconds"],
            "peak_memory_mb": training["peak_memory_mb"],
            "data_sha256": training["data_sha256"][:12],
            "held_out": round(training["best"]["quality"], 4),
            "sets": _figures(raw["sets"]),
            "unseen": _figures(json.loads(unseen.read_text())["sets"]) if unseen.exists() else {},
            "categories": raw["categories"],
        }
        found.setdefault(matched[1], []).append(record)
    return found


def _figures(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {key: row[key] for key in FIGURES} for name, row in sets.items()}


def table(runs: Runs, columns: Mapping[str, tuple[str, tuple[str, ...]]]) -> str:
    """Rows of the ablation and what others published, in percent, mean ± sd over seeds."""
    asked = [(s, figure, title) for s, (title, fs) in columns.items() for figure in fs]
    heads = " | ".join(f"{title} {figure.upper()}" for _, figure, title in asked)
    lines = [f"| row | seeds | {heads} |", "|---|--:|" + "--:|" * len(asked)]
    for row in _spec()["rows"]:
        seeds = runs.get(row["runs"], ())
        if seeds:
            cells = [spread(run["sets"][s][figure] for run in seeds) for s, figure, _ in asked]
            lines.append(f"| {row['row']} | {len(seeds)} | {' | '.join(cells)} |")
    for other in published():
        # What is published is F1, or recall where all rows are unsafe.
        told = [other.get(s) if figure in ("f1", "recall") else None for s, figure, _ in asked]
        if any(value is not None for value in told):
            shown = " | ".join("" if value is None else f"{value:.1f}" for value in told)
            lines.append(f"| *{other['model']}* | | {shown} |")
    return "\n".join(lines)


def unseen_table(runs: Runs) -> str:
    """What models were chosen by: held-out rows, and training rows of unseen origin (AUPRC)."""
    names = sorted({name for seeds in runs.values() for run in seeds for name in run["unseen"]})
    lines = [
        f"| row | held out | {' | '.join(names)} | mean |",
        "|---|" + "--:|" * (len(names) + 2),
    ]
    for row in _spec()["rows"]:
        seeds = [run for run in runs.get(row["runs"], ()) if run["unseen"]]
        if seeds:
            cells = [spread(run["unseen"][name]["auprc"] for run in seeds) for name in names]
            mean = spread(
                statistics.mean(run["unseen"][name]["auprc"] for name in names) for run in seeds
            )
            held = spread(run["held_out"] for run in seeds)
            lines.append(f"| {row['row']} | {held} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)


def _spec() -> dict[str, Any]:
    text = files("training.evaluation").joinpath("ablation.yaml").read_text(encoding="utf-8")
    spec: dict[str, Any] = yaml.safe_load(text)
    return spec


def category_table(runs: Runs, before: str, after: str) -> str:
    """F1 and recall by category of two rows of the ablation, where a set's names map to ours."""
    lines = ["| set | category | unsafe | before F1 | recall | after F1 | recall |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|")
    first, second = runs[before], runs[after]
    for name, categories in second[0]["categories"].items():
        for category, row in categories.items():
            if row["positives"]:
                cells = [
                    spread(run["categories"][name][category][figure] for run in seeds)
                    for seeds in (first, second)
                    for figure in ("f1", "recall")
                ]
                lines.append(f"| {name} | {category} | {row['positives']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rounds_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Rounds of GRPO: how the curves began and ended, their rows, and ids kept and rejected."""
    names = ("reward", "complexity", "agreement", "kl", "distinct_2", "compression", "length")
    lines = [
        f"| round | steps | {' | '.join(names)} | rows kept | wrong for the classifier | trip |"
    ]
    lines.append("|---|--:|" + "--:|" * len(names) + "--:|--:|---|")
    for report in reports:
        rows, wrong = report["rows"], report["rows"]["wrong_for_classifier"]
        cells = [f"{report['start'][name]:.3f} → {report['end'][name]:.3f}" for name in names]
        cells.append(f"{rows['kept']} of {rows['candidates']}")
        cells.append(f"{wrong['kept']:.0%} of kept, {wrong['candidates']:.0%} of all")
        trip = report["trip"]
        cells.append(f"{trip['guard']} ({trip['measure']})" if trip else "–")
        lines.append(f"| {report['name']} | {report['steps']['done']} | {' | '.join(cells)} |")
    for report in reports:
        rows = report["rows"]
        kept = ", ".join(f"`{row['id']}`" for row in rows["survived"])
        lines += [f"\nKept in {report['name']}: {kept}.\n", "| rejected | why |", "|---|---|"]
        lines += [f"| `{row['id']}` | {row['reason']} |" for row in rows["rejected"]]
    return "\n".join(lines)


def cost_table(runs: Runs, stages: Sequence[Mapping[str, Any]]) -> str:
    """Wall-clock seconds and peak memory of every stage and of a run of every row."""
    measured = [(s["stage"], s["what"], s["seconds"], s["peak_memory_mb"]) for s in stages]
    for row in _spec()["rows"]:
        for run in runs.get(row["runs"], ())[:1]:
            what = f"{row['row']}: {run['steps']} steps, {run['rows']['train']:,} rows"
            measured.append(("train classifier", what, run["seconds"], run["peak_memory_mb"]))
    lines = ["| stage | what | seconds | peak MB |", "|---|---|--:|--:|"]
    lines += [f"| `{name}` | {what} | {s:,.0f} | {mb:,} |" for name, what, s, mb in measured]
    return "\n".join(lines)


def render(measurements: Path) -> str:
    """The whole document, from the folder of measurements."""

    def saved(name: str) -> Any:
        return json.loads((measurements / name).read_text(encoding="utf-8"))

    said = _spec()["text"]
    runs = saved("ablation.json")
    anyone = next(iter(runs.values()))[0]
    # Later work, on other data: a section of its own, where there is one.
    later = measurements / cumulative.FILE
    shown = [row for row in _spec()["rows"] if row["runs"] in runs]
    parts = [
        said["head"],
        f"{anyone['date']}, {anyone['machine']}.\n",
        "| row | its mixture |\n|---|---|",
        *(f"| {row['row']} | {row['what']} |" for row in shown),
        "\n## What came out\n",
        said["findings"],
        "## Prompts\n",
        table(runs, PROMPTS),
        "\n## Responses and texts\n",
        table(runs, OTHERS),
        "\n## What models were chosen by\n",
        said["unseen"],
        unseen_table(runs),
        "\n## Categories\n",
        said["categories"],
        category_table(runs, *_spec()["gap"]),
        "\n## Wrong labels\n",
        said["wrong_labels"],
        planted.table(saved("planted.json")),
        "\n## The adversarial rounds\n",
        said["rounds"],
        rounds_table(saved("rounds.json")),
        "\n## Wall-clock and memory\n",
        said["costs"],
        cost_table(runs, saved("stages.json")),
        *(["", *cumulative.section(saved(later.name))] if later.exists() else []),
    ]
    return "\n".join(parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("runs", type=Path)
    collecting.add_argument("out", type=Path)
    commands.add_parser("render").add_argument("measurements", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    if arguments.command == "collect":
        found = json.dumps(collect(arguments.runs), indent=1)
        arguments.out.write_text(found + "\n", encoding="utf-8")
    else:
        print(render(arguments.measurements))
