import itertools

from hypothesis import given
from hypothesis import strategies as st

from tamis.windows import WindowShape, shorten, spans, windows

SHAPE = WindowShape(cls=1, sep=2, max_tokens=32, overlap=8, context_tokens=10)


@given(st.integers(0, 500), st.integers(0, 60))
def test_every_judged_token_is_read_and_no_window_is_too_long(n: int, context: int):
    tokens = list(range(100, 100 + n))
    for before in (None, list(range(1000, 1000 + context))):
        read: set[int] = set()
        for window in windows(tokens, SHAPE, before):
            assert len(window.ids) <= SHAPE.max_tokens
            assert len(window.types) == len(window.judged) == len(window.ids)
            part = window.ids[window.lead : window.lead + window.count]
            assert part == tokens[window.first : window.first + window.count]
            assert sum(window.judged) == window.count
            read.update(part)
        assert read == set(tokens)


@given(st.integers(1, 2000), st.integers(2, 100), st.data())
def test_neighbouring_spans_overlap_and_are_full(n: int, size: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, size - 1))
    found = spans(n, size, overlap)
    for (_, stop), (start, _) in itertools.pairwise(found):
        assert stop - start >= overlap
    if n > size:
        assert all(stop - start == size for start, stop in found)


def test_a_response_is_read_behind_its_prompt_with_its_own_type():
    (window,) = windows([7, 8], SHAPE, context=[5])
    assert window.ids == [1, 5, 2, 7, 8, 2]
    assert window.types == [0, 0, 0, 1, 1, 1]
    assert window.judged == [0, 0, 0, 1, 1, 0]


def test_a_long_context_keeps_its_first_and_last_tokens():
    assert shorten(list(range(100)), 10) == [0, 1, 2, 3, 4, 95, 96, 97, 98, 99]
    assert shorten([1, 2], 10) == [1, 2]
