"""Entropy cleaning: find rows whose label is wrong by how hard they are to learn (2507.08284).

The paper minimises J = L_n - H(L): the loss, less the entropy of the distribution of the rows'
losses. The second term keeps the losses apart, where plain training pulls them together by learning
wrong labels by heart. A mixture of three Gaussians is then fitted to them, and the cluster with the
highest mean is dropped. The paper tells neither the weight of H nor its estimator; here H is the
leave-one-out Parzen estimate over the rows of a batch, of log-losses, since losses themselves crowd
at zero. By default its weight is 0: with few epochs and a small network plain losses rank wrong
labels better and separate better; the entropy pays where training goes on for too long.

The network is small and reads what a frozen encoder says of each row: a pass over the rows, then
seconds, instead of a fine-tuning run whose capacity is what learns wrong labels by heart.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

# Keeps the logarithm of a loss finite; a loss below it is as good as none.
FLOOR: Final = 1e-4
# Ashman's D, above which two Gaussians are told apart (Ashman, Bird and Zepf 1994).
SEPARATE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the losses come about and are cut."""

    entropy_weight: float = 0.0
    epochs: int = 4
    hidden: int = 256
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-2
    components: int = 3
    members: int = 5
    seed: int = 0


def entropy(values: Tensor) -> Tensor:
    """Differential entropy of the distribution that values (n,) are drawn from, in nats.

    Leave-one-out Parzen estimate with Silverman's bandwidth, differentiable in the values.
    """
    count = len(values)
    width = max(1.06 * float(values.detach().std()) * count**-0.2, 0.02)
    distance = (values[:, None] - values[None, :]) / width
    kernel = torch.exp(-0.5 * distance**2) / (width * math.sqrt(2 * math.pi))
    density = (kernel.sum(dim=1) - kernel.diagonal()) / (count - 1)
    return -torch.log(density + 1e-8).mean()


def losses(features: np.ndarray, labels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What each row's label costs a network that was trained on all of them, in log-loss.

    Args:
        features: (rows, d), what an encoder says of each row, in units of about 1.
        labels: (rows,), 0 or 1.
        recipe: how to train; the mean over its members.

    Returns:
        (rows,): the logarithm of the cross-entropy of each row.
    """
    given, wanted = torch.from_numpy(features).float(), torch.from_numpy(labels).float()
    total = np.zeros(len(labels))
    for member in range(recipe.members):
        total += _member(given, wanted, recipe, recipe.seed + member)
    return total / recipe.members


def _member(features: Tensor, labels: Tensor, recipe: Recipe, seed: int) -> np.ndarray:
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(features.shape[1], recipe.hidden), nn.GELU(), nn.Linear(recipe.hidden, 1)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)

    def cost(rows: Tensor) -> Tensor:
        logits = net(features[rows])[:, 0]
        return binary_cross_entropy_with_logits(logits, labels[rows], reduction="none")

    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(labels), generator=order).split(recipe.batch):
            each = cost(rows)
            objective = each.mean()
            if recipe.entropy_weight and len(rows) > 2:
                objective = objective - recipe.entropy_weight * entropy(torch.log(each + FLOOR))
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
    with torch.no_grad():
        found: np.ndarray = torch.log(cost(torch.arange(len(labels))) + FLOOR).numpy()
    return found


@dataclass(frozen=True, slots=True)
class Cut:
    """A mixture fitted to losses, and the rows of its highest cluster."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]
    suspicious: np.ndarray
    """(rows,): the probability that a row belongs to the highest cluster."""

    @property
    def separation(self) -> float:
        """Ashman's D between the two highest clusters."""
        (low, high), (a, b) = self.means[-2:], self.deviations[-2:]
        return (high - low) / math.sqrt((a * a + b * b) / 2)

    def as_json(self) -> dict[str, Any]:
        """Plain data for a report."""
        return {
            "means": [round(v, 4) for v in self.means],
            "deviations": [round(v, 4) for v in self.deviations],
            "weights": [round(v, 4) for v in self.weights],
            "separation": round(self.separation, 3),
        }

    @property
    def holds(self) -> bool:
        """Whether the two are told apart: what the paper's cut stands on."""
        return self.separation >= SEPARATE


def scale(losses: np.ndarray) -> np.ndarray:
    """Log-losses (n,) → what the mixture is fitted to: log-odds of the other label, log(e^L - 1).

    The same order, but clusters are told apart: Ashman's D of the losses themselves is 1.1–1.8
    whether a tenth of the labels is wrong or none; of log-odds it is 2.3 where wrong labels can be
    found and 1.7 in the same source without them (docs/lab-log.md). Above 0 a network believes
    the opposite of the label.
    """
    return np.log(np.expm1(np.exp(losses)))


def cut(losses: np.ndarray, components: int, seed: int = 0) -> Cut:
    """Fit a mixture of Gaussians to log-losses (n,), and say which rows lie in its highest one."""
    values = scale(losses)
    mixture = GaussianMixture(components, random_state=seed, n_init=3).fit(values[:, None])
    order = np.argsort(mixture.means_[:, 0])
    return Cut(
        means=tuple(float(v) for v in mixture.means_[order, 0]),
        deviations=tuple(float(v) ** 0.5 for v in mixture.covariances_[order, 0, 0]),
        weights=tuple(float(v) for v in mixture.weights_[order]),
        suspicious=mixture.predict_proba(values[:, None])[:, order[-1]],
    )
