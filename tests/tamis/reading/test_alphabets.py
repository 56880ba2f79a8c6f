"""English in another alphabet is read as English, and other languages are left alone."""

import pytest

from tamis.reading import read
from tamis.reading.language import language
from tests.tamis.reading.languages import LANGUAGES

SAID = "please tell me how the old clock in the hall of my aunt was made"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALPHABETS = {
    "greek and cyrillic": "αв¢∂єƒgнιנкℓмησρqяѕтυνωχуz",
    "cyrillic capitals": "ДБCDЭFGHIJКLМИОРQЯSТЦVЩЖЧZ",
    "accents": "äbçdéfghïjklmñöpqršťüvwxýž",
    "dots below": "ạḅcḍẹfgḥịjḳḷṃṇọpqṛṣṭụṿẉxỵẓ",
    "hooks": "ąɓçđęƒğħıʝķłɱŋøþqŗşŧųvẁҳყʑ",
    "strokes": "ⱥƀȼđɇfǥħɨɉꝁłmnøᵽꝗɍsŧᵾvwxɏƶ",
    "currencies": "₳฿₵ĐɆ₣₲ⱧłJ₭Ⱡ₥₦Ø₱QⱤ₴₮ɄV₩ӾɎⱫ",
    "cjk": "卂乃匚ᗪ乇千Ꮆ卄丨ﾌҜㄥ爪几ㄖ卩Ɋ尺丂ㄒㄩᐯ山乂ㄚ乙",
    "thai and hebrew": "ค๒ς๔єŦﻮђเןкɭ๓ภ๏קợгรՇยשฬאץչ",
    "yi": "ꍏꌃꉓꀸꍟꎇꁅꃅꀤꀭꀘ꒒ꂵꈤꂦꉣꆰꋪꌗ꓄ꀎꃴꅏꊼꌩꁴ",
    "coptic": "ⲁⲃⲥⲇⲉϝⲅⲏⲓϳⲕⳑⲙⲛⲟⲣϥꞅⲋⲧⲩⳳⲱⲭⲩⲍ",
    "cherokee": "ᎪbᏟᎠᎬfᏀᎻᏆᎫᏦᏞᎷNᎾᏢqᎡᏚᎢuᏙᎳxᎩᏃ",
    "syllabics": "ᗩᗷᑕᗪEᖴGᕼIᒍKᒪᗰᑎOᑭᑫᖇᔕTᑌᐯᗯ᙭Yᘔ",
    "runes": "ᚨᛒᚲᛞᛖᚠᚷᚺᛁᛃᚲᛚᛗᚾᛟᛈᚲᚱᛋᛏᚢᚢᚹᚲᛃᛉ",
    "russian by sound": "абцдефгхийклмнопкрстуввхйз",
}


@pytest.mark.parametrize("name", ALPHABETS)
def test_english_is_read_letter_by_letter(name: str):
    strange = SAID.translate(str.maketrans(LETTERS, ALPHABETS[name]))
    reading = read(strange)
    assert [view.text.lower() for view in reading.views] == [SAID]
    assert language(reading.views[-1].text) == "english"


def test_a_stretch_is_read_where_it_stands_whatever_stands_beside_it():
    strange = SAID.translate(str.maketrans(LETTERS, ALPHABETS["greek and cyrillic"]))
    before, behind = "Спасибо, хорошо. It rains: ", "\n今日は天気がいいです。"
    reading = read(before + strange + behind)
    assert reading.views[-1].text == before + SAID + behind
    at = reading.views[-1].text.index("clock")
    start, end = reading.views[-1].origin(at, at + 5)
    assert (before + strange + behind)[start:end] == "¢ℓσ¢к"


def test_letters_of_all_alphabets_together_are_read():
    names = [name for name in ALPHABETS if "cyrillic capitals" != name != "russian by sound"]
    strange = "".join(
        ALPHABETS[names[n % len(names)]][LETTERS.index(char)] if char in LETTERS else char
        for n, char in enumerate(SAID)
    )
    assert read(strange).views[-1].text.lower() == SAID


@pytest.mark.parametrize("name", LANGUAGES)
def test_other_languages_are_left_alone(name: str):
    reading = read(LANGUAGES[name])
    assert [view.text for view in reading.views] == [LANGUAGES[name]]
    assert reading.transforms == ()


@pytest.mark.parametrize(
    "text",
    [
        "Zoë and Ludwig van der Rohe met François Müller in São Paulo and Šárka in Kraków.",
        "naïve café owners ate crème brûlée at the fête",
        "The signs ₳, ฿, ₵, ₣, ₭, ₦, ₱ and ₮ are those of currencies, and so is the ₩.",
        "In the word мост the letters о, с and т look like those of the word most.",
        "α, β, γ and δ are angles of the figure; the sum of α + β + γ + δ is 360°.",
        "Ça va? the café is on the left, près de la rue, and the hôtel too.",
    ],
)
def test_english_with_some_strange_letters_is_left_alone(text: str):
    assert read(text).views[-1].text == text
