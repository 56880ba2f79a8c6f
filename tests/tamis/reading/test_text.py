from hypothesis import given
from hypothesis import strategies as st

from tamis.reading import Edit, Text


def test_what_was_not_edited_maps_to_itself_and_what_was_as_a_whole():
    said = Text("say SGk= now").edit([Edit(4, 8, "Hi")])
    assert said.text == "say Hi now"
    assert said.origin(0, 3) == (0, 3)
    assert said.origin(4, 5) == said.origin(4, 6) == (4, 8)
    assert said.origin(7, 10) == (9, 12)
    assert said.origin(0, 10) == (0, 12)


def test_what_was_taken_away_belongs_to_none_but_lies_between():
    said = Text("i--g--n").edit([Edit(1, 3, ""), Edit(4, 6, "")])
    assert said.text == "ign"
    assert [said.origin(n, n + 1) for n in range(3)] == [(0, 1), (3, 4), (6, 7)]
    assert said.origin(0, 3) == (0, 7)


def test_edits_of_edits_lead_back_to_the_original():
    said = Text("<abc>").edit([Edit(1, 4, "xy")]).edit([Edit(2, 3, "zzz")])
    assert said.text == "<xzzz>"
    assert said.origin(2, 5) == (1, 4)
    assert said.origin(5, 6) == (4, 5)


@st.composite
def edited(draw: st.DrawFn) -> Text:
    said = Text(draw(st.text(max_size=30)))
    for _ in range(draw(st.integers(0, 3))):
        cuts = sorted(draw(st.sets(st.integers(0, len(said.text)), max_size=6)))
        pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
        said = said.edit([Edit(a, b, draw(st.text(max_size=4))) for a, b in pairs])
    return said


@given(edited(), st.data())
def test_offsets_lie_within_the_original_and_grow(said: Text, data: st.DataObject):
    root = said
    while root.parent is not None:
        root = root.parent
    spans = [said.origin(n, n + 1) for n in range(len(said.text))]
    assert all(0 <= start < end <= len(root.text) for start, end in spans)
    assert spans == sorted(spans)
    if said.text:
        start = data.draw(st.integers(0, len(said.text) - 1))
        end = data.draw(st.integers(start + 1, len(said.text)))
        assert said.origin(start, end) == (spans[start][0], max(e for _, e in spans[start:end]))
