"""``docs/results.md`` from the JSON of ``tamis evaluate``, any number of bundles side by side.

python -m training.evaluation.report fast=FAST.json accurate=ACCURATE.json … \
    --held-out fast=FAST.held.json … > docs/results.md
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from training.evaluation.published import published, recall_of

HEAD: Final = """# Results

Generated from the output of `tamis evaluate`; do not edit.

    tamis evaluate --data DATA/eval [--bundle BUNDLE] --multilingual off --json NAME.json \\
        [--findings NAME.findings]
    tamis evaluate --data DATA/eval --recorded FAST.findings ACCURATE.findings --json cascade.json
    tamis evaluate --held-out DATA/annotated DATA/contexts CON [--tier TIER] --json NAME.held.json
    python -m training.evaluation.report NAME=NAME.json … --held-out NAME=NAME.held.json …

These files are [here](measurements/results).

Read with care:

- Flag thresholds are the bundle's own (`balanced`), chosen on held-out *training* rows. By
  which rule was last decided with these figures in sight, between two that are alike on held-out
  rows ([lab log](lab-log.md), 2026-11-30).
- Reading has since learnt rare and torn words: of 25,244 texts 48 read otherwise than when public
  sets were measured, most of them spaced abuse of HateCheck's. What these do not ask is newer.
- `question` says which score was measured: a set whose unsafe rows all carry one category (or are
  all attacks) is judged by that score, any other by the overall one.
- Sets that are all unsafe give recall only; read it beside the false-positive rates of XSTest,
  OKTest, MT-Bench and WizardLM at the same threshold.
- The public sets are in English, and the multilingual bundle was not asked about them
  (`--multilingual off`).
