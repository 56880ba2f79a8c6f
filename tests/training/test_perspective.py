"""Fitting Perspective's scale: on some texts, measured on others, and gone on with."""

import gzip
import json
import random
import shutil

import pytest

from tamis import perspective
from tamis.cli import main
from tamis.content import Content
from tamis.perspective import Scale
from tamis.verdict import Finding
from tests.conftest import write_rows
from training import perspective as fitting


def rated(n: int) -> list[fitting.Rated]:
    """Texts whose rudeness and Perspective's score are known."""
    draw = random.Random(0)
    rows = []
    for k in range(n):
        level = draw.random()
        scores = {"TOXICITY": level**2, "THREAT": draw.random()}
        rows.append(fitting.Rated(f"set-{k // 2}-{'pc'[k % 2]}", f"{level}", scores))
    return rows


class Judge:
    """A classifier whose scores follow from the text, and which counts."""

    asked = 0

    def __call__(self, content: Content) -> Finding:
        self.asked += 1
        level = float(content.text)
        categories = {"toxicity": level, "violence": 0.5 * level, "hate": 0.1}
        return Finding("toxicity", level, categories, 0.01, windows=1, tokens=3)


def test_halves_of_a_sentence_fall_on_the_same_side():
    rows = rated(400)
    sides = {row.id.rpartition("-")[0]: row.held_out for row in rows}
    assert all(sides[row.id.rpartition("-")[0]] == row.held_out for row in rows)
    assert 0.15 < sum(row.held_out for row in rows) / len(rows) < 0.35


def test_a_known_scale_is_found_and_thresholds_keep_their_shares(bundle, tmp_path):
    rows = rated(2_000)
    scores = list(fitting.scored(rows, Judge(), tmp_path / "scores.jsonl"))
    table = fitting.fit(rows, scores, bundle)
    # These texts carry no score of the others.
    assert set(table["attributes"]) == {"TOXICITY", "THREAT"}
    toxicity = table["attributes"]["TOXICITY"]
    assert toxicity["held_out"]["rank_correlation"] > 0.999
    assert abs(toxicity["held_out"]["mean_difference"]) < 0.02
    for at in toxicity["held_out"]["thresholds"].values():
        assert at["agreement"] > 0.97
        assert abs(at["ours"] - at["theirs"]) < 0.03
    assert abs(table["attributes"]["THREAT"]["held_out"]["rank_correlation"]) < 0.15
    knots = [tuple(knot) for knot in toxicity["knots"]]
    scale = Scale(toxicity["weights"], toxicity["bias"], knots)
    assert scale.value(scores[0]) == pytest.approx(rows[0].scores["TOXICITY"], abs=0.05)
    assert "TOXICITY | 1.000" in fitting.report(table)


def test_an_interrupted_run_goes_on(tmp_path):
    rows, judge, cache = rated(40), Judge(), tmp_path / "cache" / "scores.jsonl"
    half = fitting.scored(rows, judge, cache)
    first = [next(half) for _ in range(15)]
    half.close()
    cache.write_text(cache.read_text() + '\n{"set-7-c": {"tox')  # killed while it wrote
    found = list(fitting.scored(rows, judge, cache))
    assert found[:15] == first
    assert judge.asked == 40
    assert list(fitting.scored(rows, judge, cache)) == found
    assert judge.asked == 40


@pytest.mark.parametrize(
    "row", ['{"id": 1, "prompt": "x"}', "{", "[]", '{"perspective": {"a": "b"}}']
)
def test_rows_that_are_not_rated_are_named(tmp_path, row):

    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as lines:
        lines.write(row + "\n")
    with pytest.raises(ValueError, match="line 1"):
        fitting.read(tmp_path)


def test_the_command_writes_table_and_page(bundle, tmp_path, capsys):
    own = tmp_path / "bundle"
    shutil.copytree(bundle.path, own)
    (own / perspective.FILE).unlink()
    words = ["tea", "garden", "goose", "stupid", "lovely", "silly"]
    rows = [
        {
            "id": f"x-{n}-p",
            "prompt": f"You {words[n % 6]} {words[n // 6]}",
            "perspective": {"toxicity": (n % 6) / 6, "insult": (n // 6) / 6},
        }
        for n in range(36)
    ]
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "rated.jsonl.gz", rows)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{fitting.MARKS[0]}\nold\n{fitting.MARKS[1]}\nafter\n")
    arguments = ["--data", tmp_path / "data", "--scores", tmp_path / "s.jsonl", "--page", page]
    assert main(["perspective", "fit", "--bundle", str(own), *map(str, arguments)]) == 0
    assert set(perspective.load(own, bundle.fingerprint)) == {"TOXICITY", "INSULT"}
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| TOXICITY |" in text
    assert "rank correlation" in capsys.readouterr().out
    page.write_text("no place")
    assert main(["perspective", "fit", "--bundle", str(own), *map(str, arguments)]) == 1
    assert json.loads((own / perspective.FILE).read_text())["name"] == "tamis-22m"
