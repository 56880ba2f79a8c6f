import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tamis import content
from tamis.cli import main
from tamis.corrections.record import Correction
from tamis.taxonomy import taxonomy
from tamis.windows import WindowShape
from tests.conftest import row, write_rows
from training.datasets import batches, mixing, readings, registry
from training.datasets.batches import UNKNOWN, Example
from training.datasets.contamination import Seen
from training.datasets.feedback import Limits, curate
from training.datasets.registry import BORDERLINE, CATEGORIES, HEADS, sources
from training.datasets.schema import SchemaError, data_files, parse_row, read_rows
from training.evaluation import checkpoint, suite


def parsed(source: str, target: str = "prompt", label: int = 1, categories=(), **more):
    raw = row(0, source, target, label, "text", categories=list(categories), **more)
    return parse_row(json.dumps(raw), "here")


def labels(*args, **more) -> dict[str, int]:
    found = parsed(*args, **more)
    return sources()[found.source].labels_of(found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"id": 1}', "'source' is missing"),
        ('{"id":1,"source":"a","target":"image","label":1,"prompt":""}', "'target' must be"),
        ('{"id":1,"source":"a","target":"prompt","label":3,"prompt":""}', "'label' must be"),
        (
            '{"id":1,"source":"a","target":"response","label":1,"prompt":"","response":3}',
            "'response' must be",
        ),
        (
            '{"id":1,"source":"a","target":"prompt","label":1,"prompt":"","context":["b"]}',
            "'context' must be",
        ),
        ('{"id":1,"source":"a","label":1,"judge":"prompt","messages":[{}]}', "'messages' must be"),
        ('{"id":1,"source":"a","label":1,"judge":"prompt","messages":[]}', "'messages' is empty"),
    ],
)
def test_rows_outside_the_schema_are_refused(line: str, message: str):
    with pytest.raises(SchemaError, match=f"here.*{message}"):
        parse_row(line, "here")


def test_what_a_source_does_not_say_is_unknown():
    # An injection label says nothing about whether harm is asked for.
    assert labels("deepset_injection_train") == {"attack": 1}
    assert labels("llm_warden_train", label=0) == {"attack": 0, "prompt": 0}
    assert labels("guardreasoner_train_5k", label=0) == {"prompt": 0}


def test_categories_that_a_source_can_express_are_0_and_others_unknown():
    found = labels("sap200", categories=["suicide"])
    assert (found["self-harm"], found["hate"], found["prompt"]) == (1, 0, 1)
    assert "sexual" not in found
    # "~violence": the tag may or may not imply it.
    assert "violence" not in labels("aart", categories=["hate crimes"])
    assert labels("aart", categories=["murder"])["violence"] == 1


def test_safe_rows_carry_no_category_and_aside_rows_no_overall_label():
    assert labels("gptfuzz_responses_train", "response", 0, response="x") == {"response": 0}
    found = labels("hatexplain_train_2of3", "text", 0, ["offensive"])
    assert "toxicity" not in found
    assert found["hate"] == 0


def test_a_response_row_teaches_the_response_head_only():
    assert labels("coconot_pref", "response", 0, response="no") == {"response": 0}
    assert "response" not in labels("coconot_pref", "prompt", 0)


def test_a_row_that_was_read_says_for_itself_what_it_teaches():
    read = {"severity": 2, "stance": "complies", "categories": ["cyber"], "response": "here you go"}
    found = labels("gptfuzz_responses_train_annotated", "response", **read)
    assert (found["response"], found["severity"], found["refusal"]) == (1, 1, 0)
    assert {name for name in found if name in taxonomy().categories and found[name]} == {"cyber"}
    assert {c for c in CATEGORIES if found[c] == 0} == {*CATEGORIES} - {"cyber"}
    mild = labels("written_prompts", label=0, severity=1, attack=False)
    assert (mild["prompt"], mild["severity"], mild["attack"]) == (BORDERLINE, 1, 0)
    assert "refusal" not in mild
    calm = labels("written_texts", "text", label=0, severity=0, attack=None)
    assert (calm["toxicity"], calm["severity"], calm["attack"]) == (0, 0, 0)


