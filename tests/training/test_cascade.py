"""Bands are chosen where a second opinion changes most, and hold no more rows than stated."""

import numpy as np
import pytest

from tamis.policy import Thresholds
from tamis.tiers import OVERALL
from tamis.verdict import Finding
from training.datasets.schema import Row
from training.evaluation.cascade import better_told, choose

HEADS = ("prompt", "response", "toxicity", "attack")
OWN = {head: Thresholds(0.5, 0.8) for head in HEADS}
HIGH = {head: Thresholds(0.7, 0.8) for head in HEADS}


def rows_of(labels: np.ndarray, source: str, target: str) -> list[Row]:
    return [
        Row(
            id=f"{source}-{n}",
            source=source,
            target=target,
            label=int(label),
            prompt=f"calm sentence {n}",
            response="yes" if target == "response" else None,
            categories=(),
            licence="permissive",
        )
        for n, label in enumerate(labels)
    ]


def findings(scores: np.ndarray, question: str = "prompt") -> list[Finding]:
    return [Finding(question, float(s), {}, None, windows=1, tokens=3) for s in scores]


@pytest.fixture
def world() -> tuple[list[Row], list[Finding], list[Finding]]:
    """The fast one knows all but those between .3 and .6, where it guesses; the other all."""
    rng = np.random.default_rng(0)
    truth = rng.random(2000) < 0.4
    sure = np.where(truth, rng.uniform(0.6, 1, 2000), rng.uniform(0, 0.3, 2000))
    fast = np.where(rng.random(2000) < 0.3, rng.uniform(0.3, 0.6, 2000), sure)
    accurate = np.where(truth, rng.uniform(0.75, 1, 2000), rng.uniform(0, 0.4, 2000))
    rows = rows_of(truth, "guardreasoner_train_5k", "prompt")
    return rows, findings(fast), findings(accurate)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_the_band_begins_where_the_fast_one_guesses(world, share: float):
    rows, fast, accurate = world
    found = choose(rows, fast, accurate, (OWN, HIGH), share)
    low, high = found["bands"]["prompt"][OVERALL]
    asked = np.array([low <= f.overall <= high for f in fast])
    safe = np.array([not row.label for row in rows])
    assert asked[safe].mean() <= share
    # Whatever it would flag is heard again, and no more of what it is sure of than helps.
    assert asked[np.array([f.overall >= 0.6 for f in fast])].all()
    assert low >= 0.29
    measured = found["measured"]["prompt"]
    quality = {who: sum(measured[OVERALL][who].values()) for who in ("fast", "cascade", "accurate")}
    assert quality["fast"] < quality["cascade"] <= quality["accurate"]
    assert measured["asked_twice"] == pytest.approx(asked.mean(), abs=1e-4)
    assert measured["asked_twice_of_safe"] == pytest.approx(asked[safe].mean(), abs=1e-4)
    assert "response" not in found["bands"]


def test_a_second_bundle_that_knows_less_is_not_asked(world):
    rows, fast, accurate = world
    found = choose(rows, accurate, fast, (HIGH, OWN), 0.2)
    assert found["bands"] == {}


def test_categories_that_the_fast_bundle_tells_better_are_kept():
    def manifest(**f1: float) -> dict:
        heads = [{"name": name.replace("_", "-"), "f1": value} for name, value in f1.items()]
        return {"heads": heads}

    mine = manifest(prompt=0.8, hate=0.6, violence=0.6, self_harm=0.5)
    theirs = manifest(prompt=0.9, hate=0.7, violence=0.5)
    assert better_told(mine, theirs) == ["violence", "self-harm"]
