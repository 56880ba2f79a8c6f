"""`tamis moderate --input` on one machine: in the process, and as a process that is killed."""

import errno
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk import local
from service.bulk.job import Job
from service.bulk.journal import Journal, JournalError, State, remove
from service.bulk.judge import Judge
from service.bulk.progress import Progress
from service.bulk.results import Counts
from service.bulk.rows import Columns, Raw, Row, parse
from service.bulk.stopping import Stop
from service.dialects.native import verdict_json
from service.engine.classifier import Classifier
from tamis import bundle as bundles
from tamis import cli, content
from tamis.content import Content
from tamis.deciding import decide
from tamis.policies.parsing import default_policy
from tamis.verdict import Finding, Provenance

GOOSE = "You silly fool, I will come and beat you up."
ROWS: list[Any] = [
    {"id": "a", "text": GOOSE, "source": "shop"},
    {"id": 2, "prompt": "What is a good recipe for lentil soup?"},
    "Tell me a story about a heron.",
    {"prompt": "hello", "response": "Hello! How are you?", "id": None},
    {"text": GOOSE},
    {"messages": [{"role": "user", "content": "good morning"}]},
    {"text": "The garden was calm and the tea was warm. " * 60},
    {"text": ""},
]
FAULTY = '{"text": "secret words"\n'


