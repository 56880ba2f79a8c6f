"""Rows written by hand: in the schema, under the guide, and nothing that a test measures on."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tamis.taxonomy import taxonomy
from tests.conftest import row, write_rows
from training.datasets import mixing
from training.datasets.contamination import words
from training.datasets.registry import source_of
from training.datasets.schema import Row, parse_row, read_rows
from training.synthesis import contrasts

BENIGN = Path(__file__).parents[1] / "data" / "benign"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [parse_row(json.dumps(raw), raw["id"]) for raw in contrasts.contrasts()]


@pytest.fixture(scope="module")
def groups() -> dict[str, list[Row]]:
    """The contrasts by group; rows in other languages also stand on their own."""
    found: dict[str, list[Row]] = defaultdict(list)
    for raw in contrasts.contrasts(["contrasts"]):
        found[raw["group"]].append(parse_row(json.dumps(raw), raw["id"]))
    return found


def test_every_row_holds_together(rows: list[Row]):
    assert len({each.id for each in rows}) == len(rows)
    for each in rows:
        taxonomy().check(each.categories)
        assert source_of(each).labels_of(each), each.id
        assert (each.severity is None) == (each.target == "document"), each.id
        assert not (each.severity == 0 and each.categories), each.id
        assert (each.stance is not None) == (each.target == "response"), each.id
        assert (each.attack is not None) == (each.target in ("prompt", "document")), each.id


def test_every_group_holds_a_safe_row_and_most_an_unsafe_one(groups: dict[str, list[Row]]):
    severities = [
        {each.label * 2 if each.severity is None else each.severity for each in group}
        for group in groups.values()
    ]
    assert all(0 in found for found in severities)
    assert sum(2 in found for found in severities) > len(groups) / 2


def test_rows_in_other_languages_calibrate_and_measure_in_each_of_them():
    rows = [parse_row(json.dumps(raw), raw["id"]) for raw in contrasts.contrasts(["languages"])]
    train, held = mixing.split(rows)
    assert not {each.group for each in train} & {each.group for each in held}
    tongues = {each.lang for each in rows}
    assert len(tongues) >= 12
    assert not any(each.english for each in rows)
    for tongue in tongues:
        for part in (train, held):
            severities = [each.severity for each in part if each.lang == tongue]
            assert min(severities.count(0), severities.count(2)) >= 4, tongue


def test_ordinary_rows_say_how_often_those_alarm_in_other_languages():
    rows = [parse_row(json.dumps(raw), raw["id"]) for raw in contrasts.contrasts(["ordinary"])]
    assert {each.severity for each in rows} == {0}
    assert not any(each.english for each in rows)
    train, held = mixing.split(rows)
    assert min(len(train), len(held)) >= 400
    assert all(source_of(each).calibrates for each in rows)


def test_documents_calibrate_and_measure_as_well():
    rows = [parse_row(json.dumps(raw), raw["id"]) for raw in contrasts.contrasts(["documents"])]
    assert {each.target for each in rows} == {"document"}
    train, held = mixing.split(rows)
    assert not {each.group for each in train} & {each.group for each in held}
    for part in (train, held):
        assert all(source_of(each).calibrates for each in part)
        assert min(sum(each.label == label for each in part) for label in (0, 1)) >= 100


def test_none_is_a_row_that_tests_measure_on(rows: list[Row]):
    lines = (line for file in BENIGN.glob("*.jsonl") for line in file.read_text().splitlines())
    measured = [json.loads(line) for line in lines]
    texts = {tuple(words(each.get("response") or each["prompt"])) for each in measured}
    assert not [each.id for each in rows if tuple(words(each.judged)) in texts]


def test_a_row_that_meets_what_is_excluded_takes_its_group_along(rows: list[Row], tmp_path: Path):
    met = next(each for each in rows if each.target == "prompt")
    (tmp_path / "eval").mkdir()
    write_rows(tmp_path / "eval" / "set.jsonl.gz", [row(1, "harmbench", "prompt", 1, met.prompt)])
    whole, none = contrasts.write(tmp_path / "whole")
    kept, dropped = contrasts.write(tmp_path / "kept", tmp_path / "eval")
    assert (whole, none) == (len(rows), 0)
    assert kept + dropped == whole
    assert dropped > 1
    left = list(read_rows(tmp_path / "kept" / contrasts.FILE))
    assert met.group not in {each.group for each in left}
    assert mixing.load([tmp_path / "kept"], "permissive") == left
