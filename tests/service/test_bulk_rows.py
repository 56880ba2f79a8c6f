import datetime
import gzip
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk import sources
from service.bulk.parts import plan
from service.bulk.rows import Columns, ColumnsError, Raw, Row, RowError, parse, plain
from service.bulk.sources import Files, InputError, JsonLines, Parquet, Pipe, open_source, split
from tamis import content


def read(value: Any, columns: Columns | None = None, limit: int = 1000) -> Row:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse(3, Raw(raw), columns or Columns(), limit)


def test_rows_have_the_shapes_of_the_api():
    assert read("hello").contents == (content.prompt("hello", "text"),)
    assert read({"text": "hello"}).contents == (content.plain("hello"),)
    assert read({"prompt": "hello"}).contents == (content.prompt("hello"),)
    assert read({"prompt": "a", "response": "b"}).contents == content.exchange("a", "b")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "x"}]
    (asked, answered) = read({"messages": turns}).contents
    assert (asked.text, answered.context) == ("a", "a")
    assert answered.field == "messages[1].content"


def test_other_columns_pass_by_or_through():
    row = {"id": 7, "prompt": "hello", "source": "shop", "when": None}
    assert read(row).kept == {}
    assert read("hello", Columns(keep=("source",))).kept == {"source": None}
    assert read(row).id == 7
    assert read(row, Columns(keep=("source", "absent"))).kept == {"source": "shop", "absent": None}
    assert read(row, Columns(keep=("all",))).kept == row
    assert read(row, Columns(id="source")).id == "shop"


def test_what_passes_through_counts_for_how_many_rows_are_held():
    row = {"id": "x" * 10, "text": "hello", "page": {"html": "x" * 1_000}, "vector": [0.5] * 100}
    assert read(row, Columns(keep=("page", "vector"))).characters >= 10 + 5 + 1_000 + 100
    assert read(row).characters == 10 + 5
    assert read({"prompt": "hello", "response": "hi"}).characters == 5 + 2 + 5
    assert read({"text": 5, "page": "x" * 1_000}, Columns(keep=("page",))).characters > 1_000


def test_columns_are_named():
    row = {"question": "a", "answer": "b", "text": "not judged"}
    columns = Columns(prompt="question", response="answer")
    assert [c.field for c in read(row, columns).contents] == ["question", "answer"]
    assert read({"body": "a", "prompt": "no"}, Columns(text="body")).contents[0].field == "body"
    assert len(read({"prompt": "a", "answer": "b"}, Columns(response="answer")).contents) == 2
    turns = read({"chat": [{"role": "user", "content": "a"}]}, Columns(messages="chat"))
    assert turns.contents[0].field == "chat[0].content"


def test_null_is_an_absent_column():
    row = {"prompt": "a", "response": None, "text": None, "messages": None}
    assert read(row).contents == (content.prompt("a"),)


def test_half_of_a_surrogate_pair_is_read_as_requests_read_it():
    row = read(rb'{"id": "p1", "text": "a \ud83d pond, \ud83d\ude00"}')
    assert (row.id, row.error) == ("p1", None)
    assert row.contents == (content.plain("a \ufffd pond, \U0001f600"),)
    assert read(rb'"\ud800 pond"').contents == (content.prompt("\ufffd pond", "text"),)


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (b'{"prompt": "secret', None, "the line is not JSON"),
        (b"", None, "the line is empty"),
        (b'"caf\xe9"', None, "the line is not JSON"),
        (b'{"prompt": "secret", "x": NaN}', None, "the line is not JSON"),
        (b'"\\ud80 secret"', None, "the line is not JSON"),
        ([1], None, "must be a text, or have one of the columns prompt, response, messages, text"),
        (b"[]", None, "must be a text, or have one of the columns"),
        ({"secret": 1}, None, "none of the columns prompt, response, messages, text"),
        ({"prompt": "secret", "text": "secret"}, None, "both 'prompt' and 'text'"),
        ({"prompt": 5}, "prompt", "valid string"),
        ({"response": "secret"}, "prompt", "required"),
        ({"prompt": "secret" * 200}, "prompt", "1200 characters are over the limit of 1000"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"content": "secret"}]}, "messages[0].role", "required"),
    ],
)
def test_what_is_wrong_with_a_row_is_named_and_never_quoted(
    value: Any, field: str | None, message: str
):
    row = read(value)
    assert isinstance(row.error, RowError)
    assert row.contents == ()
    assert row.error.field == field
    assert message in row.error.message
    assert "secret" not in row.error.message


def test_a_named_column_is_named_in_errors():
    error = read({"question": 5}, Columns(prompt="question")).error
    assert error is not None
    assert error.field == "question"


