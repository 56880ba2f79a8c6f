"""How rounds went, by step: ``metrics.jsonl`` of one or several rounds as one small picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PARTS: Final = ("complexity", "consistency", "fluency", "freshness", "novelty", "validity")
PANELS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("reward", ("reward",)),
    ("parts of the reward", PARTS),
    ("KL, nats per token", ("kl",)),
    ("judge agreement", ("agreement",)),
    ("distinct-2", ("distinct_2",)),
    ("length, tokens", ("length",)),
)


def draw(rounds: Mapping[str, Path], path: Path) -> None:
    """Draw the rounds (name → ``metrics.jsonl``) one after the other along one axis of steps.

    A dashed line stands where the classifier was retrained and the next round began.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True).ravel()
    begins = 0
    for number, (name, metrics) in enumerate(rounds.items()):
        lines = metrics.read_text(encoding="utf-8").splitlines()
        record = [json.loads(line) for line in lines]
        steps = [begins + entry["step"] for entry in record]
        for axes, (title, keys) in zip(panels, PANELS, strict=True):
            for n, key in enumerate(keys):
                values = [entry[key] for entry in record]
                label = key if len(keys) > 1 and number == 0 else None
                axes.plot(steps, values, color=f"C{n}", linewidth=1.2, label=label)
            if number:
                axes.axvline(begins + 0.5, color="black", linestyle="--", linewidth=0.8)
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=8)
        panels[0].annotate(name, (begins + 1, 1), xycoords=("data", "axes fraction"), fontsize=7)
        begins = max(steps, default=begins)
    # All parts lie between 0 and 1; above them is room for their names.
    panels[1].set_ylim(-0.05, 1.5)
    panels[1].legend(fontsize=6, frameon=False, ncols=2, loc="upper center")
    for axes in panels[3:]:
        axes.set_xlabel("step", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72)
