"""``docs/ablation.md`` from saved runs.

    python -m training.evaluation.ablation collect RUNS docs/measurements/ablation.json
    python -m training.evaluation.ablation render docs/measurements > docs/ablation.md

``collect`` keeps the figures of ``RUNS/NAME-SEED.{eval,unseen}.json``, which ``tamis evaluate
--checkpoint`` wrote; ``render`` needs nothing but the folder of measurements in the repository.
"""

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

HEAD: Final = """# Ablation of the lightweight-guardrails pipeline

Generated; do not edit. The stages are described in [training](training.md), what was tried on the way in the
[lab log](lab-log.md).

    tamis evaluate --checkpoint RUN --data DATA/eval --json RUNS/NAME-SEED.eval.json
    tamis evaluate --checkpoint RUN --data UNSEEN --json RUNS/NAME-SEED.unseen.json
    python -m training.evaluation.ablation collect RUNS docs/measurements/ablation.json
    python -m training.evaluation.ablation render docs/measurements > docs/ablation.md

A reduced run on two CPU cores. Every row goes on from one checkpoint, two epochs on the permissive rows, for the
same number of steps of 4,096 tokens (encoder 5e-5, heads 5e-4), and differs from the row above it in its mixture alone:
what is measured is what a stage adds to a trained model, not what it would do from the bare base.
Checkpoints are measured in bf16, before quantisation. Percent, mean ± standard deviation over seeds; **a row of
one seed supports no claim**. Thresholds come from held-out training rows. Recall without a false-positive rate says
nothing: HarmBench is to be read with the four columns to its right. Figures of others are as published, on the same
sets, mostly by larger models, and some of them learnt from the training half of ToxicChat, which these rows have never seen.
"""
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
    for other in _spec()["published"]:
        # What is published is F1, or recall where all rows are unsafe.
        told = [other.get(s) if figure in ("f1", "recall") else None for s, figure, _ in asked]
        if any(value is not None for value in told):
            shown = " | ".join("" if value is None else f"{value:.1f}" for value in told)
            lines.append(f"| *{other['model']}* | | {shown} |")
    return "\n".join(lines)


def spread(values: Iterable[float | None]) -> str:
    """Mean ± standard deviation over seeds, in percent."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.1f}"
    return f"{statistics.mean(known):.1f} ± {statistics.stdev(known):.1f}"


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

    runs = saved("ablation.json")
    anyone = next(iter(runs.values()))[0]
    parts = [HEAD, f"{anyone['date']}, {anyone['machine']}.\n"]
    parts += ["## Prompts\n", "| row | what its mixture is |\n|---|---|"]
    parts += [f"| {r['row']} | {r['what']} |" for r in _spec()["rows"] if r["runs"] in runs]
    parts += ["", table(runs, PROMPTS), "", "## Responses and texts\n", table(runs, OTHERS), ""]
    parts += ["## What models were chosen by\n", UNSEEN, unseen_table(runs), ""]
    parts += ["## Categories\n", CATEGORIES, category_table(runs, "base", "synth"), ""]
    parts += ["## Wrong labels\n", planted.table(saved("planted.json")), ""]
    parts += ["## Wall-clock and memory\n", COSTS, cost_table(runs, saved("stages.json")), ""]
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
