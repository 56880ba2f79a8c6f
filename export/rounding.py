"""fp32 weights → int8, rounded so that the product, not each weight, is nearest (GPTQ)."""

from typing import Final

import numpy as np

# Added to the diagonal, as a share of its mean. Outliers make the mean large: more drowns the rest.
DAMPING: Final = 1e-4
BLOCK: Final = 128


def nearest(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every weight to its nearest step; returns int8 (K, N) and the step of each column."""
    scale = _scale(weight)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def compensated(weight: np.ndarray, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round row after row, and let the rows still to come make up for the error (GPTQ).

    Frantar et al. 2023. ``moments`` is the sum of x xᵀ over calibration tokens; the rows that
    matter most are rounded first, while all others can still answer. It costs nothing at run
    time.
    """
    inputs, _ = weight.shape
    scale = _scale(weight)
    order = np.argsort(-np.diag(moments))
    h = moments[np.ix_(order, order)].astype(np.float64)
    h[np.diag_indices(inputs)] += DAMPING * np.mean(np.diag(h))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    left = weight[order].astype(np.float64)
    steps = np.empty(weight.shape, dtype=np.int8)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        errors = np.empty((end - start, weight.shape[1]))
        for row in range(start, end):
            chosen = np.clip(np.rint(left[row] / scale), -127, 127)
            steps[order[row]] = chosen
            error = (left[row] - chosen * scale) / upper[row, row]
            left[row + 1 : end] -= np.outer(upper[row, row + 1 : end], error)
            errors[row - start] = error
        left[end:] -= upper[start:end, end:].T @ errors
    return steps, scale


def _scale(weight: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(np.abs(weight).max(axis=0) / 127, 1e-12), dtype=np.float32)
