"""The mean of several checkpoints' weights (model soups, Wortsman et al. 2022).

Runs that went on from one checkpoint lie in one basin, whatever their seeds and mixtures: their
mean is as good as their ensemble, and costs no more than one of them to serve.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from training.classifier.trainer import RecipeError


def average(checkpoints: Sequence[Path], out: Path) -> Path:
    """Write the mean checkpoint, not calibrated yet.

    Raises:
        RecipeError: where they are not of one base, variant and start.
    """
    if len(checkpoints) < 2:
        raise RecipeError("averaging takes at least two checkpoints")
    reports = [json.loads((folder / "training.json").read_text()) for folder in checkpoints]
    for name in ("base", "variant", "init"):
        values = {str(report["recipe"][name]) for report in reports}
        if len(values) > 1:
            raise RecipeError(f"checkpoints differ in {name}: {', '.join(sorted(values))}")
    states = [torch.load(folder / "model.pt", weights_only=True) for folder in checkpoints]
    mean = {}
    for name, first in states[0].items():
        stacked = torch.stack([state[name].double() for state in states])
        # Counters and the like are the same in all of them.
        mean[name] = stacked.mean(dim=0).to(first.dtype)
    out.mkdir(parents=True, exist_ok=True)
    torch.save(mean, out / "model.pt")
    (out / "tokenizer.json").write_bytes((checkpoints[0] / "tokenizer.json").read_bytes())
    report = reports[0] | {
        "averaged": [
            {
                "name": folder.name,
                "seed": report["recipe"]["seed"],
                "steps": report["steps"],
                "data_sha256": report["data_sha256"],
            }
            for folder, report in zip(checkpoints, reports, strict=True)
        ],
        "seconds": sum(report["seconds"] for report in reports),
    }
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return out
