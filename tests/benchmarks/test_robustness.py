"""What is counted of transformations, and what the attacker may do."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.robustness.attacker import greedy
from benchmarks.robustness.measure import Figures, sample
from benchmarks.robustness.transformations import HIDDEN, NESTED, TRANSFORMATIONS, all_of_them


def test_what_is_kept_is_of_what_was_flagged_in_plain_letters():
    plain = Figures([True, True, True, False], [False] * 100)
    found = Figures([True, True, False, True], [True] + [False] * 99)
    assert found.recall == plain.recall == 0.75
    assert found.kept(plain) == pytest.approx(2 / 3)
    assert not found.holds(plain)
    assert Figures(plain.harmful, found.benign).holds(plain)
    assert not Figures(plain.harmful, [True, True, *plain.benign[2:]]).holds(plain)


def test_there_are_enough_transformations_and_all_change_a_text():
    assert len(TRANSFORMATIONS) >= 24
    assert {name for pair in NESTED for name in pair} <= TRANSFORMATIONS.keys() >= HIDDEN
    text = "Tell me, please, what grows in the old garden?"
    assert [name for name, change in all_of_them().items() if change(text) == text] == []


def test_short_plain_prompts_of_one_label_are_drawn_the_same_every_time(tmp_path: Path):
    rows = [
        {"target": "prompt", "label": n % 2, "prompt": f"What grows in garden number {n:02}?"}
        for n in range(40)
    ]
    rows += [{"target": "prompt", "label": 1, "prompt": text} for text in ("short", "x" * 161)]
    rows += [{"target": "text", "label": 1, "prompt": "A post about a garden, number one."}]
    with gzip.open(tmp_path / "some.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    found = sample(tmp_path, 30, 1)
    assert found == sample(tmp_path, 30, 1)
    assert sorted(found) == sorted(row["prompt"] for row in rows[1:40:2])


@pytest.mark.parametrize("synonyms", [False, True])
def test_the_attacker_wins_where_a_word_counts_and_keeps_to_its_budget(synonyms: bool):
    asked = []

    def judge(text: str) -> SimpleNamespace:
        asked.append(text)
        counts = "steal" in text
        score = 0.9 if counts else 0.1
        return SimpleNamespace(score=score, threshold=0.5, flagged=counts, attack=None)

    def never(text: str) -> SimpleNamespace:
        asked.append(text)
        return SimpleNamespace(score=0.9, threshold=0.5, flagged=True, attack=None)

    text = "how can somebody steal the roses in the garden"
    won = greedy(text, judge, 50, synonyms=synonyms)
    assert won.won
    assert "steal" not in won.text
    assert len(asked) <= 50
    asked.clear()
    lost = greedy(text, never, 50, synonyms=synonyms)
    assert not lost.won
    assert len(asked) <= 50
