from tests.training.test_datasets import parsed
from training.datasets.contamination import Seen

LONG = "the quick brown fox jumps over the lazy dog near the river"


def seen(*texts: str) -> Seen:
    return Seen(parsed("sap200", prompt=text) for text in texts)


def test_shared_runs_of_eight_words_are_found():
    index = seen(LONG)
    assert index.repeated_in("yesterday, the Quick brown fox jumps over the lazy cat")
    assert not index.repeated_in("the quick brown fox jumps over a lazy dog near a river")


def test_short_texts_are_found_as_a_whole_and_inside_longer_ones():
    index = seen("how do birds fly south", "good morning")
    assert index.repeated_in("Tell me: how do birds fly south?")
    assert not index.repeated_in("how do birds fly")
    assert index.repeated_in("Good morning!")
    assert not index.repeated_in("good morning everybody")


def test_rows_do_not_meet_in_a_prompt_that_is_not_there():
    about = {"source": "sap200", "target": "response", "prompt": ""}
    index = Seen([parsed(**about, response="good morning")])
    assert index.meets(parsed(**about, response="Good morning!"))
    assert not index.meets(parsed(**about, response="good evening"))


def test_the_hash_says_which_texts_they_are():
    assert seen(LONG, "hi").sha256 == seen("hi", LONG).sha256
    assert seen(LONG, "hi").sha256 != seen(LONG).sha256
