from pathlib import Path

from benchmarks import rolling


async def test_nothing_is_lost_when_processes_are_replaced_under_load(bundle):
    path: Path = bundle.path
    balancer, statuses = await rolling.roll(path, clients=20, rolls=2, linger=1.0, every=0.1)
    assert set(balancer.answers) == {"200"}
    # All four processes, the two that left and the two that came, had their part.
    assert len(balancer.by_port) == 4
    assert len(statuses) == 2
