"""Curves of a run from its ``metrics.jsonl``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# A curve's running mean covers this share of the run.
SMOOTHED: Final = 0.05


def draw_metrics(metrics: Path, image: Path, shown: Mapping[str, str]) -> None:
    """One panel with a curve for each key of ``shown`` (key → label) that was measured."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for key, label in shown.items():
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        width = max(1, round(len(values) * SMOOTHED))
        mean = [
            sum(v) / len(v)
            for n in range(len(values))
            if (v := values[max(0, n - width + 1) : n + 1])
        ]
        (line,) = axes.plot(steps, mean, label=label, marker="o" if len(values) < 20 else None)
        if width > 1:
            axes.plot(steps, values, alpha=0.2, color=line.get_color())
    axes.set_xlabel("step")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(image, dpi=120)
    plt.close(figure)
