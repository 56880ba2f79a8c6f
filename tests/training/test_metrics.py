import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from training.classifier.calibration import calibration_error, fit_platt, sigmoid
from training.classifier.thresholds import PLATEAU, Scored, lowest_at_precision, plain
from training.evaluation.metrics import average_precision, f1, roc_auc

pairs = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.7, 0.9])), min_size=2
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@given(pairs)
def test_ranking_metrics_agree_with_scikit_learn(rows: list[tuple[bool, float]]):
    truth, scores = map(list, zip(*rows, strict=True))
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))
    assert roc_auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores))


@given(pairs)
def test_the_threshold_is_as_good_as_the_best(rows: list[tuple[bool, float]]):
    y, p = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = plain(Scored(p, y, np.ones(len(p))))
    assert found.f1 == pytest.approx(f1_score(y, p >= found.sets["balanced"].flag))
    assert found.f1 >= max(f1_score(y, p >= t) for t in np.unique(p)) - PLATEAU - 1e-9


def test_the_threshold_is_the_middle_of_the_plateau():
    p = np.linspace(0, 1, 1001)
    y = (p > 0.8).astype(float)
    y[(p > 0.75) & (p < 0.8)] = np.arange(49) % 2
    found = plain(Scored(p, y, np.ones(len(p))))
    assert 0.74 < found.sets["balanced"].flag < 0.81
    assert found.f1 > 0.93


def test_block_is_the_lowest_threshold_with_enough_precision():
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    y = np.array([1, 1, 0, 1, 0])
    assert lowest_at_precision(p, y, np.ones(5), 0.75) == 0.6
    assert lowest_at_precision(p, y, np.ones(5), 0.9) == 0.8
    assert lowest_at_precision(p, 1 - y, np.ones(5), 0.9) == 1.0


def test_platt_scaling_recovers_a_distorted_scale():
    rng = np.random.default_rng(0)
    z = rng.normal(size=20_000)
    y = (rng.random(20_000) < sigmoid(0.5 * z - 1)).astype(int)
    scale, bias = fit_platt(z, y, np.ones(len(z)))
    assert scale == pytest.approx(0.5, abs=0.05)
    assert bias == pytest.approx(-1, abs=0.05)
    raw, fitted = (
        calibration_error(p, y, np.ones(len(z))) for p in (sigmoid(z), sigmoid(scale * z + bias))
    )
    assert fitted < 0.02 < raw


def test_few_separable_rows_do_not_yield_certainty():
    z, y = np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1])
    scale, bias = fit_platt(z, y, np.ones(4))
    assert 0.5 < sigmoid(np.array(scale * 3 + bias)) < 0.999


def test_f1_of_nothing_is_0():
    assert f1(0.0, 0.0) == 0.0
