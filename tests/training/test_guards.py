"""Guards on made-up rounds: each trips on what it is for, and a healthy round passes all."""

from dataclasses import replace

import numpy as np
import pytest

from training.adversarial import curves
from training.adversarial.guards import GuardError, Limits, Step, check

LIMITS = Limits()
HEALTHY = Step(
    step=1,
    reward=0.15,
    complexity=0.35,
    consistency=0.5,
    fluency=0.9,
    freshness=0.98,
    novelty=0.97,
    validity=0.5,
    kl=0.0,
    agreement=0.7,
    distinct_2=0.8,
    compression=2.2,
    repetition=0.02,
    length=24.0,
    finished=0.8,
    seconds=20.0,
)


def healthy(steps: int = 40) -> list[Step]:
    """Reward rises, KL too, and everything else wavers as samples of forty texts do."""
    rng = np.random.default_rng(0)
    return [
        replace(
            HEALTHY,
            step=n + 1,
            reward=0.15 + 0.004 * n,
            kl=0.004 * n,
            agreement=float(0.7 - 0.002 * n + rng.normal(0, 0.07)),
            distinct_2=float(0.8 + rng.normal(0, 0.03)),
            compression=float(2.2 + rng.normal(0, 0.1)),
            repetition=float(0.02 + abs(rng.normal(0, 0.01))),
        )
        for n in range(steps)
    ]


def first_trip(record: list[Step]):
    """As in a round: the guards look after every step."""
    found = (check(record[: n + 1], LIMITS) for n in range(len(record)))
    return next((trip for trip in found if trip), None)


def test_a_healthy_round_trips_no_guard():
    assert first_trip(healthy()) is None
    assert check([], LIMITS) is None


@pytest.mark.parametrize(
    ("guard", "measure", "field", "end"),
    [
        ("collapse", "distinct_2", "distinct_2", 0.3),
        ("collapse", "compression", "compression", 4.5),
        ("collapse", "repetition", "repetition", 0.4),
        ("reward hacking", "disagreement", "agreement", 0.2),
        ("kl blow-up", "kl", "kl", 2.0),
    ],
)
def test_each_guard_trips_on_what_it_is_for(guard: str, measure: str, field: str, end: float):
    record = healthy(15)
    rest = healthy(40)[15:]
    value = getattr(record[-1], field)
    for n, step in enumerate(rest):
        share = min(1.0, (n + 1) / 10)
        record.append(replace(step, **{field: value + share * (end - value)}))
    trip = first_trip(record)
    assert trip is not None
    assert (trip.guard, trip.measure) == (guard, measure)
    assert 15 < trip.step < 35


def test_one_bad_step_is_no_reason():
    record = healthy(20)
    record[12] = replace(record[12], distinct_2=0.3, agreement=0.3, compression=3.5)
    assert first_trip(record) is None


def test_a_bad_start_is_borne_but_not_made_worse():
    start = [replace(step, agreement=0.4) for step in healthy(10)]
    assert first_trip(start) is None
    trip = first_trip(start + [replace(s, agreement=0.15) for s in healthy(20)[10:]])
    assert trip is not None
    assert trip.guard == "reward hacking"


def test_not_a_number_stops_a_round():
    trip = first_trip([replace(HEALTHY, kl=float("nan"))])
    assert trip is not None
    assert trip.guard == "kl blow-up"
    silent = healthy(8)
    silent[7] = replace(silent[7], agreement=float("nan"))
    assert first_trip(silent).measure == "disagreement"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"window": 0}, "--window"),
        ({"disagreement": 1.2}, "--disagreement"),
        ({"kl": 0}, "--kl-limit"),
    ],
)
def test_limits_that_make_no_sense_are_named(more: dict, name: str):
    with pytest.raises(GuardError, match=name):
        Limits(**more)


def test_several_rounds_are_drawn_in_one_small_picture(tmp_path):
    import json
    from dataclasses import asdict

    for name in ("one", "two"):
        lines = [json.dumps(asdict(step)) + "\n" for step in healthy()]
        (tmp_path / name).write_text("".join(lines))
    curves.draw({"1": tmp_path / "one"}, tmp_path / "1.png")
    curves.draw({"1": tmp_path / "one", "2": tmp_path / "two"}, tmp_path / "docs" / "2.png")
    one, two = (tmp_path / "1.png").read_bytes(), (tmp_path / "docs" / "2.png").read_bytes()
    assert one[:4] == two[:4] == b"\x89PNG"
    assert one != two
    assert len(two) < 80_000
