import json
import multiprocessing
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tamis import content
from tamis.cli import main
from tamis.content import Content
from tamis.corrections import store as stores
from tamis.corrections.record import Correction, CorrectionError, parse, read_lines, write_lines
from tamis.corrections.store import StoreError, default_location, open_store, read_corrections
from tests import postgres

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROMPT = content.prompt("How do I bake a cookie?")


def correction(about: Content = PROMPT, **more: Any) -> Correction:
    answers = {} if {"label", "attack", "toxicity"} & set(more) else {"label": "safe"}
    return Correction(**{"content": about, "time": NOON} | answers | more)


# ---- the record ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "more", "field"),
    [
        (content.prompt(" \n"), {}, "input"),
        (PROMPT, {"label": None}, "label"),
        (PROMPT, {"label": "safe", "categories": ("hate",)}, "categories"),
        (PROMPT, {"attack": True, "categories": ("hate",)}, "categories"),
        (PROMPT, {"label": "unsafe", "categories": ("toxicity",)}, "categories"),
        (content.plain("a"), {"attack": True}, "attack"),
        (content.plain("a"), {"toxicity": True}, "toxicity"),
        (content.response("a", "b"), {"attack": False}, "attack"),
        (content.response("a", "b"), {"toxicity": False}, "toxicity"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_field(about, more, field):
    with pytest.raises(CorrectionError) as refused:
        correction(about, **more)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("about", "more", "answers"),
    [
        (PROMPT, {"label": "safe"}, {"prompt": False, "attack": False, "toxicity": False}),
        (PROMPT, {"label": "unsafe"}, {"prompt": True}),
        (PROMPT, {"attack": True}, {"attack": True}),
        (
            PROMPT,
            {"label": "safe", "attack": True},
            {"prompt": False, "attack": True, "toxicity": False},
        ),
        (PROMPT, {"label": "unsafe", "toxicity": False}, {"prompt": True, "toxicity": False}),
        (content.response("a", "b"), {"label": "safe"}, {"response": False}),
        (content.plain("a"), {"label": "unsafe"}, {"toxicity": True}),
    ],
)
def test_answers_by_question(about, more, answers):
    assert correction(about, **more).answers == answers


def test_an_id_is_made_of_who_says_it_about_what():
    first = correction(reviewer="ana", key="app")
    for same in (
        replace(first, label="unsafe", categories=("illicit",)),
        replace(first, verdict_id="mod-1", comment="why", time=datetime.now(UTC)),
        replace(first, content=content.prompt(PROMPT.text, "messages[3].content")),
    ):
        assert same.id == first.id
    others = [
        replace(first, reviewer="ben"),
        replace(first, key=None),
        replace(first, content=content.plain(PROMPT.text)),
        replace(first, content=content.response(PROMPT.text, "")),
        replace(first, content=content.response(PROMPT.text, "hello")),
    ]
    assert len({c.id for c in [first, *others]}) == 6


def test_a_record_survives_json_and_files(tmp_path: Path):
    full = correction(
        content.response("sure\x00 ✓", "a question"),
        label="unsafe",
        categories=("illicit", "hate"),
        comment="c",
        reviewer="ana",
        key="app",
        verdict_id="mod-1",
        verdict={"action": "allow"},
        agrees=False,
    )
    bare = correction(attack=False)
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        path = tmp_path / name
        assert write_lines([full, bare], path) == 2
        found = list(read_lines(path))
        # Where a text stood in the request is not kept.
        assert found == [
            replace(full, content=replace(full.content, field="text")),
            replace(bare, content=replace(bare.content, field="text")),
        ]
        assert [c.id for c in found] == [full.id, bare.id]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl", "rows.jsonl.gz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": "soon"}, "time: must be"),
        ({"text": None}, "text: must be"),
        ({"question": "why"}, "question: must be"),
        ({"label": "bad"}, "label: must be"),
        ({"context": 5}, "context: must be"),
        ({"comment": ["cookie"]}, "comment: must be"),
        ({"categories": "hate"}, "categories: must be"),
        ({"categories": [["hate"]]}, "categories: must be"),
        ({"attack": "no"}, "attack: must be"),
        ({"toxicity": 0}, "toxicity: must be"),
        ({"agrees": "cookie"}, "agrees: must be"),
        ({"verdict": ["cookie"]}, "verdict: must be"),
    ],
)
def test_a_line_that_is_no_correction_is_named_without_its_text(change, message, tmp_path: Path):
    raw = correction().as_json() | change
    with pytest.raises(CorrectionError, match=message):
        parse(raw)
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(correction().as_json()) + "\n" + json.dumps(raw))
    with pytest.raises(ValueError, match=f"bad.jsonl line 2: {message}") as refused:
        list(read_lines(path))
    assert "cookie" not in str(refused.value)
    path.write_text('["a cookie"]')
    with pytest.raises(ValueError, match=r"bad.jsonl line 1: must be an object"):
        list(read_lines(path))


