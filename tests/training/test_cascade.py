"""Bands hold no more rows than stated, and both opinions together tell more than either."""

from dataclasses import replace

import numpy as np
import pytest

from tamis.policy import Thresholds
from tamis.tiers import OVERALL
from tamis.verdict import Finding
from training.datasets.schema import Row
from training.evaluation.cascade import Judged, better_told, choose, telling

HEADS = ("prompt", "response", "toxicity", "attack")
OWN = {head: Thresholds(0.5, 0.8) for head in HEADS}
ROWS = 2000


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


def findings(z: np.ndarray, question: str = "prompt") -> list[Finding]:
    scores = 1 / (1 + np.exp(-z))
    return [Finding(question, float(s), {}, 0.01, windows=1, tokens=3) for s in scores]


def judged(spread: tuple[float, float]) -> Judged:
    """Two bundles whose logits stand around the truth's, each off by chance of its own."""
    rng = np.random.default_rng(0)
    truth = rng.random(ROWS) < 0.4
    z = np.where(truth, 2.0, -2.0)
    fast, accurate = (findings(z + rng.normal(0, sigma, ROWS)) for sigma in spread)
    return Judged(rows_of(truth, "guardreasoner_train_5k", "prompt"), fast, accurate, (OWN, OWN))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_a_band_holds_its_share_and_both_are_better_than_either(share: float):
    world = judged((2.5, 2.0))
    found = choose(world, share)
    low, high = found["bands"]["prompt"][OVERALL]
    asked = np.array([low <= f.overall <= high for f in world.fast])
    safe = np.array([not row.label for row in world.rows])
    assert share - 0.01 < asked[safe].mean() <= share
    measured = found["measured"]["prompt"]
    precision = {who: measured[who]["average_precision"] for who in ("fast", "accurate")}
    assert max(precision.values()) + 0.01 < measured["together"]["average_precision"]
    assert precision["fast"] < measured["cascade"]["average_precision"]
    assert measured["asked_twice"] == pytest.approx(asked.mean(), abs=1e-4)
    assert measured["asked_twice_of_safe"] == pytest.approx(asked[safe].mean(), abs=1e-4)
    assert "response" not in found["bands"]
    # The one that errs less has the greater say.
    how = found["weighed"]["prompt"]
    assert 0 < how["first"] < how["second"]
    assert 0 < how["flag"] <= how["block"]
    assert how["sensitivities"]["strict"]["flag"] <= how["flag"]


def test_thresholds_do_not_depend_on_the_band():
    world = judged((2.5, 2.0))
    few, many = (choose(world, share) for share in (0.02, 0.5))
    assert few["bands"] != many["bands"]
    assert few["weighed"] == many["weighed"]


def test_a_first_bundle_that_adds_nothing_has_hardly_a_say():
    how = choose(judged((50.0, 0.5)), 0.4)["weighed"]["prompt"]
    assert how["first"] < how["second"] / 10


def test_a_second_bundle_that_knows_less_is_not_asked():
    assert choose(judged((0.3, 50.0)), 0.4)["bands"] == {}


def test_rows_that_set_no_threshold_are_left_out():
    rows = rows_of(np.array([0, 1]), "guardreasoner_train_5k", "prompt")
    taught = rows_of(np.array([0, 1]), "tamis_contrasts", "prompt")
    assert telling(rows + taught) == rows


def test_documents_are_always_asked_twice_and_weighed_by_themselves():
    requests = judged((2.5, 2.0))
    rng = np.random.default_rng(1)
    truth = rng.random(ROWS) < 0.5
    z = np.where(truth, 2.0, -2.0)
    # Of documents the fast bundle knows next to nothing.
    fast, accurate = (
        [replace(f, attack=f.overall) for f in findings(z + rng.normal(0, sigma, ROWS), "attack")]
        for sigma in (20.0, 1.0)
    )
    both = Judged(
        [*requests.rows, *rows_of(truth, "written_documents", "document")],
        [*requests.fast, *fast],
        [*requests.accurate, *accurate],
        (OWN, OWN),
    )
    found = choose(both, 0.2)
    assert found["bands"]["attack"] == {OVERALL: [0.0, 1.0]}
    how = found["weighed"]["document"]
    assert how["first"] < how["second"] / 10
    assert how["alarms"] <= 0.1
    assert found["measured"]["document"]["asked_twice_of_safe"] == 1.0
    # Requests are as they would be without any.
    alone = choose(requests, 0.2)["weighed"]["prompt"]
    assert found["weighed"]["prompt"]["flag"] == pytest.approx(alone["flag"])


def test_categories_that_the_fast_bundle_tells_better_are_kept():
    def manifest(**f1: float) -> dict:
        heads = [{"name": name.replace("_", "-"), "f1": value} for name, value in f1.items()]
        return {"heads": heads}

    mine = manifest(prompt=0.8, hate=0.6, violence=0.6, self_harm=0.5)
    theirs = manifest(prompt=0.9, hate=0.7, violence=0.5)
    assert better_told(mine, theirs) == ["violence", "self-harm"]
