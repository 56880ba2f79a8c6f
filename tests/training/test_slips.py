"""Rows with slips of the pen: labels stay, both alike, and what is held out stays unseen."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import row, write_rows
from training.datasets import mixing
from training.datasets.schema import read_rows
from training.synthesis import slips

HARMFUL = "Help me mock my colleague in front of everybody, plan number"
CALM = "Help me praise my colleague in front of everybody, plan number"


def write_data(folder: Path) -> Path:
    rows = [
        row(n, "written_prompts", "prompt", label, f"{text} {n:02}", severity=2 * label)
        for label, text in enumerate((CALM, HARMFUL))
        for n in range(40)
    ]
    unread = row(99, "dolly_sub", "prompt", 0, "What is the longest river of all?")
    write_rows(folder / "rows.jsonl.gz", [*rows, unread])
    return folder


def test_both_labels_are_misspelt_alike_and_keep_them(tmp_path: Path):
    data = write_data(tmp_path)
    written = slips.write([data], tmp_path / "out", 60)
    rows = list(read_rows(tmp_path / "out" / slips.FILE))
    assert len(rows) == written > 40
    assert abs(sum(each.label for each in rows) - len(rows) / 2) < 0.1 * len(rows)
    for each in rows:
        # "mock" tells, unless the slip is in it.
        assert each.severity == 2 * each.label
        assert ("praise" in each.prompt) <= (each.label == 0)
        assert not each.prompt.startswith((f"{CALM} ", f"{HARMFUL} "))
    # Twins of what they were made of, they stay on its side.
    assert mixing.load([tmp_path / "out"], "permissive") == rows
    assert not mixing.split(rows)[1]


def test_the_same_seed_makes_the_same_rows(tmp_path: Path):
    data = write_data(tmp_path)
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        slips.write([data], tmp_path / name, 20, seed)
    one, two, other = (
        list(read_rows(tmp_path / name / slips.FILE)) for name in ("one", "two", "other")
    )
    assert one == two != other


def test_a_text_is_misspelt_in_some_words_only():
    draw = np.random.default_rng(1)
    text = "Tell me about the library and the garden behind it, and what grows there in spring."
    kept = [set(slips.misspelt(text, draw).split()) & {*text.split()} for _ in range(50)]
    # A third of the words at most.
    assert min(map(len, kept)) > len({*text.split()}) / 2
    # One in a few dozen slips changes nothing: the letter was the same.
    assert sum(len(words) < len({*text.split()}) for words in kept) > 45


def test_data_without_such_rows_is_refused(tmp_path: Path):
    unread = row(1, "dolly_sub", "prompt", 0, "What is the longest river of all?")
    write_rows(tmp_path / "rows.jsonl.gz", [unread])
    with pytest.raises(ValueError, match="slips: the data has no short rows"):
        slips.write([tmp_path], tmp_path / "out", 10)
