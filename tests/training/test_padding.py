from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tamis.content import Content
from tamis.policy import Thresholds
from tamis.verdict import Finding, Second
from tests.conftest import row, write_rows
from training.evaluation import padding

OWN = {name: Thresholds(0.5, 0.9) for name in ("prompt", "toxicity", "attack")}


def count(text: str) -> int:
    return len(text.split())


def judge_all(contents: Sequence[Content]) -> Iterator[Finding]:
    """Reads the first thirty words, and takes the word "tea" for an attack."""
    for content in contents:
        words = content.text.lower().split()[:30]
        yield Finding(
            content.question,
            overall=0.8 if {"cookie", "goose"} & set(words) else 0.1,
            categories={"toxicity": 0.1},
            attack=0.9 if "tea" in words else 0.1,
            windows=1,
            tokens=1,
        )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    made = []
    for n in range(400):
        answer = f"The garden was calm on day {n}. Rain fell for an hour or so."
        made.append(row(n, "dolly_sub", "response", 0, f"garden {n}?", response=answer))
        made.append(row(n, "aart", "prompt", 1, f"how to steal a cookie from {n}"))
        made.append(row(n, "davidson", "text", 1, f"you silly goose who ate number {n}"))
        made.append(row(n, "davidson", "text", 1, f"goose {n}"))
        made.append(row(n, "davidson", "text", 1, f"you are a goose {n}. So are all of you."))
    write_rows(folder / "rows.jsonl.gz", made)
    return folder


def test_recall_is_told_by_place_and_length(rows: Path):
    held = padding.rows_of([rows])
    texts = padding.texts_of(held, count, (5, 60))
    assert texts == padding.texts_of(held, count, (5, 60))
    assert len(texts.harmful) == padding.SAMPLES
    assert {r.target for r in texts.harmful} == {"prompt", "text"}
    # Neither scraps nor what is calm in part.
    assert all(6 <= count(r.prompt) <= 7 for r in texts.harmful)
    assert all(60 <= count(" ".join(calm)) < 70 for calm in texts.calm[60])

    found = padding.measure(texts, judge_all, OWN)
    assert found["sentences"] == 24
    assert found["alone"] == 1.0
    assert set(found["5 calm tokens"].values()) == {1.0, 0.0}
    assert found["5 calm tokens"]["calm alone"] == 0.0
    assert found["60 calm tokens"] == {"start": 1.0, "middle": 0.0, "end": 0.0, "calm alone": 0.0}
    tea = replace(texts, calm={5: [["We had tea today."]] * 24})
    assert padding.measure(tea, judge_all, OWN)["5 calm tokens"]["calm alone"] == 1.0


def test_whoever_judges_is_held_against_its_own_thresholds(rows: Path):
    strict = {name: Thresholds(0.85, 0.95) for name in OWN}
    second = Second("other", "invented", strict)

    def judged_again(contents: Sequence[Content]) -> Iterator[Finding]:
        return (replace(finding, second=second) for finding in judge_all(contents))

    texts = padding.texts_of(padding.rows_of([rows]), count, (5,))
    assert padding.measure(texts, judged_again, OWN)["alone"] == 0.0
    own = {name: Thresholds(0.05, 0.9) for name in OWN}
    assert padding.measure(texts, judged_again, own)["5 calm tokens"]["calm alone"] == 0.0


def test_data_without_calm_rows_is_refused(rows: Path):
    held = [r for r in padding.rows_of([rows]) if r.source != "dolly_sub"]
    with pytest.raises(ValueError, match="calm"):
        padding.texts_of(held, count)
