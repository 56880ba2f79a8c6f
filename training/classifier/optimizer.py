"""AdamW for a body and its heads, and how its learning rate rises and falls."""

from typing import Any

import torch

from training.classifier.model import GuardClassifier
from training.classifier.recipe import Recipe, RecipeError


def falling_from(recipe: Recipe, steps: int) -> int:
    """The step from which the learning rate falls."""
    return steps - round(recipe.cooldown * steps)


def optimizer_of(
    model: GuardClassifier, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up and cool-down; no weight decay on biases and norms."""
    if not recipe.train_embeddings:
        model.encoder.get_input_embeddings().requires_grad_(False)
    if recipe.frozen_layers:
        try:
            model.freeze(recipe.frozen_layers)
        except ValueError as error:
            raise RecipeError(f"frozen_layers: {error}") from None
    groups = parameter_groups(model, recipe.encoder_lr, recipe.head_lr, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    warm = max(1, round(recipe.warmup * steps))
    cool = max(1, steps - max(warm, falling_from(recipe, steps)))
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 1.0, (steps - step) / cool)
    )


def parameter_groups(
    model: GuardClassifier, encoder_lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """What is trained, by learning rate; no weight decay on biases and norms."""
    # BERT's own pooler is not asked; several processes would wait for its gradient.
    if getattr(model.encoder, "pooler", None) is not None:
        model.encoder.pooler.requires_grad_(False)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = encoder_lr if name.startswith("encoder.") else head_lr
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