def test_an_export_that_fails_leaves_no_texts_behind(tmp_path: Path):
    def failing() -> Iterator[Correction]:
        yield correction()
        raise StoreError("gone")

    with pytest.raises(StoreError):
        write_lines(failing(), tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


# ---- stores ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "state" / "feedback.sqlite")
    url: str = request.getfixturevalue("database")
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS tamis_corrections, tamis_corrections_version")
    return url


def test_a_store_keeps_replaces_and_deletes(location: str):
    store = open_store(location)
    early = correction(reviewer="ana")
    late = correction(
        content.plain("nul \x00, quote ', emoji 🪿"),
        label="unsafe",
        time=NOON.replace(year=2027),
    )
    for saved in (late, early, early):
        store.save(saved)
    assert [c.id for c in store.read()] == [early.id, late.id]
    assert list(store.read())[1].content.text == late.content.text

    changed = replace(early, label="unsafe", time=NOON.replace(year=2028))
    store.save(changed)
    assert [(c.id, c.label) for c in store.read()] == [(late.id, "unsafe"), (early.id, "unsafe")]

    assert store.delete([late.id, "fb-unknown"]) == 1
    assert [c.id for c in store.read()] == [early.id]


def save_many(location: str, who: str, count: int) -> None:
    def save(n: int) -> None:
        open_store(location).save(correction(content.prompt(f"cookie {n}"), reviewer=who))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(count)))


