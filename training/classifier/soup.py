"""The mean of several checkpoints' weights (model soups, Wortsman et al. 2022).

Runs that went on from one checkpoint lie in one basin, whatever their seeds and mixtures: their
mean is as good as their ensemble, and costs no more than one of them to serve.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from training.classifier.recipe import RecipeError


def average(checkpoints: Sequence[Path], out: Path, last: Sequence[Path] = ()) -> Path:
    """Write the mean of the best steps of ``checkpoints`` and the last steps of ``last``.

    The two may name the same run: held-out quality of the mixture's question tells little of heads
    that learn slower, whose last step is their best. The mean is not calibrated yet.

    Raises:
        RecipeError: where there are fewer than two, or not of one base, variant and start.
    """
    folders = [*checkpoints, *last]
    if len(folders) < 2:
        raise RecipeError("averaging takes at least two checkpoints")
    reports = [json.loads((folder / "training.json").read_text()) for folder in folders]
    for name in ("base", "variant", "init"):
        values = {str(report["recipe"][name]) for report in reports}
        if name == "init":
            # One may have gone on from another.
            values -= {folder.name for folder in folders}
        if len(values) > 1:
            raise RecipeError(f"checkpoints differ in {name}: {', '.join(sorted(values))}")
    states = [torch.load(folder / "model.pt", weights_only=True) for folder in checkpoints]
    states += [
        torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["model"]
        for folder in last
    ]
    steps = [report["best"]["step"] for report in reports[: len(checkpoints)]]
    steps += [report["steps"] for report in reports[len(checkpoints) :]]
    mean = {}
    for name, first in states[0].items():
        stacked = torch.stack([state[name].double() for state in states])
        # Counters and the like are the same in all of them.
        mean[name] = stacked.mean(dim=0).to(first.dtype)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(mean, out / "model.pt")
    (out / "tokenizer.json").write_bytes((folders[0] / "tokenizer.json").read_bytes())
    feedback = max(report["rows"].get("feedback", 0) for report in reports)
    report = reports[0] | {
        # Of any of them: it decides what the mean may be used for.
        "rows": reports[0]["rows"] | {"feedback": feedback},
        "averaged": [
            {
                "name": folder.name,
                "seed": report["recipe"]["seed"],
                "steps": step,
                "data_sha256": report["data_sha256"],
            }
            for folder, report, step in zip(folders, reports, steps, strict=True)
        ],
        # A run that is named twice took its time once.
        "seconds": sum(
            {f.resolve(): r["seconds"] for f, r in zip(folders, reports, strict=True)}.values()
        ),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return out
