"""mistralai: ``classifiers.moderate`` and ``moderate_chat``."""

from harness import DECLINED, FULL, KEY, KIND, RUDE, URL, run
from mistralai.client import Mistral
from mistralai.client.errors import SDKError

client = Mistral(api_key="any", server_url=URL)
MODEL = "mistral-moderation-latest"


def check_texts_are_judged_in_mistrals_categories() -> None:
    answer = client.classifiers.moderate(model=MODEL, inputs=[RUDE, KIND])
    rude, kind = answer.results
    assert any((rude.categories or {}).values())
    assert not any((kind.categories or {}).values())
    assert set(rude.categories or {}) == set(rude.category_scores or {})
    assert "jailbreaking" in (rude.categories or {})
    assert len(client.classifiers.moderate(model=MODEL, inputs=KIND).results) == 1


def check_a_refusal_passes_in_a_chat() -> None:
    chat = [{"role": "user", "content": RUDE}, {"role": "assistant", "content": DECLINED}]
    answer = client.classifiers.moderate_chat(model=MODEL, inputs=[chat[:1], chat])
    rude, declined = answer.results
    assert any((rude.categories or {}).values())
    assert not any((declined.categories or {}).values())


def check_errors_carry_the_reason() -> None:
    try:
        client.classifiers.moderate(model=MODEL, inputs=["x"] * 1000)
    except SDKError as error:
        assert error.status_code == 400
        assert "over the limit of 256" in error.body
    else:
        raise AssertionError("not refused")


def check_no_room_is_a_429() -> None:
    limited = Mistral(api_key=KEY, server_url=FULL)
    seen = set()
    for _ in range(3):
        try:
            limited.classifiers.moderate(model=MODEL, inputs=KIND)
        except SDKError as error:
            seen.add(error.status_code)
    assert seen == {429}


run(globals())
