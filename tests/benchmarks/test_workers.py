import pytest

from benchmarks import mixed, workers
from benchmarks.server import Server
from benchmarks.tiers import Tier
from tamis.bundle import Bundle


def test_turns_are_compared_within_a_round():
    turns = workers.Turns()
    for rate, cost in ((100.0, 20.0), (300.0, 10.0)):
        turns.add(workers.RAW, rate, cost)
    turns.add("2 workers", 90.0, 22.0, share=0.1)
    turns.add("2 workers", 210.0, 12.0, share=0.3)
    raw, served = turns.rows("fast")
    assert (raw["of raw's"], raw["× raw's"]) == (1.0, 1.0)
    assert served["tokens/s"] == 150
    assert served["of raw's"] == pytest.approx((0.9 + 0.7) / 2)
    assert served["of raw's on what the load left"] == 1.0
    assert served["× raw's"] == pytest.approx(1.15)


def test_every_kind_of_the_mix_asks_for_what_it_says():
    kinds = mixed.kinds()
    assert set(kinds) == set(mixed.SHARES)
    assert sum(mixed.SHARES.values()) == pytest.approx(1)
    assert all(sent and all(m.tokens > 0 for m in sent) for sent in kinds.values())
    assert all(m.tokens <= mixed.SHORT for m in kinds["short"])
    # A stream grows in the order in which it is sent.
    first = [m.wire for m in kinds["stream"] if b"/mixed-0 " in m.wire]
    assert [len(wire) for wire in first] == sorted(len(wire) for wire in first)
    assert kinds["short"][0].wire == mixed.kinds()["short"][0].wire


def test_workers_of_a_server_are_found_and_killed(bundle: Bundle):
    tier = Tier("fast", {"tier": "fast"}, (bundle,), (bundle,))
    with workers.serving(tier, 1) as server:
        assert len(server.workers) == 2
        # Seldom enough that a text's second worker is left alone, on a slow machine too.
        rows, killed = mixed.together(server, 4.0, kill=2.5)
    assert killed
    assert {row["kind"] for row in rows} == set(mixed.SHARES)
    wrong = ("lost", "5xx", "other")
    assert [row for row in rows if any(row[kind] for kind in wrong)] == []
    assert sum(row["answered"] for row in rows) > 0


def test_a_server_of_threads_has_no_workers(bundle: Bundle):
    with Server(bundle.path, workers=0) as server:
        assert server.workers == []