def test_values_of_tables_become_json():
    day = datetime.date(2026, 1, 2)
    value = {"d": day, "b": b"ab", "n": float("nan"), "l": [{"f": 1.5}], "t": (True, None)}
    expected = {"d": "2026-01-02", "b": "YWI=", "n": None, "l": [{"f": 1.5}], "t": [True, None]}
    assert plain(value) == expected


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_lines_are_cut_wherever_blocks_end(ending: bytes):
    draw = random.Random(0)
    lines = ["ü" * draw.randrange(9) for _ in range(60)] + ["last"]
    data = b"\xef\xbb\xbf" + (b"\r\n" if ending == b"\r\n" else b"\n").join(
        line.encode() for line in lines
    )
    data += ending
    blocks: list[bytes | None] = [data[:3]]
    rest = data[3:]
    while rest:
        size = draw.randrange(1, 12)
        blocks += [rest[:size], None]
        rest = rest[size:]
    found = list(split(blocks))
    assert found.count(None) == blocks.count(None)
    assert [raw.payload for raw in found if raw] == [line.encode() for line in lines]


def test_a_line_too_long_to_hold_is_read_past(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "MAX_LINE", 10)
    data = [b"one\n", b"x" * 9, b"x" * 9, b"x" * 9 + b"\ntwo\n", b"y" * 12]
    one, long, two, end = [raw for raw in split(data) if raw]
    assert (one.payload, two.payload) == (b"one", b"two")
    assert str(long.payload) == "27 bytes of a line are over the limit of 10"
    assert str(end.payload) == "12 bytes of a line are over the limit of 10"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines, encoding="utf-8")
    return path


def texts(path: Path, columns: Columns | None = None) -> list[str]:
    columns = columns or Columns()
    source = open_source(str(path), columns)
    found = [parse(0, raw, columns, 1000) for raw in source.rows() if raw]
    assert source.fraction() == 1.0
    return [row.contents[0].text for row in found]


def test_a_folder_is_its_files_by_name(tmp_path: Path):
    rows = [{"text": f"goose {n}", "n": n} for n in range(30)]
    write(tmp_path / "a.parquet", rows[:10])
    write(tmp_path / "b" / "c.jsonl", rows[10:20])
    write(tmp_path / "b" / "d.jsonl.gz", rows[20:])
    write(tmp_path / "_done" / "e.jsonl", rows)
    write(tmp_path / ".hidden.jsonl", rows)
    (tmp_path / "notes.txt").write_text("not data")
    assert texts(tmp_path) == [row["text"] for row in rows]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_a_file_can_be_entered_in_the_middle(tmp_path: Path, suffix: str):
    rows = [{"text": f"goose {n}"} for n in range(11)]
    file = sources.open_file(write(tmp_path / f"x{suffix}", rows), Columns())
    for first in range(12):
        for count in (0, 1, 5, 20):
            raws = list(file.slice(first, count))
            found = [parse(0, raw, Columns(), 99).contents[0].text for raw in raws]
            assert found == [row["text"] for row in rows[first : first + count]]


def test_parquet_reads_only_the_columns_it_needs(tmp_path: Path):
    rows = [{"id": 1, "body": "goose", "other": "x", "source": "shop"}]
    path = write(tmp_path / "x.parquet", rows)
    (raw,) = Parquet(path, Columns(text="body", keep=("source",))).rows()
    assert raw is not None
    assert raw.payload == {"id": 1, "body": "goose", "source": "shop"}
    with pytest.raises(InputError, match="no column 'bdy'; known: id, body, other, source"):
        Parquet(path, Columns(text="bdy"))
    with pytest.raises(InputError, match="no column 'src'"):
        Parquet(path, Columns(text="body", keep=("src",)))
    with pytest.raises(InputError, match="no column 'key'"):
        Parquet(path, Columns(text="body", id="key"))
    with pytest.raises(InputError, match="name one with --text-field"):
        Parquet(path, Columns())


def test_a_column_that_is_there_twice_is_not_read_once(tmp_path: Path):
    path = tmp_path / "x.parquet"
    named = ["text", "text", "id", "page", "page"]
    pq.write_table(pa.Table.from_arrays([pa.array(["goose"])] * 5, names=named), path)
    for columns, twice in (
        (Columns(), "text"),
        (Columns(text="id", keep=("page",)), "page"),
        (Columns(text="id", keep=("all",)), "text"),
    ):
        with pytest.raises(InputError, match=f"more than one column '{twice}'"):
            Parquet(path, columns)
    assert len(list(Parquet(path, Columns(text="id")).rows())) == 1