- ToxicChat comes in two row counts with different figures; never compare across them.
- `beavertails_3k` has the distribution of the research variants' training rows.
- `floor` is the F1 of calling everything unsafe.
- `… within` is a set without harm that our taxonomy has no category for (requests for copyrighted
  texts, a quarter of HarmBench's; tailored advice in CatQA).
- `asked twice` is the share of a set of which a cascade's fast bundle was unsure; half of what most
  sets hold is unsafe, so ordinary traffic is asked twice less often.
"""
COLUMNS: Final = ("f1", "precision", "recall", "fpr", "auprc", "auroc")
# Set -> heading and the figure shown beside what others published.
RIVALS: Final = {
    "toxicchat_judgebench_test": ("ToxicChat 2,853 F1", "f1"),
    "toxicchat_test": ("ToxicChat 5,083 F1", "f1"),
    "aegis_test_prompts": ("Aegis F1", "f1"),
    "harmbench_response": ("HarmBench responses F1", "f1"),
    "beavertails_3k": ("BeaverTails F1", "f1"),
    "harmbench": ("HarmBench prompts recall", "recall"),
    "hatecheck": ("HateCheck F1", "f1"),
}
Results = Mapping[str, Mapping[str, Any]]
"""By what a bundle is called here."""
Figure = Callable[[Mapping[str, Any]], tuple[str, float] | None]
"""What to show of a set, and its name; None where it has none."""


def render(results: Results, held_out: Results) -> str:
    """The whole document.

    Raises:
        ValueError: where a set has other rows for one bundle than for the first.
    """
    _comparable(results)
    parts = [HEAD, "\n".join(_about(name, found) for name, found in results.items()), ""]
    parts += [
        "## Side by side\n",
        "F1 at the shipped thresholds; recall where all rows are unsafe, false-positive rate where "
        "all are safe.\n",
        _beside(results, _main_figure),
        "\nArea under the precision-recall curve, which no threshold moves.\n",
        _beside(results, lambda row: ("", row["auprc"]) if row["auprc"] is not None else None),
        "\n## Beside what others published\n",
        "Percent. Recall on HarmBench's prompts follows from the published F1. Most are larger, "
        "and some learnt from the training half of ToxicChat.\n",
        _rivals(results),
        "",
    ]
    if held_out:
        parts += ["## What public sets do not ask\n", *_held_out(held_out), ""]
    for name, found in results.items():
        parts += [f"## {name.capitalize()}, set by set\n", _sets(found), ""]
    parts += ["## Categories\n", _categories(results), ""]
    return "\n".join(parts)


def _comparable(results: Results) -> None:
    """Refuse to put figures side by side, under one number of rows, that are of other rows."""
    title, first = next(iter(results.items()))
    for name, found in results.items():
        for of, row in found["sets"].items():
            known = first["sets"].get(of, row)
            if any(row[count] != known[count] for count in ("n", "positives")):
                raise ValueError(f"{name}: {of} has other rows than for {title}: measure it anew")


def _about(name: str, results: Mapping[str, Any]) -> str:
    about = results["about"]
    rows = sum(row["n"] for row in results["sets"].values())
    second = f", then `{about['second']}`" if about.get("second") else ""
    return (
        f"- **{name}**: `{about['name']}`, {about['licence']}; bundle `{results['bundle'][:12]}`"
        f"{second}, {about['date']}, {about['machine']}, {rows:,} rows"
    )


def _main_figure(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """What to show of a set, and its name where it is not F1."""
    if row["f1"] is not None:
        return "", row["f1"]
    return ("recall", row["recall"]) if row["recall"] is not None else ("fpr", row["fpr"])


def _beside(results: Results, figure: Figure) -> str:
    first = next(iter(results.values()))
    twice = {
        name: one.get("asked_twice", {})
        for name, one in results.items()
        if one["about"].get("tier") == "cascade"
    }
    columns = [*results, *(f"{name}: asked twice" for name in twice)]
    lines = [
        f"| set | n | unsafe | | {' | '.join(columns)} |",
        "|---|--:|--:|---|" + "--:|" * len(columns),
    ]
    for name, row in first["sets"].items():
        if (shown := figure(row)) is None:
            continue
        # A bundle may have been measured on some of the sets.
        found = [one["sets"].get(name) for one in results.values()]
        cells = _told(found, figure)
        cells += [f"{shares.get(name, 0):.1%}" for shares in twice.values()]
        lines.append(
            f"| {name} | {row['n']} | {row['positives']} | {shown[0]} | {' | '.join(cells)} |"
        )
        if row["fpr"] is not None and row["recall"] is not None and figure is _main_figure:
            rates = [_figure(None if one is None else one["fpr"]) for one in found]
            rates += [""] * len(twice)
            lines.append(f"| | | | fpr | {' | '.join(rates)} |")
        if (own := first.get("within", {}).get(name)) is not None and (of := figure(own)):
            cells = _told([one.get("within", {}).get(name) for one in results.values()], figure)
            cells += [""] * len(twice)
            lines.append(
                f"| … within | {own['n']} | {own['positives']} | {of[0]} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _told(found: Sequence[Mapping[str, Any] | None], figure: Figure) -> list[str]:
    """What each bundle comes to on a set, a dash where it was not measured."""
    told = [None if one is None else figure(one) for one in found]
    return ["–" if one is None else f"{one[1]:.3f}" for one in told]


def _rivals(results: Results) -> str:
    titles = " | ".join(title for title, _ in RIVALS.values())
    lines = [f"| model | {titles} |", "|---|" + "--:|" * len(RIVALS)]
    for name, found in results.items():
        shown = (found["sets"].get(of, {}).get(figure) for of, (_, figure) in RIVALS.items())
        cells = " | ".join("" if value is None else f"{100 * value:.1f}" for value in shown)
        lines.append(f"| **{name}** `{found['about']['name']}` | {cells} |")
    for other in published():
        told = [
            recall_of(other[of]) if figure == "recall" and of in other else other.get(of)
            for of, (_, figure) in RIVALS.items()
        ]
        cells = " | ".join("" if value is None else f"{value:.1f}" for value in told)
        lines.append(f"| *{other['model']}* | {cells} |")
    return "\n".join(lines)


def _held_out(found: Results) -> list[str]:
    parts = [
        "Held-out rows that were read under our guide; they set thresholds, and were not learnt.",
        "Called unsafe, of the rows read as unsafe, borderline and safe:\n",
        f"| | {' | '.join(found)} |",
        "|---|" + "--:|" * len(found),
    ]
    for subject in ("targets", "in_context", "languages"):
        for key in next(iter(found.values()))[subject]:
            cells = " | ".join(_levels(one[subject].get(key)) for one in found.values())
            parts.append(f"| {subject.replace('_', ' ')}: {key} | {cells} |")
    parts += [
        "",
        f"| answers that refuse | {' | '.join(found)} |",
        "|---|" + "--:|" * len(found),
    ]
    for title, show in (
        (
            "flagged",
            lambda r: _share(r["flagged"], r["refuse"]),
        ),
        (
            "flagged, of those in English",
            lambda r: "{flagged} of {refuse}".format(**r["english"]),
        ),
        ("refusal head: precision", lambda r: _figure(r.get("precision"))),
        ("refusal head: recall", lambda r: _figure(r.get("recall"))),
    ):
        parts.append(f"| {title} | {' | '.join(show(f['refusals']) for f in found.values())} |")
    parts += [
        "",
        f"| what tools and pages said | {' | '.join(found)} |",
        "|---|" + "--:|" * len(found),
    ]
    for title, kind in (
        ("carries words for the model: flagged", "injected"),
        ("carries none: flagged", "clean"),
    ):
        cells = (f["documents"][kind] for f in found.values())
        parts.append(f"| {title} | {' | '.join(_share(**cell) for cell in cells)} |")
    return parts


def _share(flagged: int, rows: int) -> str:
    return f"{flagged} of {rows} ({flagged / max(rows, 1):.1%})"


def _levels(cell: Mapping[str, Mapping[str, int]] | None) -> str:
    if cell is None:
        return "–"
    return " · ".join(f"{level['flagged']}/{level['rows']}" for level in reversed(cell.values()))


def _sets(results: Mapping[str, Any]) -> str:
    lines = ["| set | question | n | unsafe | " + " | ".join(COLUMNS) + " | floor |"]
    lines.append("|---|---|" + "--:|" * (len(COLUMNS) + 3))
    for name, row in results["sets"].items():
        cells = " | ".join(_figure(row[column]) for column in (*COLUMNS, "floor_f1"))
        lines.append(f"| {name} | {row['question']} | {row['n']} | {row['positives']} | {cells} |")
    return "\n".join(lines)


def _categories(results: Results) -> str:
    first = next(iter(results.values()))
    titles = " | ".join(f"{name} F1 | recall" for name in results)
    lines = [
        "F1 and recall where the set's own names map to ours (`sources.yaml`); safe rows of the",
        "set count as negatives. A dash: the bundle was not taught the category.\n",
        f"| set | category | unsafe | {titles} |",
        "|---|---|--:|" + "--:|--:|" * len(results),
    ]
    for name, categories in first["categories"].items():
        for category, row in categories.items():
            if row["positives"]:
                told = [
                    one["categories"].get(name, {}).get(category, {}).get(figure)
                    for one in results.values()
                    for figure in ("f1", "recall")
                ]
                shown = " | ".join(_figure(cell) for cell in told)
                lines.append(f"| {name} | {category} | {row['positives']} | {shown} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _named(values: Sequence[str]) -> dict[str, Any]:
    pairs = (value.split("=", 1) for value in values)
    return {name: json.loads(Path(path).read_text(encoding="utf-8")) for name, path in pairs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", metavar="NAME=JSON")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="NAME=JSON")
    arguments = parser.parse_args()
    print(render(_named(arguments.results), _named(arguments.held_out)), end="")
