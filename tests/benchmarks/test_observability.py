import pytest

from benchmarks import observability


def test_the_receiver_ends_with_whoever_needed_it():
    with pytest.raises(KeyError), observability.receiver() as address:
        {}[address]
