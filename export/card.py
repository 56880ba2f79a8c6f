"""The model card of a classifier bundle, written from its manifest so that it cannot drift."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tamis.taxonomy import taxonomy

LIMITS: Final = """## What it cannot do

- Categories not in the table above are not scored: {missing}.
- {languages}
- Sexual and jailbroken role-play is where it misses most.
- One bad sentence among many calm ones is found less often than alone; see `docs/robustness.md`.
- Single loaded words still ring alarms in harmless requests; see `docs/overblocking.md`.
- Subtle harm in long answers is often missed.
- Scores are calibrated for the mix of sources it was trained on. Your traffic has other base rates:
  look at your own scores before you block on them, and set thresholds in a policy.
"""
ENGLISH: Final = "English: what it says of other languages is a guess."
MANY: Final = (
    "Other languages than English set its thresholds, and what it says of English is held against "
    "the\n  same; figures by language are in `docs/languages.md`. Of its thirty languages fifteen "
    "have rows, which\n  no native speaker has read."
)


def render(manifest: Mapping[str, Any]) -> str:
    """Markdown for ``README.md`` beside the manifest."""
    training, parity = manifest["training"], manifest["parity"]
    recipe, rows = training["recipe"], training["rows"]
    names = [head["name"] for head in manifest["heads"]]
    missing = ", ".join(c for c in taxonomy().categories if c not in names) or "none"
    return "\n".join(
        [
            f"# {manifest['name']}\n",
            "A safety classifier for prompts, responses and posts. Written by `tamis export` from",
            "`manifest.json`; results on public sets are in `docs/results.md`.\n",
            "| | |\n|---|---|",
            f"| licence | {manifest['licence']} |",
            f"| base | {training['base']['name']} ({training['base']['licence']}), "
            f"sha256 `{(training['base']['sha256'] or 'unpinned')[:12]}` |",
            f"| data | {recipe['variant']} rows: {rows['train']:,} trained on, "
            f"{rows['held_out']:,} held out, {rows.get('synthetic', 0):,} of them generated; "
            f"fingerprint `{training['data_sha256'][:12]}` |",
            f"| recipe | {_recipe(training)} |",
            f"| windows | {recipe['max_tokens']} tokens, overlapping by {recipe['overlap']} |",
            f"| pooling | {_pooling(manifest.get('pooling'))} |",
            f"| graph | sha256 `{manifest['files'][manifest['graph']][:12]}`, "
            f"{manifest['graph'].split('.')[1]} |\n",
            "## Heads\n",
            "Figures of the held-out slice. A category head answers: given that it is unsafe, is",
            "it this? Its thresholds and F1 are those of P(unsafe) × P(category | unsafe). ECE is",
            "the expected calibration error before and after (cross-fitted) calibration. A block",
            "threshold of 1: a precision of nine in ten was never reached. False alarms",
            "are the share at `flag` of benign rows, all sources weighing the same, for questions,",
            "and of negative rows for categories. Strict and loose are the flag thresholds of a",
            "policy's `sensitivity`.\n",
            "| head | rows | positive | flag | block | F1 | false alarms | strict | loose | "
            "ECE before | after |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *map(_head, manifest["heads"]),
            *_made(manifest["heads"]),
            "\n## Parity\n",
            "Calibrated overall probability, one text at a time, held-out rows.\n",
            "| | rows | mean difference | p99 | largest | decisions flipped |",
            "|---|--:|--:|--:|--:|--:|",
            *(
                f"| {name} | {p['rows']} | {p['mean_difference']:.5f} | "
                f"{p['p99_difference']:.4f} | {p['max_difference']:.4f} | "
                f"{p['flips']} ({p['flip_rate']:.2%}) |"
                for name, p in parity.items()
                if name != "smoothing"
            ),
            "",
            LIMITS.format(
                missing=missing,
                languages=MANY if "multilingual" in training["base"]["name"] else ENGLISH,
            ),
        ]
    )


def _head(head: Mapping[str, Any]) -> str:
    sets = [head["sensitivities"].get(name, head)["flag"] for name in ("strict", "loose")]
    figures = [head["flag"], head["block"], head["f1"], head["alarms"], *sets]
    figures += [head["ece_before"], head["ece_after"]]
    cells = " | ".join(f"{figure:.3f}" for figure in figures)
    return f"| {head['name']} | {head['rows']} | {head['positives']} | {cells} |"


def _made(heads: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ", ".join(head["name"] for head in heads if head.get("synthetic"))
    if not names:
        return []
    return [
        f"\nOf {names} no row that people wrote was held out: those figures are of generated rows."
    ]


def _pooling(spans: Mapping[str, Any] | None) -> str:
    """What may speak for a window."""
    if spans is None:
        return "a window as a whole"
    heads: dict[float, list[str]] = {}
    for head, margin in spans["margins"].items():
        heads.setdefault(margin, []).append(head)
    margins = "; ".join(f"{margin:g} for {', '.join(names)}" for margin, names in heads.items())
    return (
        f"a window as a whole, or {2 * spans['radius'] + 1} tokens of it that say more by a margin "
        f"of logits: {margins}"
    )


def _recipe(training: Mapping[str, Any]) -> str:
    """Where a run began, how long it went on, and what was made of it."""
    recipe, best = training["recipe"], training["best"]["step"]
    start = f"going on from checkpoint `{recipe['init']}`: " if recipe.get("init") else ""
    long = "" if recipe.get("steps") else f"{recipe['epochs']} epochs, "
    told = (
        f"{start}{long}{training['steps']:,} steps of {recipe['batch_tokens']:,} tokens, seed "
        f"{recipe['seed']}, best at step {best:,}"
    )
    if averaged := training.get("averaged"):
        parts = ", ".join(f"{p['steps']:,} steps (seed {p['seed']})" for p in averaged)
        told = f"{start}the mean of {len(averaged)} runs: {parts}"
    return f"{told}; {training['seconds'] / 60:.0f} minutes on {training['device']}"
