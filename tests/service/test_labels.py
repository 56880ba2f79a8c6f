import math

import numpy as np
import pytest

from service.engine.reasoner.labels import Labels

VOCABULARY = 8


def model(path: list[int]) -> np.ndarray:
    """Logits that depend on all tokens so far."""
    return np.random.default_rng([7, *path]).normal(size=VOCABULARY).astype(np.float32) * 2


def by_hand(option: list[int], options: list[list[int]]) -> float:
    total = 0.0
    for n, token in enumerate(option):
        branches = {o[n] for o in options if o[:n] == option[:n] and len(o) > n}
        logits = model(option[:n])
        total += logits[token] - math.log(sum(math.exp(logits[b]) for b in branches))
    return total


@pytest.mark.parametrize(
    "options",
    [
        [[1, 7], [2, 7]],
        [[1, 2, 7], [1, 3, 7], [4, 7]],
        [[1, 7], [1, 2, 7], [1, 2, 3, 7], [5, 7]],
        [[6, 6, 6, 7]],
    ],
)
def test_probabilities_are_those_of_constrained_decoding(options):
    asked = []

    def further(path):
        asked.append(list(path))
        return model(list(path))

    found = Labels(options).choose(model([]), further)
    assert sum(map(math.exp, found.scores)) == pytest.approx(1)
    for option, score in zip(options, found.scores, strict=True):
        assert score == pytest.approx(by_hand(option, options), abs=1e-5)
    # One question for each place behind the first where labels part.
    stems = {tuple(o[:n]) for o in options for n in range(1, len(o))}
    parting = {s for s in stems if len({o[len(s)] for o in options if tuple(o[: len(s)]) == s}) > 1}
    assert {tuple(path) for path in asked} == parting
    assert len(asked) == len(parting)


def test_a_label_that_the_model_would_not_write_is_marked():
    logits = np.zeros(VOCABULARY, np.float32)
    labels = Labels([[1, 7], [2, 7]])
    logits[2] = 1
    assert labels.choose(logits, model).free == [True, True]
    logits[5] = 2
    assert labels.choose(logits, model).free == [False, False]


def test_temperature_flattens():
    sharp, flat = (
        Labels([[1], [2], [3]]).choose(model([]), model, temperature) for temperature in (1, 4)
    )
    assert np.argmax(sharp.scores) == np.argmax(flat.scores)
    assert np.ptp(flat.scores) == pytest.approx(np.ptp(sharp.scores) / 4, rel=1e-5)


@pytest.mark.parametrize("options", [[[1], [1, 2]], [[1, 2], [1]], [[1], [1]]])
def test_a_label_that_begins_another_is_refused(options):
    with pytest.raises(ValueError, match="beginning"):
        Labels(options)