def test_threads_and_processes_write_to_one_store_at_once_without_loss(location: str):
    spawn = multiprocessing.get_context("spawn")
    # They meet already where the store is made.
    writers = [spawn.Process(target=save_many, args=(location, who, 60)) for who in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert sorted((c.reviewer, c.content.text) for c in open_store(location).read()) == sorted(
        (who, f"cookie {n}") for who in ("a", "b") for n in range(60)
    )


def test_saving_leaves_the_locks_of_the_process_alone(tmp_path: Path):
    path = tmp_path / "feedback.sqlite"
    open_store(str(path)).save(correction())
    log = tmp_path / "feedback.sqlite-wal"
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM tamis_corrections").fetchall()
        open_store(str(path)).save(correction(reviewer="ana"))
        # A process that believes to be alone with the file removes its log when it is done.
        alone = multiprocessing.get_context("spawn").Process(
            target=save_many, args=(str(path), "b", 1)
        )
        alone.start()
        alone.join(120)
        assert alone.exitcode == 0
        assert log.exists()
    assert not log.exists()


def test_a_store_of_a_newer_version_is_left_alone(location: str, monkeypatch):
    store = open_store(location)
    store.save(correction())
    with monkeypatch.context() as patch:
        patch.setattr(stores, "MIGRATIONS", ())
        with pytest.raises(StoreError, match=r"newer Tamis \(version 1\)"):
            store.save(correction())
    assert len(list(store.read())) == 1


def test_a_store_of_an_older_version_is_brought_up_to_date(location: str, monkeypatch):
    open_store(location).save(correction())
    more = (*stores.MIGRATIONS, "ALTER TABLE tamis_corrections ADD COLUMN note TEXT DEFAULT 'x'")
    monkeypatch.setattr(stores, "MIGRATIONS", more)
    open_store(location).save(correction(reviewer="ben"))
    assert len(list(open_store(location).read())) == 2


def test_sqlite_keeps_to_its_owner_and_forgets_what_is_deleted(tmp_path: Path):
    path = tmp_path / "new" / "feedback.sqlite"
    store = open_store(str(path))
    with pytest.raises(StoreError, match="no corrections are kept there"):
        list(store.read())
    assert not path.parent.exists()
    secret = correction(content.prompt("zebra-canary " * 400))
    store.save(correction())
    store.save(secret)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"zebra-canary" in path.read_bytes()
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store.delete([secret.id]) == 1
    for file in path.parent.iterdir():
        assert b"zebra-canary" not in file.read_bytes(), file


def test_who_deletes_is_told_of_traces_that_a_reader_keeps(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.1)
    path = tmp_path / "feedback.sqlite"
    store = open_store(str(path))
    secret = correction(content.prompt("zebra-canary"))
    for one in (correction(), secret, correction(reviewer="ben")):
        store.save(one)
    reading = store.read()
    next(reading)
    with pytest.raises(StoreError, match=r"corrections deleted: 1, but .* traces"):
        store.delete([secret.id])
    assert b"zebra-canary" in path.read_bytes()
    assert len(list(reading)) == 2
    assert store.delete([secret.id]) == 0
    for file in tmp_path.iterdir():
        assert b"zebra-canary" not in file.read_bytes(), file


def test_a_reader_does_not_hold_up_a_writer(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.1)
    store = open_store(str(tmp_path / "feedback.sqlite"))
    for n in range(3):
        store.save(correction(content.prompt(f"cookie {n}")))
    reading = store.read()
    next(reading)
    store.save(correction(content.prompt("cake")))
    assert len(list(reading)) == 2
    assert len(list(store.read())) == 4


def test_stores_that_cannot_be_used_say_why(tmp_path: Path):
    (tmp_path / "file").write_text("not a database, not at all")
    for location, message in [
        (str(tmp_path / "file"), "file: file is not a database"),
        (str(tmp_path / "file" / "below"), "(Not a directory|File exists)"),
        ("mysql://x/y", "a path or a postgresql:// URL"),
        ("", "a path or a postgresql:// URL"),
        ("~nobody-is-called-so/x", "there is no such home"),
        (str(tmp_path / "rows.jsonl"), "is an export's name"),
    ]:
        with pytest.raises(StoreError, match=message):
            open_store(location).save(correction())


def test_messages_keep_the_password_of_a_url(database: str):
    for url in (
        database.replace("/postgres?", "/nothing?"),
        "postgresql://tamis:secret@127.0.0.1:1/postgres",
        "postgresql://tamis:secret@[/postgres",
    ):
        with pytest.raises(StoreError) as refused:
            open_store(url).save(correction())
        assert "secret" not in str(refused.value)


def test_the_default_place_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert default_location() == "/somewhere/tamis/feedback.sqlite"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ana")
    assert default_location() == "/home/ana/.local/state/tamis/feedback.sqlite"


# ---- commands --------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path, monkeypatch) -> str:
    location = str(tmp_path / "feedback.sqlite")
    monkeypatch.setenv("TAMIS_FEEDBACK", location)
    store = open_store(location)
    store.save(correction(reviewer="ana", verdict_id="mod-1", time=NOON.replace(year=2024)))
    store.save(correction(reviewer="ben", key="app", agrees=True))
    store.save(correction(content.plain("a calm garden\x1b[2J"), label="unsafe", comment="rude"))
    return location


def texts(location: str) -> list[str | None]:
    return [c.reviewer for c in read_corrections(location)]


@pytest.mark.parametrize("kept", ["off", ""])
def test_where_the_service_keeps_none_a_store_has_to_be_named(kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TAMIS_FEEDBACK", kept)
    assert main(["feedback", "list"]) == 1
    assert "TAMIS_FEEDBACK" in capsys.readouterr().err
    store = str(tmp_path / "other.sqlite")
    open_store(store).save(correction())
    assert main(["feedback", "list", "--store", store]) == 0


def test_list_shows_no_text_unless_asked(kept: str, capsys):
    assert main(["feedback", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "prompt=0 attack=0 toxicity=0" in lines[0]
    assert "reviewer ana" in lines[0]
    assert not any("garden" in line or "cookie" in line for line in lines)
    assert main(["feedback", "list", "--text", "--containing", "GARDEN"]) == 0
    shown = capsys.readouterr().out
    assert "a calm garden" in shown
    assert "cookie" not in shown
    assert "\x1b" not in shown


def test_export_takes_what_is_selected_and_reads_back(kept: str, capsys, tmp_path: Path):
    out = tmp_path / "rows.jsonl.gz"
    assert main(["feedback", "export", "--since", "2025-01-01", "--out", str(out)]) == 0
    assert "rows.jsonl.gz: 2" in capsys.readouterr().err
    assert set(texts(str(out))) == {"ben", None}
    assert main(["feedback", "export", "--out", str(tmp_path / "rows.txt")]) == 1
    missing = ["feedback", "export", "--store", str(tmp_path / "none"), "--out", str(out)]
    assert main(missing) == 1
    assert "no corrections are kept there" in capsys.readouterr().err
    # What was exported before is still there.
    assert set(texts(str(out))) == {"ben", None}


@pytest.mark.parametrize(
    ("criterion", "left"),
    [
        (["--id", "mod-1"], ["ben", None]),
        (["--id", ""], ["ana", "ben", None]),
        (["--reviewer", "ben"], ["ana", None]),
        (["--key", "app"], ["ana", None]),
        (["--before", "2025-01-01"], ["ben", None]),
        (["--containing", "cookie"], [None]),
        (["--containing", "RUDE"], ["ana", "ben"]),
        (["--containing", "cookie", "--key", "app"], ["ana", None]),
        (["--all"], []),
    ],
)
def test_delete_removes_what_is_selected(kept: str, criterion: list[str], left: list[str | None]):
    assert main(["feedback", "delete", *criterion]) == 0
    assert sorted(texts(kept), key=str) == sorted(left, key=str)


def test_delete_wants_to_be_told_what(kept: str, capsys):
    # As of a script whose variable is empty.
    for nothing in ([], ["--containing", ""]):
        assert main(["feedback", "delete", *nothing]) == 1
        assert "--all" in capsys.readouterr().err
    assert len(texts(kept)) == 3
