import math

import pytest

from training.adversarial.curves import PARTS
from training.adversarial.rewards import (
    Novelty,
    Parts,
    complexity,
    consistency,
    fluency,
    of_label,
    repetition,
)
from training.adversarial.scoring import RewardError, Worth


def test_a_higher_loss_is_worth_more_and_never_more_than_one():
    values = [complexity(p) for p in (0.0, 0.01, 0.1, 0.5, 0.9, 0.999, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[3] == pytest.approx(0.5)
    assert values[1] == pytest.approx(math.log(100) / (math.log(100) + math.log(2)))
    assert (values[0] < 1, values[-1]) == (True, 0)


def test_what_the_judge_denies_is_worth_nothing():
    assert consistency(0.49, 0.5) == 0
    assert consistency(0.5, 0.5) == 0.5
    assert consistency(0.9, 0.5) == 0.9
    assert consistency(0.1, 0.0) == 0.1


def test_a_label_has_the_probability_of_its_side():
    assert of_label(0.8, 1) == 0.8
    assert of_label(0.8, 0) == pytest.approx(0.2)


def test_fluency_falls_between_its_bounds():
    assert fluency(3, easy=5, hard=7) == 1
    assert fluency(6, easy=5, hard=7) == 0.5
    assert fluency(8, easy=5, hard=7) == 0
    assert fluency(math.inf, easy=5, hard=7) == 0


def test_repetition_is_the_share_of_pairs_said_before():
    assert repetition("how do I bake a loaf of bread") == 0
    assert repetition("bake bake bake bake") == pytest.approx(2 / 3)
    assert repetition("bread") == repetition("") == 0


def test_only_the_first_of_near_duplicates_is_new():
    novelty = Novelty()
    long = "How do I bake a loaf of rye bread for six people in a pan on a gas cooker at home"
    assert novelty.of(long) == 1
    assert novelty.of(long.upper()) == 0
    assert novelty.of(f"{long} today") == 0
    assert novelty.of("What is the tallest tree in the park?") == 1


@pytest.mark.parametrize("missing", PARTS)
def test_a_text_that_lacks_one_part_is_worth_nothing(missing: str):
    full = dict.fromkeys(
        ("complexity", "consistency", "fluency", "freshness", "novelty", "validity"), 1.0
    )
    assert Parts(**full).reward == 1
    assert Parts(**full | {missing: 0.5}).reward == 0.5
    assert Parts(**full | {missing: 0.0}).reward == 0


def test_bounds_that_make_no_sense_are_named():
    with pytest.raises(RewardError, match="--gate"):
        Worth(gate=1.5)
    with pytest.raises(RewardError, match="easy < hard"):
        Worth(easy=7, hard=5)
