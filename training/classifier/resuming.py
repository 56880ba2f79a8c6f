"""Checkpoints of an unfinished run: written whole, and gone on from as the run began."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from training.classifier.recipe import RecipeError

# What a call that goes on with a run may say otherwise than the first: how long it is.
LENGTH: Final = frozenset({"epochs", "steps", "cooldown", "check_every"})


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole, or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def resumed(out: Path, steps: int, on: torch.device) -> dict[str, Any] | None:
    """Where a run of so many steps goes on: None where it begins.

    Raises:
        RecipeError: where as many were taken already, in a run of another length.
    """
    for name in ("last.pt", "stable.pt"):
        if not (out / name).exists():
            continue
        state: dict[str, Any] = torch.load(out / name, map_location=on, weights_only=True)
        if state["steps"] != steps:
            # What a shorter run forgot its learning rate for is not gone on from.
            if name == "last.pt" and (out / "stable.pt").exists():
                continue
            if state["step"] >= steps:
                taken = f"{out} has taken {state['step']} of {state['steps']} steps"
                raise RecipeError(f"steps: {taken}, and {steps} are no more")
        if name == "stable.pt":
            # Weights that were chosen behind it are not of this run.
            state["best"] = {"step": 0, "quality": -1.0}
        return state
    return None


def same_run(out: Path, state: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """See to it that a run is gone on with as it began; older checkpoints do not say how.

    Its batches would be skipped or come twice, and its report speak of what it never saw.

    Raises:
        RecipeError: naming what differs.
    """
    begun = state.get("run", run)
    if others := sorted(name for name in run if begun.get(name) != run[name]):
        raise RecipeError(
            f"{others[0]}: {out} holds a run that began with another ({', '.join(others)}); "
            "give another --out, and go on from its weights with --init"
        )