def test_a_label_that_reading_found_to_say_something_else_is_taught_by_its_share():
    assert labels("fox_comments", "text", 1)["toxicity"] == pytest.approx(0.40)
    assert labels("fox_comments", "text", 0)["toxicity"] == pytest.approx(0.05)
    # Its question alone: that it works on a model stands.
    jailbreak = labels("vf_jailbreak_llms", "prompt", 1)
    assert (jailbreak["attack"], jailbreak["prompt"]) == (1, pytest.approx(0.54))
    # Whoever answers another question than the source's says nothing of it.
    assert "toxicity" not in labels("hatexplain_train_2of3", "text", 0, ["offensive"])
    with pytest.raises(ValueError, match="shares must be"):
        registry._source({"shares": {2: 0.5}})
    with pytest.raises(ValueError, match="shares must be"):
        registry._source({"shares": {1: 1.5}})


def test_borderline_rows_measure_nothing():
    given = np.array([0, BORDERLINE, 1, UNKNOWN], dtype=np.float32)
    assert batches.settled(given).tolist() == [0, UNKNOWN, 1, UNKNOWN]


def test_a_row_labelled_anew_retires_the_one_it_replaces(tmp_path: Path):
    old = row(1, "aart", "prompt", 1, "how to bake a cookie")
    new = row(1, "aart_annotated", "prompt", 0, "how to bake a cookie", severity=0)
    write_rows(tmp_path / "rows.jsonl.gz", [old, new | {"replaces": old["id"]}])
    assert [r.source for r in mixing.load([tmp_path], "permissive")] == ["aart_annotated"]


def test_twins_of_a_group_stay_on_one_side():
    def side(n: int, group: str | None) -> bool:
        return mixing.is_held_out(parsed("written_prompts", prompt=f"sentence {n}", group=group))

    assert {side(n, None) for n in range(100)} == {True, False}
    assert all(len({side(n, f"twins {g}") for n in range(20)}) == 1 for g in range(30))


def test_rows_that_nobody_trains_on_are_split_as_most_are():
    held = [mixing.is_held_out(parsed("harmbench", prompt=f"sentence {n}")) for n in range(1000)]
    assert 0.05 < np.mean(held) < 0.11


def test_the_last_turn_of_a_conversation_is_judged_behind_the_earlier_ones():
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    raw = {"id": "1", "source": "written_conversations", "label": 0, "severity": 0}
    raw["messages"] = [{"role": role, "content": text} for role, text in turns]
    answer = parse_row(json.dumps(raw | {"judge": "response"}), "here")
    assert (answer.judged, answer.behind) == ("four", "one\ntwo\nthree")
    raw["messages"].pop()
    request = parse_row(json.dumps(raw | {"judge": "prompt"}), "here")
    assert (request.judged, request.behind, request.licence) == ("three", "one\ntwo", "permissive")


def test_a_turn_is_taught_behind_the_very_words_that_it_is_served_behind():
    turns = [("user", "old words " * 90), ("assistant", "newer words"), ("user", "three " * 30)]
    turns.append(("assistant", "four"))
    for judge, n in (("prompt", 3), ("response", 4)):
        messages = [{"role": role, "content": text} for role, text in turns[:n]]
        raw = {"id": "1", "source": "written_conversations", "label": 0, "judge": judge}
        found = parse_row(json.dumps(raw | {"severity": 0, "messages": messages}), "here")
        served = content.conversation([content.Message(*turn) for turn in turns[:n]])[-1]
        assert found.behind == served.context == suite.content_of(found).context
        assert len(found.behind or "") < 400
        kept = Correction(content=served, time=datetime(2026, 1, 1, tzinfo=UTC), label="safe")
        assert {k.row.behind for k in curate([kept], Limits(), Seen())[0]} == {served.context}
        assert checkpoint._row_of(served).behind == served.context


def test_a_document_is_judged_for_attack_alone_behind_what_was_asked():
    raw = {"id": "1", "source": "written_documents", "user": "Sum it up", "document": "Dear all"}
    found = parse_row(json.dumps(raw | {"attack": True}), "here")
    assert (found.target, found.judged, found.behind) == ("document", "Dear all", "Sum it up")
    assert sources()[found.source].labels_of(found) == {"attack": 1}


