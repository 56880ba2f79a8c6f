"""The cumulative ablation: its rows (data: ``cumulative.yaml``), and their table for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml

from training.evaluation.metrics import spread

FILE: Final = "cumulative.json"
"""The measurements, one record a run."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A row: everything that its runs are trained with, but for steps and seed."""

    name: str
    row: str
    what: str
    data: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    readings: bool = True
    teacher: str | None = None


def variants() -> tuple[Variant, ...]:
    """The rows in order, each with what it took over from the one before."""
    found: list[Variant] = []
    recipe: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    so_far: dict[str, Any] = {}
    for raw in _spec()["rows"]:
        change = dict(raw["set"])
        recipe = recipe | change.pop("recipe", {})
        if "labels" in change:
            said = change.pop("labels")
            merged = {} if said is None else labels | said
            labels = {source: fields for source, fields in merged.items() if fields is not None}
        so_far |= change
        found.append(
            Variant(
                raw["name"],
                raw["row"],
                raw["what"],
                data=tuple(so_far["data"]),
                recipe=recipe,
                labels=labels,
                readings=so_far["readings"],
                teacher=so_far.get("teacher"),
            )
        )
    return tuple(found)


def sets() -> dict[str, str]:
    """The evaluation sets shown, and their headings."""
    found: dict[str, str] = _spec()["sets"]
    return found


def section(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The page's section, or nothing where nothing was measured."""
    if not records:
        return []
    newest = max(records, key=lambda record: record["date"])
    shown = [v for v in variants() if any(record["row"] == v.name for record in records)]
    return [
        "## Labels, bases, teachers\n",
        _spec()["text"],
        f"{newest['date']}, {newest['machine']}.\n",
        "| row | what changed |\n|---|---|",
        *(f"| {v.row} | {v.what} |" for v in shown),
        "",
        table(records),
        "",
    ]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the ablation, in percent, mean ± sd over seeds."""
    heads = ("steps", "rows", "seeds", "held out", "other languages", *sets().values())
    lines = [
        f"| row | {' | '.join(heads)} | refusals flagged |",
        "|---|" + "--:|" * (len(heads) + 1),
    ]
    for variant in variants():
        seeds = [record for record in records if record["row"] == variant.name]
        if not seeds:
            continue
        cells = [
            "/".join(dict.fromkeys(str(run["steps"]) for run in seeds)),
            f"{seeds[0]['rows']['train']:,}",
            str(len(seeds)),
            spread(run["held_out"] for run in seeds),
            spread(run["other_languages"] for run in seeds),
            *(spread(run["sets"].get(name, {}).get("auprc") for run in seeds) for name in sets()),
            spread(run["refusals"]["flagged"] / max(run["refusals"]["refuse"], 1) for run in seeds),
        ]
        lines.append(f"| {variant.row} | {' | '.join(cells)} |")
    return "\n".join(lines)


@cache
def _spec() -> dict[str, Any]:
    text = files("training.evaluation").joinpath("cumulative.yaml").read_text(encoding="utf-8")
    spec: dict[str, Any] = yaml.safe_load(text)
    return spec
