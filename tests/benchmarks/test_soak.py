from benchmarks import soak
from benchmarks.load import Result


def test_a_soak_of_seconds_has_a_growth():
    samples = [(second / 60, 100.0 + second) for second in range(4)]
    assert soak._soaked(samples, Result(3.0), 0.05)["growth"] == "+2.0%"