def test_what_was_read_outranks_what_the_source_says(monkeypatch: pytest.MonkeyPatch):
    line = {"id": "aart-0", "severity": "0", "categories": "", "stance": "", "attack": "0"}
    monkeypatch.setattr(readings, "readings", lambda: {"aart-0": readings.parse(line)})
    (found,) = readings.as_read([parsed("aart", categories=["murder"])])
    assert sources()[found.source].labels_of(found)["prompt"] == 0
    with pytest.raises(ValueError, match="aart-0: severity must be"):
        readings.parse(line | {"severity": "3"})


def test_every_reading_is_one():
    assert all(reading.severity in (0, 1, 2) for reading in readings.readings().values())


def test_licences_choose_the_variant(data: Path):
    permissive, everything = (mixing.load([data], v) for v in ("permissive", "all"))
    assert {r.source for r in everything} - {r.source for r in permissive} == {"hateval_train"}


def test_answers_to_one_prompt_stay_on_one_side(data: Path):
    train, held = mixing.split(mixing.load([data], "all"))
    assert not {r.prompt for r in train} & {r.prompt for r in held}
    assert 0.02 < len(held) / (len(train) + len(held)) < 0.2


def test_draws_follow_their_chances():
    chances = np.array([0.5, 0.25, 0.125, 0.125])
    drawn = batches.draws(np.tile(chances, 100) / 100, np.random.default_rng(0))
    assert len(drawn) == 400
    counts = np.bincount(drawn, minlength=400)
    assert np.all(counts[::4] == 2)
    assert np.all(np.abs(counts - 400 * np.tile(chances, 100) / 100) < 1)


def example(length: int) -> Example:
    from tamis.windows import windows

    shape = WindowShape(cls=1, sep=2, max_tokens=64, overlap=8, context_tokens=8)
    return Example(windows(list(range(length)), shape), np.full(len(HEADS), UNKNOWN, dtype=np.int8))


def test_batches_hold_every_draw_within_the_budget_in_a_reproducible_order():
    examples = [example(n % 90 + 1) for n in range(300)]
    chances = np.full(300, 1 / 300)
    plan = batches.epoch(examples, chances, tokens=512, seed=3)
    assert sorted(i for batch in plan for i, _ in batch) == list(range(300))
    for batch in plan:
        arrays = batches.collate(batch, examples)
        assert arrays.input_ids.size <= 512
        assert arrays.input_ids.shape[1] % batches.WIDTH_STEP == 0
        assert arrays.judged.sum() == sum(window.count for _, window in batch)
    again = batches.epoch(examples, chances, tokens=512, seed=3)
    other = batches.epoch(examples, chances, tokens=512, seed=4)
    assert plan == again
    assert plan != other


@pytest.mark.skipif("TAMIS_DATA" not in os.environ, reason="TAMIS_DATA names no data directory")
def test_every_source_of_the_data_is_registered_and_teaches_something():
    folder = Path(os.environ["TAMIS_DATA"]) / "train"
    seen: dict[str, int] = {}
    for path in data_files(folder):
        for found in read_rows(path):
            seen[found.source] = seen.get(found.source, 0) + bool(
                sources()[found.source].labels_of(found)
            )
    # Registered all the same: rows that were read replace some of it.
    assert {name for name, teaches in seen.items() if not teaches} == {
        "diasafety_train",
        "toxic_spans_comments",
    }


def test_a_source_that_is_not_registered_is_one_line(tmp_path: Path, capsys):
    write_rows(tmp_path / "rows.jsonl.gz", [row(1, "nobody", "prompt", 0, "cookie")])
    command = ["train", "padded", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert capsys.readouterr().err == "tamis: source 'nobody' has no entry in sources.yaml\n"


def test_a_folder_without_data_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no \*.jsonl.gz"):
        data_files(tmp_path)
    write_rows(tmp_path / "a.jsonl.gz", [])
    assert list(read_rows(tmp_path / "a.jsonl.gz")) == []
