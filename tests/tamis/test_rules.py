import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis import rules
from tamis.bundle import BundleError, sha256_of
from tamis.content import Content, plain, prompt, response
from tamis.reasoner.protocol import Guideline
from tamis.rules import PairShape
from tamis.verdict import Finding
from tests.encoders import BIAS, RAISED, SCALE, write_encoder

SHAPE = PairShape(cls=1, sep=2, max_tokens=48, overlap=4, rule_tokens=12, context_tokens=8)


def letters(text: str) -> list[int]:
    """A token a letter, none of which is special."""
    return [100 + ord(letter) for letter in text]


def said(tokens: list[int]) -> str:
    return "".join({1: "[", 2: "|"}.get(token) or chr(token - 100) for token in tokens)


def test_a_rule_stands_before_the_text_and_the_text_has_the_other_type():
    rule = rules.read_rule(Guideline("tea", "hot"), letters, SHAPE)
    (window,) = rules.pairs(rule, rules.read_text(prompt("milk"), letters, SHAPE), SHAPE)
    assert said(window.ids) == "[tea:hot|user:milk|"
    assert window.types == [0] * 9 + [1] * 10
    assert said(window.ids[window.lead : window.lead + window.count]) == "milk"


def test_an_answer_stands_behind_what_it_answers():
    rule = rules.read_rule(Guideline("tea"), letters, SHAPE)
    (window,) = rules.pairs(rule, rules.read_text(response("no", "any?"), letters, SHAPE), SHAPE)
    assert said(window.ids) == "[tea|any?|assistant:no|"
    assert window.types == [0] * 10 + [1] * 13
    # An answer to nothing is an answer nevertheless.
    (window,) = rules.pairs(rule, rules.read_text(Content("response", "no"), letters, SHAPE), SHAPE)
    assert said(window.ids) == "[tea||assistant:no|"


def test_what_the_classifier_says_stands_before_the_text():
    said_of = {"hate": 0.4, "privacy": 0.9, "violence": 0.29, "cyber": 0.35}
    sure = Finding("prompt", 0.5, said_of, 0.6, 1, 1)
    assert rules.hints_of(sure) == ("unsafe", "attack", "privacy", "hate")
    assert rules.hints_of(Finding("prompt", 0.49, {}, 0.4, 1, 1)) == ("unclear",)
    declined = Finding("response", 0.09, {}, None, 1, 1, refusal=0.8)
    assert rules.hints_of(declined) == ("safe", "refusal")
    text = rules.read_text(prompt("milk"), letters, SHAPE, ("unsafe", "hate"))
    (window,) = rules.pairs(letters("tea"), text, SHAPE)
    assert said(window.ids) == "[tea|user, unsafe, hate:milk|"
    assert window.types == [0] * 5 + [1] * 24
    assert said(window.ids[window.lead : window.lead + window.count]) == "milk"


def test_a_verdict_of_the_classifiers_adds_to_the_bias(tmp_path: Path):
    plain_one, hinted = (
        rules.load(write_encoder(tmp_path / str(hints), hints=hints)) for hints in (False, True)
    )
    for question in ("prompt", "attack"):
        assert hinted.odds(question, ("unsafe", "hate")) == (SCALE, BIAS + RAISED)
        assert hinted.odds(question, ("safe",)) == hinted.odds(question, ()) == (SCALE, BIAS)
        assert plain_one.odds(question, ("unsafe",)) == (SCALE, BIAS)


def test_a_long_rule_keeps_its_name_and_its_exceptions():
    rule = rules.read_rule(Guideline("tea", "hot drinks, not iced"), letters, SHAPE)
    assert said(rule) == "tea:hot iced"
    assert said(rules.read_rule(Guideline("a" * 20, "b"), letters, SHAPE)) == "a" * 12


@given(st.text("abc", max_size=40), st.text("de", max_size=99), st.text("fg", max_size=300))
def test_nothing_of_a_text_is_lost(rule: str, context: str, text: str):
    read = rules.read_rule(Guideline("n", rule), letters, SHAPE)
    for content in (response(text, context), plain(text)):
        found = rules.read_text(content, letters, SHAPE)
        seen: dict[int, int] = {}
        for window in rules.pairs(read, found, SHAPE):
            assert len(window.ids) == len(window.types) <= SHAPE.max_tokens
            part = window.ids[window.lead : window.lead + window.count]
            seen |= dict(enumerate(part, window.first))
        assert [seen[n] for n in range(len(text))] == letters(text)


def test_a_shape_without_room_for_a_text_is_refused():
    with pytest.raises(ValueError, match="no room for a text behind 200 of a rule"):
        PairShape(cls=1, sep=2, rule_tokens=200)


def bundle(folder: Path, **changed: object) -> Path:
    (folder / "graph.onnx").write_bytes(b"graph")
    (folder / "tokenizer.json").write_text("{}")
    manifest = {
        "format": rules.FORMAT,
        "kind": rules.KIND,
        "name": "tiny",
        "graph": "graph.onnx",
        "tokenizer": "tokenizer.json",
        "pairs": asdict(SHAPE),
        "questions": [
            {"name": name, "scale": 1.5, "bias": -0.5, "flag": 0.4, "block": 0.8}
            for name in rules.QUESTIONS
        ],
        "files": {n: sha256_of(folder / n) for n in ("graph.onnx", "tokenizer.json")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changed))
    return folder


def test_a_bundle_is_read_and_verified(tmp_path: Path):
    found = rules.load(bundle(tmp_path))
    assert (found.name, found.shape) == ("tiny", SHAPE)
    assert found.head("prompt").thresholds.flag == 0.4
    # Documents have no numbers of their own.
    assert found.head("attack") is found.head("toxicity")
    (tmp_path / "graph.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match="sha256"):
        rules.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "tamis.classifier/1"}, "format is 'tamis.classifier/1'"),
        ({"kind": "bi-encoder"}, "kind is 'bi-encoder'"),
        ({"questions": []}, "question 'prompt' is missing"),
        ({"pairs": {"cls": 1}}, "manifest.json"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, changed: dict[str, object], said: str):
    with pytest.raises(BundleError, match=said):
        rules.load(bundle(tmp_path, **changed))


def test_the_bundle_is_looked_for_beside_the_classifier(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(rules.WHERE, raising=False)
    assert rules.default_policy_encoder().name == rules.NAME
    monkeypatch.setenv(rules.WHERE, "/elsewhere")
    assert rules.default_policy_encoder() == Path("/elsewhere")
