import pytest

from tamis import content
from tamis.reasoner.quotes import MOST_WORDS, Source, begun, quotes, unquoted

SOURCE = Source.of(content.response("Bake it\n for  an hour, or two.", "How long do I bake bread?"))


def test_quotes_are_what_stands_between_marks():
    said = "It says “bake it” and “an hour”, then “for"
    assert quotes(said) == ["bake it", "an hour"]
    assert unquoted(said).split() == ["It", "says", "and", ",", "then"]
    assert begun(said) == "for"
    assert begun("It says “") == ""
    assert begun("It says “bake it”.") is None
    assert begun("It says nothing.") is None


@pytest.mark.parametrize(
    ("said", "stands"),
    [
        ("“Bake it for an hour”", True),  # on one line
        ("“hour, or two.”", True),
        ("“bake bread”", True),  # of what is answered
        ("No quote at all.", True),
        ("“bake it”", False),  # another letter
        ("“ake it”", False),
        ("“for an ho”", False),
        ("“an hour” and “a day”", False),
        ("“”", False),
        ("“Bake “it”", False),
        ("“ it”", False),
        ("“it ”", False),
    ],
)
def test_a_quote_stands_letter_for_letter_in_whole_words(said: str, stands: bool):
    assert SOURCE.bears(said) is stands
    assert SOURCE.lets(said) is stands


@pytest.mark.parametrize(
    ("grown", "fits"),
    [
        ("It says “", True),
        ("It says “Ba", True),
        ("It says “ba", True),  # bread
        ("It says “ak", False),
        ("It says “Bake it “for", False),
        ("It says “Bake it” “fo", True),
    ],
)
def test_a_quote_grows_along_the_text(grown: str, fits: bool):
    assert SOURCE.lets(grown) is fits


def test_a_word_later_in_the_text_may_be_the_one_that_is_quoted():
    source = Source.of(content.prompt("Unbaked? Then bake it."))
    assert source.bears("“bake”")
    assert not source.bears("“bak”")


def test_a_quote_goes_on_where_it_began():
    assert SOURCE.after("Bake it", 6, 9) == [" for a"]
    assert SOURCE.after("b", 4, 9) == ["ake ", "read"]
    assert SOURCE.after("", 3, 9)[:4] == ["Bak", "it ", "for", "an "]
    assert len(SOURCE.after("", 3, 2)) == 2
    assert SOURCE.after("bread?", 3, 9) == []


def test_a_quote_that_does_not_end_is_none():
    assert SOURCE.lets("It says “Bake it")
    assert not SOURCE.bears("It says “Bake it")


def test_a_quote_is_not_the_whole_text():
    source = Source.of(content.prompt("so " * (MOST_WORDS + 1)))
    assert source.lets("“" + " ".join(["so"] * MOST_WORDS))
    assert not source.lets("“" + " ".join(["so"] * (MOST_WORDS + 1)))
