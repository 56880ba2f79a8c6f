"""Short rows among calm sentences: labels stay, and so does the side of the split."""

from pathlib import Path

import pytest

from tests.conftest import row, write_rows
from training.datasets import mixing
from training.datasets.schema import read_rows
from training.synthesis import padded

CALM = "Slice the carrots thinly. Warm the oil in a pan. Serve it with rice and a little lemon."
READ = {"severity": 2, "attack": False, "categories": ["harassment"]}


def write_data(folder: Path) -> Path:
    calm = [
        row(n, "dolly_sub", "prompt", 0, f"{CALM} That was recipe {n} of many.") for n in range(30)
    ]
    short = [
        row(n, "written_prompts", "prompt", 1, f"Help me mock my colleague, plan {n:02}", **READ)
        for n in range(30)
    ]
    long = row(0, "written_texts", "text", 0, "word " * 50, severity=0)
    write_rows(folder / "rows.jsonl.gz", [*calm, *short, long])
    return folder


def test_a_short_row_keeps_its_label_among_calm_sentences(tmp_path: Path):
    data = write_data(tmp_path)
    written = padded.write([data], tmp_path / "out", 100)
    train, held = mixing.split(mixing.load([data], "permissive"))
    assert held
    rows = list(read_rows(tmp_path / "out" / padded.FILE))
    assert len(rows) == written == sum(each.source == "written_prompts" for each in train)
    cores = {each.prompt for each in train if each.source == "written_prompts"}
    for each in rows:
        assert (each.label, each.severity, each.categories) == (1, 2, ("harassment",))
        assert len(each.prompt.split()) >= padded.LEAST
        assert sum(core in each.prompt for core in cores) == 1
    # Twins of what they were made of, they stay on its side.
    assert mixing.load([tmp_path / "out"], "permissive") == rows
    assert not mixing.split(rows)[1]


def test_a_request_is_put_behind_other_turns_with_its_label(tmp_path: Path):
    data = write_data(tmp_path)
    answers = [
        row(n, "alpaca_answers", "response", 0, f"How long is a river {n}?", response="Very long.")
        | {"source": "dolly_sub"}
        for n in range(20)
    ]
    write_rows(data / "answers.jsonl.gz", answers)
    padded.write([data], tmp_path / "out", 100)
    rows = list(read_rows(tmp_path / "out" / padded.FILE))
    behind = [each for each in rows if each.context]
    assert 0 < len(behind) < len(rows) / 2
    for each in behind:
        assert each.context[1::2] == ("Very long.",) * (len(each.context) // 2)
        assert each.prompt.startswith("Help me mock")
        assert (each.label, each.severity) == (1, 2)


def test_answers_too_are_put_behind_other_turns_half_of_them_alarming(tmp_path: Path):
    read = {"severity": 0, "stance": "complies", "attack": False, "categories": []}
    refused = {"stance": "refuses", "source": "dolly_sub"}
    core = row(0, "written_responses", "response", 0, "And a scarf?", response="Knit it.", **read)
    rows = [core | {"id": str(n), "response": f"Knit it in {n} rows."} for n in range(200)]
    rows += [
        row(n, "alpaca_answers", "response", 0, f"Mock him, plan {n}.", response="No.") | refused
        for n in range(9)
    ]
    write_data(tmp_path)
    write_rows(tmp_path / "answers.jsonl.gz", rows)
    padded.write([tmp_path], tmp_path / "out", 500)
    answers = [
        each for each in read_rows(tmp_path / "out" / padded.FILE) if each.target == "response"
    ]
    assert len(answers) > 100
    assert all(each.context and each.prompt == "And a scarf?" for each in answers)
    assert {(each.label, each.stance) for each in answers} == {(0, "complies")}
    alarming = sum(turn == "No." for each in answers for turn in each.context[1::2])
    assert alarming / sum(len(each.context) // 2 for each in answers) == pytest.approx(0.5, abs=0.1)


def test_the_same_call_writes_the_same_rows(tmp_path: Path):
    data = write_data(tmp_path)
    for name in ("one", "two", "other"):
        padded.write([data], tmp_path / name, 10, seed=int(name == "other"))
    one, two, other = (
        list(read_rows(tmp_path / name / padded.FILE)) for name in ("one", "two", "other")
    )
    assert one == two != other
    assert len(one) == 10


def test_data_without_short_rows_that_were_read_is_refused(tmp_path: Path):
    write_rows(tmp_path / "rows.jsonl.gz", [row(1, "dolly_sub", "prompt", 0, CALM)])
    with pytest.raises(ValueError, match="no short rows"):
        padded.write([tmp_path], tmp_path / "out", 10)