def test_inputs_that_cannot_be_read(tmp_path: Path):
    for name, message in {
        "absent.jsonl": "no such file or folder",
        "": "no file in it ends in .jsonl, .jsonl.gz, .parquet",
        "x.csv": "must end in .jsonl",
    }.items():
        if name == "x.csv":
            (tmp_path / name).touch()
        with pytest.raises(InputError, match=message):
            open_source(str(tmp_path / name), Columns())
    (tmp_path / "x.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"x\.parquet"):
        open_source(str(tmp_path / "x.parquet"), Columns())
    whole = gzip.compress(b'"hello"\n' * 9)
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[:-9])
    # A block of a kind that there is not: damaged on the way rather than cut off.
    (tmp_path / "damaged.jsonl.gz").write_bytes(whole[:10] + b"\x07" + whole[11:])
    for name in ("torn.jsonl.gz", "damaged.jsonl.gz"):
        file = JsonLines(tmp_path / name)
        with pytest.raises(InputError, match=name):
            list(file.rows())
        with pytest.raises(InputError, match=name):
            plan(Files([file]), 5)


def test_a_pipe_says_when_it_keeps_one_waiting():
    reader, writer = os.pipe()
    try:
        rows = Pipe(reader).rows()
        assert next(rows) is None
        os.write(writer, b'"one"\n"tw')
        first = next(rows)
        assert first is not None
        assert first.payload == b'"one"'
        assert next(rows) is None
        os.close(writer)
        last = next(rows)
        assert last is not None
        assert last.payload == b'"tw'
    finally:
        os.close(reader)


def test_a_value_that_cannot_be_read_is_its_own_rows_fault(tmp_path: Path):
    broken = pa.py_buffer(b"good\xffgoose")
    texts = pa.StringArray.from_buffers(3, pa.py_buffer(struct.pack("4i", 0, 4, 5, 10)), broken)
    times = pa.array([0, 1, 1 << 60], pa.timestamp("us"))
    pq.write_table(pa.table({"text": texts, "at": times}), tmp_path / "x.parquet")
    source = Parquet(tmp_path / "x.parquet", Columns(keep=("at",)))
    found = [parse(0, raw, Columns(keep=("at",)), 1000) for raw in source.rows() if raw is not None]
    assert [row.kept["at"] for row in found] == ["1970-01-01T00:00:00", None, None]
    assert [row.error and row.error.field for row in found] == [None, "text", "at"]
    assert "UnicodeDecodeError" in str(found[1].error)


@pytest.mark.parametrize("kind", ["timestamp[ns]", "time64[ns]", "duration[ns]"])
def test_nanoseconds_need_no_pandas(tmp_path: Path, kind: str):
    times = pa.array([1_001], pa.type_for_alias(kind))
    pq.write_table(pa.table({"text": ["hello"], "at": times}), tmp_path / "x.parquet")
    (raw,) = Parquet(tmp_path / "x.parquet", Columns(keep=("at",))).rows()
    assert raw is not None
    assert isinstance(raw.payload, dict)
    assert type(raw.payload["at"]).__module__ == "datetime"
    kept = parse(0, raw, Columns(keep=("at",)), 1000).kept["at"]
    assert kept.endswith("0:00:00.000001")


def test_a_damaged_table_is_named(tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"goose {n}" for n in range(99)]}), path, compression="zstd")
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(20) + whole[80:])
    with pytest.raises(InputError, match=r"x\.parquet"):
        list(Parquet(path, Columns()).rows())
    path.write_bytes(b"PAR1" + bytes(40) + struct.pack("<i", 20) + b"PAR1")
    with pytest.raises(InputError, match=r"x\.parquet"):
        Parquet(path, Columns())


@pytest.mark.parametrize("content", [b"", b"\n", b'"a"', b'"a"\r\n', b'"a"\n\n"b"'])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_parts_have_the_rows_that_the_whole_has(tmp_path: Path, mark: bytes, content: bytes):
    (tmp_path / "x.jsonl").write_bytes(mark + content)
    file = JsonLines(tmp_path / "x.jsonl")
    whole = list(file.rows())
    parts = plan(Files([file]), 2)
    assert [raw for p in parts for raw in file.slice(p.skip, p.rows, p.offset)] == whole
    assert sum(part.rows for part in parts) == len(whole)


def test_a_table_that_is_a_folder_is_its_parts(tmp_path: Path):
    (tmp_path / "posts.parquet").mkdir()
    write(tmp_path / "posts.parquet" / "part-0.parquet", [{"text": "goose"}])
    write(tmp_path / "posts.parquet" / "part-1.jsonl", [{"text": "heron"}])
    assert texts(tmp_path) == ["goose", "heron"]


def test_columns_error_where_nothing_is_to_be_judged():
    with pytest.raises(ColumnsError):
        Columns().read(["a", "b"])
    assert Columns(keep=("all",)).read(["text", "b"]) is None


def test_files_tell_how_much_was_read(tmp_path: Path):
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, [{"text": "goose " * 40} for _ in range(2_000)])
    source = open_source(str(tmp_path), Columns())
    assert isinstance(source, Files)
    seen = [source.fraction() for _ in source.rows()]
    assert seen == sorted(seen)
    assert 0 < seen[0] < 0.2 < seen[2_100] < 0.7
