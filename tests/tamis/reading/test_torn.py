"""Words that were torn apart or glued together: what they say, and what is judged then."""

import pytest

from tamis.reading import read


def said(text: str) -> str:
    return read(text).views[-1].text


@pytest.mark.parametrize(
    "text",
    [
        "Wh at d oes a gard en need in sum mer and how oft en do I wat er it",
        "W hat d oes a ga rden ne ed in su mmer and h ow often do I wa ter i t",
    ],
)
def test_words_torn_at_random_are_put_together_and_judged_so_alone(text: str):
    reading = read(text)
    assert [view.text for view in reading.views] == [
        "What does a garden need in summer and how often do I water it"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "you are a liar and it may be a long way to go for Qi, Xu and Wei",
        "How do I write an iteration in c++ or in c# or in r?",
        "how do I make a fake nose bleed at home",
        "The lemma holds if a, b, c and d are real, as do e and f in a row.",
    ],
)
def test_words_that_would_be_others_together_stay(text: str):
    assert read(text).views[0].text == text
    assert len(read(text).views) == 1


@pytest.mark.parametrize(
    ("torn", "whole"),
    [
        ("gar<b>d</b>en the zin<b>ni</b>as", "garden the zinnias"),
        ("wa<!-- -->ter", "water"),
        (
            "exp<i>la</i>in to me what hor<i>ti</i>culturism is",
            "explain to me what horticulturism is",
        ),
    ],
)
def test_tags_that_nobody_sees_part_no_words(torn: str, whole: str):
    assert [view.text for view in read(f"Please {torn} today").views] == [f"Please {whole} today"]


def test_a_tag_that_says_something_is_kept():
    reading = read("Please <b title='dig up all roses'>wa<b>ter</b> the garden")
    assert "dig up all roses" in reading.views[-1].text


def test_who_cuts_words_has_cut_strange_ones_in_the_same_way():
    assert said("pl-ea-se wa-te-r the ze-phy-ranthus") == "please water the zephyranthus"
    assert said("pl-ea-se wa-te-r the zeph_yranth_us") == "please water the zeph_yranth_us"


@pytest.mark.parametrize(
    ("glued", "whole"),
    [
        ("HowdoIwatermygardenwell", "How do I water my garden well"),
        ("ShouldIwaterthe12rosesinthegardenofmymother", None),
        (
            "CanyouhelpmetofindDonaldsgardeninthesummer",
            "Can you help me to find Donalds garden in the summer",
        ),
    ],
)
def test_sentences_without_spaces_are_cut_at_capitals_too(glued: str, whole: str | None):
    assert said(glued) == whole or (
        whole is None and said(glued).endswith("roses in the garden of my mother")
    )


def test_identifiers_stay():
    text = "Call InternationalizationOfTheUserAccount or getTheNumberOfItemsInTheList there"
    assert [view.text for view in read(text).views] == [text]


def test_rare_words_are_words():
    assert said("Z2l2ZSBtZSBhIGphdmFzY3JpcHQgdG8gc2VnbWVudCBwaG90b25z") == (
        "give me a javascript to segment photons"
    )
    # "4REAL" is not "areal".
    assert said("He is 4REAL about the garden") == "He is 4REAL about the garden"


def test_entities_behind_percent_signs_are_read():
    assert (
        said("%26%2380%3B%26%23108%3B%26%23101%3B%26%2397%3B%26%23115%3B%26%23101%3B") == "Please"
    )


def test_other_languages_in_an_exact_code_are_judged_as_they_read_alone():
    code = " ".join(format(ord(char), "08b") for char in "enumere tecnicas de sobrevivencia")
    assert [view.text for view in read(code).views] == ["enumere tecnicas de sobrevivencia"]


def test_a_blank_cell_of_braille_behind_a_comma_is_a_space():
    assert said("⠓⠑⠇⠇⠕,⠀⠓⠕⠺⠀⠊⠎⠀⠽⠕⠥⠗⠀⠛⠁⠗⠙⠑⠝") == "hello, how is your garden"


def test_a_word_that_no_table_has_is_read_in_the_company_of_others():
    assert said("ωнαт ∂σєѕ тнє zιииιαzzα αи∂ тнє gαя∂єи иєє∂ ιи ѕυммєя").startswith(
        "what does the zinniazza"
    )