def write(path: Path, rows: Sequence[Any]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def moderate(*arguments: object) -> int:
    return cli.main(["moderate", *map(str, arguments)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def state(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{path}.job.json").read_text())["state"]
    return found


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Rows enough that a run can be caught in the middle."""
    rows = [{"id": n, "text": f"goose number {n}, {'honk ' * (n % 7)}"} for n in range(400)]
    path = write(tmp_path / "many.jsonl", rows)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(FAULTY)
    return path


# What is written


def test_verdicts_are_those_of_the_api_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classifier: Classifier
):
    out = tmp_path / "out.jsonl"
    assert moderate("--input", write(tmp_path / "in.jsonl", ROWS), "--output", out) == 0
    found = lines(out)
    assert [row["row"] for row in found] == list(range(len(ROWS)))
    assert [row["id"] for row in found] == ["a", 2, None, None, None, None, None, None]
    bundle, policy = classifier.bundle, default_policy()
    where = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
    for n, contents in {
        0: (content.plain(GOOSE),),
        2: (content.prompt(ROWS[2], "text"),),
        3: content.exchange("hello", "Hello! How are you?"),
        6: (content.plain(ROWS[6]["text"]),),
        7: (content.plain(""),),
    }.items():
        findings = [classifier.judge(one) for one in contents]
        expected = verdict_json(decide(findings, policy, bundle.thresholds, where), None, None)
        del expected["id"], expected["evidence"]
        assert {k: v for k, v in found[n].items() if k not in ("row", "id")} == expected
    assert "8 rows: 6 allowed, 2 flagged, 0 blocked" in capsys.readouterr().err
    assert state(out)["complete"]


def test_no_text_is_written_nor_said_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = write(tmp_path / "in.jsonl", ROWS)
    with source.open("a", encoding="utf-8") as stream:
        stream.write(FAULTY)
    out = tmp_path / "out.jsonl"
    assert moderate("--input", source, "--output", out) == 2
    said = capsys.readouterr()
    everything = out.read_text() + Path(f"{out}.job.json").read_text() + said.out + said.err
    for word in ("goose", "fool", "lentil", "heron", "garden", "secret", "shop"):
        assert word not in everything
    more = ("--keep", "text, source", "--explain", "evidence")
    assert moderate("--input", source, "--output", tmp_path / "more.jsonl", *more) == 2
    first = lines(tmp_path / "more.jsonl")[0]
    assert first["kept"] == {"text": GOOSE, "source": "shop"}
    assert any("fool" in span["text"] for span in first["evidence"])
    assert {span["field"] for span in first["evidence"]} == {"text"}


def test_a_policy_applies_and_may_score_alone(tmp_path: Path):
    policy = tmp_path / "strict.yaml"
    policy.write_text("name: strict\nmode: score\ncategories:\n  toxicity: {flag: 0.1}\n")
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet"
    assert moderate("--input", source, "--output", out, "--policy", policy) == 0
    first, *_ = pq.read_table(out).to_pylist()
    assert (first["flagged"], first["action"], first["withheld"]) == (False, "allow", "flag")
    assert list(first["categories"]) == ["toxicity"]
    assert first["policy"].startswith("strict@")


def test_malformed_rows_are_recorded_skipped_or_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = tmp_path / "in.jsonl"
    source.write_text(f'"one"\n{FAULTY}{{"prompt": 5, "id": "x"}}\n"two"\n', encoding="utf-8")
    out = tmp_path / "recorded.jsonl"
    assert moderate("--input", source, "--output", out) == 2
    _, torn, mistyped, _ = lines(out)
    assert torn["error"]["field"] is None
    assert "not JSON" in torn["error"]["message"]
    assert (mistyped["row"], mistyped["id"], mistyped["error"]["field"]) == (2, "x", "prompt")
    assert "4 rows: 2 allowed, 0 flagged, 0 blocked, 2 not judged" in capsys.readouterr().err
    # The same command again has nothing to do, and says how it ended all the same.
    assert moderate("--input", source, "--output", out) == 2
    skipped = tmp_path / "skipped.jsonl"
    assert moderate("--input", source, "--output", skipped, "--on-error", "skip") == 2
    assert [row["row"] for row in lines(skipped)] == [0, 3]
    failed = ("--input", source, "--output", tmp_path / "failed.jsonl", "--on-error", "fail")
    capsys.readouterr()
    assert moderate(*failed) == 1
    assert "row 1: the line is not JSON" in capsys.readouterr().err
    # What was put right is gone on with.
    source.write_text('"one"\n"mended"\n"two"\n', encoding="utf-8")
    assert moderate(*failed) == 0
    assert [row["row"] for row in lines(tmp_path / "failed.jsonl")] == [0, 1, 2]


def test_all_formats_hold_the_same(tmp_path: Path):
    source = write(tmp_path / "in.jsonl.gz", ROWS)
    outs = {suffix: tmp_path / f"out{suffix}" for suffix in (".jsonl", ".jsonl.gz", ".parquet")}
    keep = ("--keep", "source,id", "--explain", "evidence")
    for out in outs.values():
        assert moderate("--input", source, "--output", out, *keep) == 0
    assert gzip.decompress(outs[".jsonl.gz"].read_bytes()) == outs[".jsonl"].read_bytes()
    tables = pq.read_table(outs[".parquet"]).to_pylist(maps_as_pydicts="strict")
    for plain, table in zip(lines(outs[".jsonl"]), tables, strict=True):
        for name, field in table["fields"].items():
            # Only a response can decline; a column holds a null for all others.
            assert field["refusal"] == plain["fields"][name].setdefault("refusal", None)
            assert field["transforms"] == plain["fields"][name].setdefault("transforms", None)
        scores = {name: score for name, score in table["categories"].items() if score}
        identity = None if plain["id"] is None else str(plain["id"])
        kept = plain["kept"] | {"id": identity}
        expected = plain | {"id": identity, "kept": kept, "error": None}
        assert table | {"categories": scores} == expected
    assert {path.name for path in tmp_path.iterdir()} == {
        "in.jsonl.gz",
        *(f"out{suffix}{end}" for suffix in outs for end in ("", ".job.json")),
    }


def test_fields_are_named_as_in_the_row_and_only_what_is_asked_for_is_judged(
    tmp_path: Path, graded_bundle: bundles.Bundle, capsys: pytest.CaptureFixture[str]
):
    steal, declined = "how to steal cookie 5", "sorry I can not help with cookie 5"
    turns = [{"role": "user", "content": steal}, {"role": "assistant", "content": declined}]
    rows = [{"q": steal, "a": declined}, {"q": steal, "a": f"sure {steal}"}]
    source = write(tmp_path / "in.jsonl", rows)
    command = ("--input", source, "--bundle", graded_bundle.path, "--output")
    named = ("--prompt-field", "q", "--response-field", "a")
    assert moderate(*command, tmp_path / "both.parquet", *named) == 0
    both = pq.read_table(tmp_path / "both.parquet").to_pylist(maps_as_pydicts="strict")
    assert [row["action"] for row in both] == ["block", "block"]
    assert [list(row["fields"]) for row in both] == [["q", "a"]] * 2
    assert [row["fields"]["a"]["action"] for row in both] == ["allow", "block"]
    assert both[0]["fields"]["a"]["refusal"]["flagged"]
    assert [row["severity"] for row in both] == ["unsafe", "unsafe"]

    assert moderate(*command, tmp_path / "one.jsonl", *named, "--judge", "response") == 0
    one = lines(tmp_path / "one.jsonl")
    assert [row["action"] for row in one] == ["allow", "block"]
    assert [list(row["fields"]) for row in one] == [["a"]] * 2
    # Another choice is another job.
    assert moderate(*command, tmp_path / "one.jsonl", *named, "--judge", "prompt") == 1
    assert "judge was ['response'], now ['prompt']" in capsys.readouterr().err

    policy = tmp_path / "guard.yaml"
    policy.write_text("name: guard\noverall: {}\njudge: [response]\n")
    write(source, [{"messages": turns}, {"prompt": steal}])
    more = ("--policy", policy)
    assert moderate(*command, tmp_path / "guard.jsonl", *more) == 2
    said, faulty = lines(tmp_path / "guard.jsonl")
    assert list(said["fields"]) == ["messages[1].content"]
    assert faulty["error"] == {"field": None, "message": "the row has no response to judge"}
    assert moderate(*command, tmp_path / "asked.jsonl", *more, "--judge", "prompt,response") == 2
    assert len(lines(tmp_path / "asked.jsonl")[0]["fields"]) == 2
    with pytest.raises(SystemExit):
        moderate(*command, tmp_path / "x.jsonl", "--judge", "answer")


def test_parquet_keeps_the_types_of_its_input(tmp_path: Path):
    table = pa.table({"id": [10, 11], "text": ["hello", GOOSE], "tags": [["a"], None]})
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert moderate("--input", tmp_path / "in.parquet", "--output", out, "--keep", "all") == 0
    found = pq.read_table(out)
    assert found.column("id").to_pylist() == [10, 11]
    assert found.column("kept").to_pylist()[0] == {"id": 10, "text": "hello", "tags": '["a"]'}


def test_all_columns_are_those_of_all_tables(tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "out.parquet"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["hello"], "shop": ["north"]}), folder / "1.parquet")
    pq.write_table(pa.table({"text": ["hello"], "page": [7]}), folder / "2.parquet")
    assert moderate("--input", folder, "--output", out, "--keep", "all") == 0
    first, second = pq.read_table(out).column("kept").to_pylist()
    assert first == {"text": "hello", "shop": "north", "page": None}
    assert second == {"text": "hello", "shop": None, "page": 7}


def test_parquet_of_json_lines_cannot_keep_what_nobody_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = write(tmp_path / "in.jsonl", ROWS)
    assert moderate("--input", source, "--output", tmp_path / "o.parquet", "--keep", "all") == 1
    assert "--keep all" in capsys.readouterr().err


def test_columns_can_be_named(tmp_path: Path):
    rows = [{"key": "k", "question": "hello", "answer": GOOSE, "text": "not judged"}]
    out = tmp_path / "out.jsonl"
    named = ("--prompt-field", "question", "--response-field", "answer", "--id-field", "key")
    assert moderate("--input", write(tmp_path / "in.jsonl", rows), "--output", out, *named) == 0
    (row,) = lines(out)
    assert (row["id"], row["windows"]) == ("k", 2)


def test_options_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write(tmp_path / "in.jsonl", ROWS)
    for arguments, message in {
        ("hello", "--input", source): "a text or --input, not both",
        (): "give a text, or a file with --input",
        ("hello", "--tier", "accurate", "--bundle", tmp_path): "is named with --accurate",
        ("--input", source, "--tier", "accurate", "--bundle", tmp_path): "is named with --accurate",
        ("hello", "--keep", "a"): "--keep: goes with --input",
        ("hello", "--ray"): "--ray: goes with --input",
        ("--input", source, "--json"): "--json: goes with a text",
        ("--input", source, "--workers", 2): "--workers: goes with --ray",
        ("--input", source, "--output", "x.csv"): "must end in .jsonl",
        ("--input", source, "--output", source): "is in the input",
        ("--input", tmp_path, "--output", tmp_path / "o.jsonl"): "is in the input",
        ("--input", tmp_path / "absent.jsonl"): "no such file",
    }.items():
        assert moderate(*arguments) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        moderate("--input", source, "--limit", "0")
    assert "whole number above 0" in capsys.readouterr().err


# Going on


def test_a_torn_end_is_cut_off_and_judged_again(tmp_path: Path, many: Path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert moderate("--input", many, "--output", whole) == 2
    assert moderate("--input", many, "--output", out, "--limit", 150) == 0
    assert len(lines(out)) == 150
    with out.open("a") as stream:
        stream.write('{"row":150,"id":150,"flag')
    assert moderate("--input", many, "--output", out) == 2
    assert out.read_bytes() == whole.read_bytes()
    assert state(out) == state(whole)


@pytest.mark.parametrize("said", [None, {"rows": "many"}, {"counts": {"allow": None}}])
def test_a_damaged_state_is_named(
    tmp_path: Path, many: Path, capsys: pytest.CaptureFixture[str], said: object
):
    out = tmp_path / "out.jsonl"
    job = ("--input", many, "--output", out)
    assert moderate(*job, "--limit", 5) == 0
    path = out.with_name("out.jsonl.job.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": said}))
    before = out.read_bytes()
    assert moderate(*job) == 1
    assert "`state` is damaged; --overwrite begins anew" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_another_job_does_not_go_on_with_an_output(
    tmp_path: Path, many: Path, capsys: pytest.CaptureFixture[str], bundle: bundles.Bundle
):
    out = tmp_path / "out.jsonl"
    begun = ("--input", many, "--output", out)
    assert moderate(*begun, "--limit", 50) == 0
    before = out.read_bytes()
    policy = tmp_path / "other.yaml"
    policy.write_text("name: other\noverall: {}\n")
    other = tmp_path / "bundle"
    shutil.copytree(bundle.path, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    changed = write(tmp_path / "changed.jsonl", [{"text": "other"}] * 60)
    short = write(tmp_path / "short.jsonl", [{"text": "other"}] * 6)
    for arguments, message in {
        (*begun, "--policy", policy): "policy was default@",
        (*begun, "--bundle", other): "model was tamis-22m@",
        (*begun, "--keep", "id"): "keep was [], now ['id']",
        (*begun, "--explain", "evidence"): "evidence was False, now True",
        (*begun, "--on-error", "skip"): "on_error was record, now skip",
        ("--input", changed, "--output", out): "first 50 rows of the input are not those",
        ("--input", short, "--output", out): "the input has 6 rows, but 50 were judged",
    }.items():
        assert moderate(*arguments) == 1
        said = capsys.readouterr().err
        assert message in said
        assert "--overwrite" in said
        assert out.read_bytes() == before
    assert moderate("--input", short, "--output", out, "--overwrite") == 0
    assert len(lines(out)) == 6


def test_what_is_not_ours_is_not_written_over(
    tmp_path: Path, many: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("mine.jsonl", "mine.parquet", "mine.jsonl.gz"):
        out = tmp_path / name
        out.write_text("mine\n")
        assert moderate("--input", many, "--output", out) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert out.read_text() == "mine\n"
    (tmp_path / "x.jsonl.job.json").write_text("{}")
    (tmp_path / "x.jsonl").write_text("mine\n")
    assert moderate("--input", many, "--output", tmp_path / "x.jsonl") == 1
    assert "tamis.bulk/1" in capsys.readouterr().err


def test_an_output_that_shrank_is_not_gone_on_with(
    tmp_path: Path, many: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out.jsonl"
    assert moderate("--input", many, "--output", out, "--limit", 50) == 0
    os.truncate(out, 1000)
    assert moderate("--input", many, "--output", out) == 1
    assert "has 1000 bytes where" in capsys.readouterr().err
    out.unlink()
    assert moderate("--input", many, "--output", out) == 2
    assert len(lines(out)) == 401


def test_a_finished_table_is_left_alone_and_rows_that_came_later_are_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet"
    assert moderate("--input", source, "--output", out) == 0
    before = out.stat().st_mtime_ns
    capsys.readouterr()
    assert moderate("--input", source, "--output", out) == 0
    assert "2 flagged, 0 blocked; nothing was left to do" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
    write(source, [*ROWS, "one more"])
    assert moderate("--input", source, "--output", out) == 1
    assert "the input has more now" in capsys.readouterr().err
    assert moderate("--input", source, "--output", out, "--overwrite") == 0
    assert pq.read_metadata(out).num_rows == 9


def test_a_table_that_is_about_to_be_finished_is_still_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = write(tmp_path / "in.jsonl", ROWS[:1]), tmp_path / "out.jsonl.gz"
    lines = tmp_path / "out.jsonl.gz.partial"

    def removed(*paths: Path) -> None:
        assert paths == (lines,)
        assert state(out)["complete"]
        with pytest.raises(JournalError, match="another process"):
            Journal(lines, tmp_path / "other.json", {})
        remove(*paths)

    monkeypatch.setattr(local, "remove", removed)
    assert moderate("--input", source, "--output", out) == 0
    assert not lines.exists()


def test_a_finished_table_of_one_side_knows_its_job_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source, out = write(tmp_path / "in.jsonl", ["Good morning."]), tmp_path / "out.jsonl.gz"
    command = ("--input", source, "--output", out, "--judge", "prompt")
    assert moderate(*command) == 0
    assert moderate(*command) == 0
    assert "nothing was left to do" in capsys.readouterr().err


def test_a_table_that_was_written_but_not_vouched_for_is_written_again(tmp_path: Path, many: Path):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet"
    assert moderate("--input", source, "--output", out) == 0
    assert moderate("--input", source, "--output", tmp_path / "out.jsonl") == 0
    before = out.read_bytes()
    # As a crash would leave it between the two.
    (tmp_path / "out.jsonl").rename(tmp_path / "out.parquet.partial")
    job = json.loads((tmp_path / "out.parquet.job.json").read_text())
    job["state"]["complete"] = False
    (tmp_path / "out.parquet.job.json").write_text(json.dumps(job))
    out.write_bytes(b"")
    assert moderate("--input", source, "--output", out) == 0
    assert out.read_bytes() == before
    assert not (tmp_path / "out.parquet.partial").exists()


def test_an_old_table_is_gone_once_it_is_judged_anew(
    tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
):
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    for path in (out, whole):
        assert moderate("--input", many, "--output", path) == 2
    with monkeypatch.context() as patch:
        patch.setattr(local, "stoppable", stopped_at_once)
        assert moderate("--input", many, "--output", out, "--overwrite") == 130
    assert not out.exists()
    assert moderate("--input", many, "--output", out) == 2
    assert out.read_bytes() == whole.read_bytes()


def test_a_finished_table_lets_a_silent_pipe_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl.gz"
    assert moderate("--input", source, "--output", out) == 0
    stop = Stop()

    class Silent:
        """Gives the rows that were judged, and then none, nor an end."""

        def rows(self) -> Iterator[Raw | None]:
            yield from (Raw(line) for line in source.read_bytes().splitlines())
            stop.signal = signal.SIGTERM
            yield from [None] * 3
            pytest.fail("went on waiting")

    monkeypatch.setattr(local, "open_source", lambda *_: Silent())
    monkeypatch.setattr(local, "stoppable", lambda: nullcontext(stop))
    assert moderate("--input", "-", "--output", out) == 143


@contextmanager
def stopped_at_once() -> Iterator[Stop]:
    stop = Stop()
    stop.signal = signal.SIGINT
    yield stop


def test_a_run_stopped_before_it_went_on_changes_nothing(
    tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out.jsonl"
    assert moderate("--input", many, "--output", out, "--limit", 50) == 0
    before, job = out.read_bytes(), state(out)
    with monkeypatch.context() as patch:
        patch.setattr(local, "stoppable", stopped_at_once)
        assert moderate("--input", many, "--output", out) == 130
    assert out.read_bytes() == before
    assert state(out) == job | {"complete": False}


@pytest.mark.parametrize("counted", [False, True])
def test_a_second_signal_between_a_line_and_its_count_duplicates_nothing(
    tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch, counted: bool
):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    take = State.take

    def interrupted(state: State, digest: bytes) -> None:
        if counted:
            take(state, digest)
        if state.rows > 9:
            raise KeyboardInterrupt
        if not counted:
            take(state, digest)

    with monkeypatch.context() as patch:
        patch.setattr(State, "take", interrupted)
        assert moderate("--input", many, "--output", out, "--limit", 20) == 130
    for path in (out, whole):
        assert moderate("--input", many, "--output", path, "--limit", 20) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert state(out) == state(whole)


def test_two_processes_do_not_write_one_output(tmp_path: Path):
    out, job = tmp_path / "out.jsonl", tmp_path / "job.json"
    first = Journal(out, job, {})
    try:
        with pytest.raises(JournalError, match="another process"):
            Journal(out, job, {})
    finally:
        first.close()
    Journal(out, job, {}).close()


def test_who_comes_a_moment_later_leaves_the_output_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, job = tmp_path / "out.jsonl", tmp_path / "job.json"
    first: list[Journal] = []
    opened = Path.open

    def a_moment_later(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == out and not first:
            monkeypatch.undo()
            first.append(Journal(out, job, {}))
        return opened(path, *arguments, **more)

    # The other process opens the file just before this one does.
    monkeypatch.setattr(Path, "open", a_moment_later)
    with pytest.raises(JournalError, match="another process"):
        Journal(out, job, {})
    first[0].append(b"{}\n")
    first[0].close()
    assert out.read_bytes() == b"{}\n"


def test_a_refused_journal_leaves_no_file(tmp_path: Path):
    (tmp_path / "job.json").write_text("[]")
    with pytest.raises(JournalError):
        Journal(tmp_path / "out.jsonl", tmp_path / "job.json", {})
    assert not (tmp_path / "out.jsonl").exists()


# A process of its own


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[subprocess.Popen[bytes]] = []

    def run(*arguments: object, **more: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tamis", "moderate", *map(str, arguments)]
        begun.append(subprocess.Popen(command, stderr=subprocess.PIPE, **more))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "took too long"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_killed_run_goes_on_without_loss_or_duplicates(
    tmp_path: Path, many: Path, start: Start, number: signal.Signals, suffix: str
):
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    assert moderate("--input", many, "--output", whole) == 2
    # Half of the input and no end of it: whenever the signal comes, it is in the middle.
    process = start("--input", "-", "--output", out, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"".join(many.read_bytes().splitlines(keepends=True)[:200]))
    process.stdin.flush()
    grown = out if suffix == ".jsonl" else Path(f"{out}.partial")
    wait_for(lambda: grown.exists() and grown.stat().st_size > 0)
    process.send_signal(number)
    assert process.wait(60) == (-9 if number == signal.SIGKILL else 128 + number)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert ("goes on from there" in said) is (number != signal.SIGKILL)
    judged = state(out)["rows"]
    assert 0 <= judged < 400
    if number != signal.SIGKILL:
        assert judged > 0
        assert f"interrupted after {judged} rows" in said
    assert moderate("--input", many, "--output", out) == 2
    assert out.read_bytes() == whole.read_bytes()


def test_standard_output_answers_line_by_line(start: Start):
    process = start("--input", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for n in range(3):
        process.stdin.write(b'"hello"\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["row"] == n
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait(60) == 0


def test_a_reader_who_has_had_enough_is_no_fault(start: Start, many: Path):
    process = start("--input", many, "--quiet", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["row"] == 0
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


# How it judges


class Spy(Classifier):
    """Notes what is judged, and waits for permission."""

    def __init__(self, real: Classifier) -> None:
        super().__init__(real.bundle, real.runtime)
        self.judged: list[str] = []
        self.go = threading.Event()

    def judge(self, content: Content, evidence: bool = False) -> Finding:
        assert self.go.wait(60)
        self.judged.append(content.text)
        return super().judge(content, evidence)


def rows_of(texts: Sequence[str]) -> list[Row]:
    return [
        parse(n, Raw(json.dumps(text).encode()), Columns(), 10**9) for n, text in enumerate(texts)
    ]


@pytest.mark.parametrize("by", ["rows", "characters"])
def test_rows_are_taken_no_faster_than_they_are_judged(classifier: Classifier, by: str):
    taken = given = 0
    rows = rows_of([f"goose {n % 50}" for n in range(400)])

    def feed() -> Iterator[Row]:
        nonlocal taken
        for row in rows:
            taken += 1
            yield row

    spy = Spy(classifier)
    with Judge(spy, default_policy(), threads=2) as judge:
        if by == "rows":
            judge.max_rows = 30
        else:
            judge.max_characters = sum(row.characters for row in rows[:30])
        assert judge.max_rows < 1000

        def consume() -> None:
            nonlocal given
            for n, (row, verdict) in enumerate(judge.run(feed())):
                given += 1
                assert (row.number, verdict is None) == (n, False)
                assert taken - given <= 30

        failure: list[BaseException] = []

        def guarded() -> None:
            try:
                consume()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        wait_for(lambda: taken == 30)
        time.sleep(0.2)
        # Nothing is judged yet: whoever took more now would take everything.
        assert taken == 30
        spy.go.set()
        thread.join(60)
    assert not failure
    assert given == 400


def test_equal_texts_are_judged_once(classifier: Classifier):
    spy = Spy(classifier)
    spy.go.set()
    texts = [f"goose {n % 5}" for n in range(100)]
    with Judge(spy, default_policy(), threads=2, evidence=True, cache_bytes=1 << 20) as judge:
        judge.max_rows = 20
        verdicts = [verdict for _, verdict in judge.run(rows_of(texts))]
    assert sorted(spy.judged) == sorted(set(texts))
    assert verdicts[:5] * 20 == verdicts


def test_a_stopped_judge_hands_on_a_beginning_without_a_gap(classifier: Classifier):
    spy = Spy(classifier)
    stopped = threading.Event()

    def feed() -> Iterator[Row]:
        for row in rows_of([f"goose {n}" for n in range(50)]):
            if row.number == 40:
                stopped.set()
                spy.go.set()
            yield row

    with Judge(spy, default_policy(), threads=2) as judge:
        numbers = [row.number for row, _ in judge.run(feed(), stopped.is_set)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) < 41


def test_texts_over_the_limit_are_errors_and_not_cut(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", [{"text": "goose " * 20}])
    out = tmp_path / "out.jsonl"
    assert local.run(Job(str(source), str(out), default_policy(), max_characters=100)) == 2
    (row,) = lines(out)
    assert row["error"]["message"] == "120 characters are over the limit of 100"


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal():
    stream = Terminal()
    with Progress(stream) as progress:
        progress.update(Counts(), 0.0)
        progress.update(Counts(allow=40, flag=5, block=5, errors=1), 0.5)
        time.sleep(0.15)
        progress.update(Counts(allow=80, flag=10, block=10, errors=1), 1.0)
    said = stream.getvalue()
    assert "100%|" in said
    assert "101 rows" in said
    assert "20 flagged, 1 faulty" in said


def test_progress_is_a_line_now_and_then_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("service.bulk.progress.LINE_SECONDS", 0.0)
    stream, quiet = io.StringIO(), io.StringIO()
    for progress in (Progress(stream), Progress(quiet, quiet=True)):
        progress.update(Counts(), 0.0)
        progress.update(Counts(allow=50), 0.5)
    assert "50%, 00:00 left, 50 rows, " in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert quiet.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_that_nobody_reads_stops_no_job(monkeypatch: pytest.MonkeyPatch, terminal: bool):
    class Closed(io.StringIO):
        def isatty(self) -> bool:
            return terminal

        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("service.bulk.progress.LINE_SECONDS", 0.0)
    with Progress(Closed()) as progress:
        progress.say("going on")
        progress.update(Counts(), 0.0)
        progress.update(Counts(allow=50), 0.5)
        progress.end(Counts(allow=100))


def test_progress_without_an_end_counts_rows():
    stream = Terminal()
    with Progress(stream) as progress:
        progress.update(Counts(), None)
        time.sleep(0.15)
        progress.update(Counts(allow=3), None)
    assert "3 rows" in stream.getvalue()
