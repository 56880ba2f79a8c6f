import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.server import free_port
from service.app import create_app
from service.observing.audit.audit import open_audit
from service.observing.audit.counters import AuditCounters
from service.observing.audit.files import Files
from service.observing.audit.history import Log
from service.observing.audit.record import Entry
from service.observing.logs import json_line
from service.observing.metrics import Metrics
from service.observing.observers import Observers
from service.observing.spool import RefusedError, Spool, SpoolEvents
from service.settings import Settings
from tamis.policies.parsing import default_policy, parse_policy
from tests import postgres
from tests.processes import running as started
from tests.service.observed import INSULT, lines_of, post, running, until, verdicts_of

POLICY = {"name": "mine", "categories": {"toxicity": {"flag": 0.1, "block": 0.2}}}


class Told(SpoolEvents):
    def __init__(self) -> None:
        self.counts = {"written": 0, "dropped": 0, "failed": 0, "stumbled": 0}

    def written(self, records: int) -> None:
        self.counts["written"] += records

    def dropped(self, records: int) -> None:
        self.counts["dropped"] += records

    def failed(self, records: int) -> None:
        self.counts["failed"] += records

    def stumbled(self) -> None:
        self.counts["stumbled"] += 1


class Memory:
    """A sink that can be held, broken and picky."""

    def __init__(self) -> None:
        self.records: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.broken = False
        self.closed = False

    def write(self, batch: Sequence[int]) -> int:
        assert self.open.wait(30)
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        if batch[0] < 0:
            raise RefusedError("negative")
        taken = list(takewhile(lambda n: n >= 0, batch[:7]))
        self.records += taken
        return len(taken)

    def close(self) -> None:
        self.closed = True


def spool_of(sink: Memory, max_bytes: int = 10_000) -> tuple[Spool[int], Told]:
    told = Told()
    spool: Spool[int] = Spool("x", sink, max_bytes=max_bytes, collect=0.001, events=told)
    spool.start()
    return spool, told


def test_a_spool_writes_in_order_and_to_the_end():
    spool, told = spool_of(sink := Memory())
    for n in range(1_000):
        assert spool.put(n, 1)
    spool.close(10)
    assert sink.records == list(range(1_000))
    assert sink.closed
    assert told.counts == {"written": 1_000, "dropped": 0, "failed": 0, "stumbled": 0}
    assert not spool.put(1, 1)


def test_the_end_waits_for_who_is_being_let_in():
    spool, _ = spool_of(sink := Memory())
    with spool._lock:  # as within put
        ending = threading.Thread(target=spool.close, args=(10,))
        ending.start()
        time.sleep(0.1)
        assert spool._thread.is_alive()
    ending.join(10)
    assert sink.closed


def test_a_full_spool_drops_and_says_so(caplog):
    sink = Memory()
    sink.open.clear()
    spool, told = spool_of(sink, max_bytes=50)
    taken = [spool.put(n, 10) for n in range(9)]
    assert taken == [True] * 5 + [False] * 4
    sink.open.set()
    spool.close(10)
    assert sink.records == [0, 1, 2, 3, 4]
    assert told.counts == {"written": 5, "dropped": 4, "failed": 0, "stumbled": 0}
    assert "4 records were dropped" in caplog.text


def test_a_sink_that_recovers_gets_everything(caplog):
    sink = Memory()
    sink.broken = True
    spool, told = spool_of(sink)
    for n in range(20):
        spool.put(n, 1)
    until(lambda: told.counts["stumbled"] > 1)
    assert "20 records wait: OSError: [Errno 28] No space left on device" in caplog.text
    sink.broken = False
    until(lambda: told.counts["written"] == 20)
    spool.close(10)
    assert sink.records == list(range(20))


def test_a_sink_that_stays_broken_loses_by_number_at_the_end(caplog):
    sink = Memory()
    sink.broken = True
    spool, told = spool_of(sink)
    for n in range(20):
        spool.put(n, 1)
    spool.close(0.3)
    assert told.counts["failed"] == 20
    assert "20 records are lost" in caplog.text


def test_a_sink_that_hangs_at_the_end_is_told_of(caplog, monkeypatch):
    sink = Memory()
    sink.open.clear()
    spool, _ = spool_of(sink)
    for n in range(20):
        spool.put(n, 1)
    with monkeypatch.context() as patch:
        patch.setattr(spool._thread, "join", lambda _: None)  # it would take seconds
        assert not spool.close(0.1)
    assert "20 records may be lost: a write hangs" in caplog.text
    sink.open.set()
    assert spool.close(10)


async def test_who_observes_has_one_time_to_end(bundle, tmp_path: Path, monkeypatch):
    settings = Settings(bundle=bundle.path, audit=str(tmp_path / "audit.jsonl"), drain_seconds=1)
    observers = Observers(settings, Metrics())
    given: list[float] = []
    end = Spool.close

    def close(spool: Spool[Any], timeout: float) -> bool:
        if spool in (observers._desk, observers._audit._spool):
            given.append(timeout)
            time.sleep(0.3)
        return end(spool, timeout)

    monkeypatch.setattr(Spool, "close", close)
    async with observers.running():
        pass
    assert given[0] == 1
    assert 0 <= given[1] <= 0.7


def test_a_record_that_is_refused_for_good_does_not_hold_up_the_others(caplog):
    spool, told = spool_of(sink := Memory())
    for n in (1, 2, -3, 4):
        spool.put(n, 1)
    spool.close(10)
    assert sink.records == [1, 2, 4]
    assert (told.counts["written"], told.counts["failed"]) == (3, 1)
    assert "refused for good: negative" in caplog.text


@pytest.fixture
def entry(bundle) -> Entry:
    line = json_line({"type": "verdict", "policy": "default", "pad": "x" * 400})
    return Entry(0.0, "w", 1, line, default_policy(), bundle)


def write_all(files: Files, entries: Sequence[Entry]) -> None:
    while entries:
        entries = entries[files.write(entries) :]


def test_files_rotate_by_size_and_each_is_self_contained(tmp_path, entry):
    path = tmp_path / "audit.jsonl"
    files = Files(path, max_bytes=8_000, keep=2)
    other = parse_policy(POLICY)
    entries = [replace(entry, policy=other if n % 3 == 0 else entry.policy) for n in range(100)]
    write_all(files, entries)
    files.close()
    found = sorted(p.name for p in tmp_path.iterdir())
    assert found == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.lock"]
    for name in found[:3]:
        assert (tmp_path / name).stat().st_size <= 8_000
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        lines = lines_of(tmp_path / name)
        assert [line["type"] for line in lines[:3]] == ["model", "policy", "verdict"]
        assert sum(line["type"] == "model" for line in lines) == 1
        policies = [line["name"] for line in lines if line["type"] == "policy"]
        assert len(set(policies)) == len(policies)


def test_no_rotated_file_is_kept_where_none_is_wanted(tmp_path, entry):
    files = Files(tmp_path / "a.jsonl", max_bytes=4_000, keep=0)
    write_all(files, [entry] * 50)
    files.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "a.jsonl.lock"]


@pytest.mark.parametrize("keep", [0, 3])
def test_a_file_that_somebody_took_away_is_begun_anew(tmp_path, entry, keep):
    path = tmp_path / "a.jsonl"
    files = Files(path, max_bytes=4_000, keep=keep)
    write_all(files, [entry] * 50)
    kept = {p: p.read_bytes() for p in tmp_path.glob("a.jsonl.[0-9]")}
    assert len(kept) == keep
    path.unlink()
    files.write([entry])
    files.close()
    assert {p: p.read_bytes() for p in tmp_path.glob("a.jsonl.[0-9]")} == kept
    assert [line["type"] for line in lines_of(path)] == ["model", "policy", "verdict"]


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def copied_and_emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("tidy", [Path.unlink, moved, copied_and_emptied])
def test_what_another_hand_tidied_away_takes_no_later_record_along(tmp_path, entry, tidy):
    path = tmp_path / "a.jsonl"
    files = Files(path, max_bytes=100_000, keep=1)
    files.write([entry] * 3)
    tidy(path)
    for _ in range(2):
        files.write([entry])
    files.close()
    kinds = ["model", "policy", "verdict", "verdict"]
    assert [line["type"] for line in lines_of(path)] == kinds


def test_a_rotation_that_is_tried_again_costs_no_file(tmp_path, entry, monkeypatch):
    path = tmp_path / "a.jsonl"
    files = Files(path, max_bytes=10, keep=5)
    write_all(files, [entry] * 3)
    real = Path.replace

    def held(self: Path, target: Path) -> Path:
        if self == path:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", held)
        for _ in range(5):
            with pytest.raises(PermissionError):
                files.write([entry])
    files.write([entry])
    files.close()
    logs = [p for p in tmp_path.iterdir() if p.suffix != ".lock"]
    assert sum(line["type"] == "verdict" for p in logs for line in lines_of(p)) == 4


def test_a_record_that_is_larger_than_a_file_has_one_for_itself(tmp_path, entry):
    files = Files(tmp_path / "a.jsonl", max_bytes=10, keep=5)
    write_all(files, [entry] * 3)
    files.close()
    for name in ("a.jsonl", "a.jsonl.1", "a.jsonl.2"):
        kinds = [line["type"] for line in lines_of(tmp_path / name)]
        assert kinds == ["model", "policy", "verdict"]


def test_two_writers_never_share_a_file(tmp_path, entry):
    writers = [Files(tmp_path / "a.jsonl", max_bytes=5_000, keep=50) for _ in range(3)]
    for _ in range(30):
        for files in writers:
            files.write([entry])
    assert [f.path.name for f in writers] == ["a.jsonl", "a.2.jsonl", "a.3.jsonl"]
    writers[1].close()
    again = Files(tmp_path / "a.jsonl", max_bytes=5_000, keep=50)
    again.write([entry])
    assert again.path.name == "a.2.jsonl"
    for files in (writers[0], writers[2], again):
        files.close()
    logs = [p for p in tmp_path.iterdir() if p.suffix != ".lock"]
    lines = [line for p in logs for line in lines_of(p)]
    assert sum(line["type"] == "verdict" for line in lines) == 91


def test_a_name_without_an_ending_keeps_two_writers_apart(tmp_path, entry):
    first, second = (Files(tmp_path / "audit", max_bytes=10, keep=5) for _ in range(2))
    first.write([entry])
    second.write([entry])
    write_all(first, [entry] * 3)
    for files in (first, second):
        files.close()
    logs = [p for p in tmp_path.iterdir() if p.suffix != ".lock"]
    assert sum(line["type"] == "verdict" for p in logs for line in lines_of(p)) == 5


def test_a_line_that_a_crash_cut_off_ends_where_writing_goes_on(tmp_path, entry):
    path = tmp_path / "a.jsonl"
    path.write_bytes(entry.line + entry.line[:100])
    files = Files(path, max_bytes=10_000, keep=1)
    files.write([entry])
    files.close()
    whole, torn, *rest = path.read_bytes().splitlines()
    assert whole == entry.line.strip()
    assert torn == entry.line[:100]
    assert [json.loads(line)["type"] for line in rest] == ["model", "policy", "verdict"]


def full_after(room: int) -> Callable[[int, bytes], int]:
    """``os.write`` on a disk that takes so many bytes more."""
    real, left = os.write, [room]

    def write(descriptor: int, text: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(descriptor, text[: left[0]])
        left[0] -= taken
        return taken

    return write


def test_a_line_that_a_crash_cut_off_ends_there_though_the_disk_was_full_at_first(
    tmp_path, entry, monkeypatch
):
    path = tmp_path / "a.jsonl"
    path.write_bytes(entry.line[:100])
    files = Files(path, max_bytes=10_000, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after(0))
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                files.write([entry])
    files.write([entry])
    files.close()
    torn, *rest = path.read_bytes().splitlines()
    assert torn == entry.line[:100]
    assert [json.loads(line)["type"] for line in rest] == ["model", "policy", "verdict"]


def test_a_full_disk_leaves_no_half_record(tmp_path, entry, monkeypatch):
    path = tmp_path / "a.jsonl"
    files = Files(path, max_bytes=100_000, keep=1)
    files.write([entry])
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after(150))
        with pytest.raises(OSError, match="No space left"):
            files.write([entry, entry])
    assert path.read_bytes() == before
    assert files.write([entry, entry]) == 2
    files.close()
    assert path.read_bytes() == before + 2 * entry.line


@pytest.mark.parametrize("value", [".", "nowhere.txt/a.jsonl"])
def test_an_audit_log_that_cannot_be_is_refused_at_the_start(tmp_path, settings, value):
    (tmp_path / "nowhere.txt").write_text("x")
    settings.audit = str(tmp_path / value)
    with pytest.raises(OSError, match=r"folder|File exists"):
        create_app(settings)


def audited(settings: Settings, path: Path, **more: Any) -> Settings:
    return Settings(**settings.model_dump() | {"audit": str(path)} | more)


def test_a_path_at_home_is_at_home(tmp_path, settings, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    chosen = settings.model_copy(update={"audit": "~/logs/a.jsonl"})
    open_audit(chosen, AuditCounters(CollectorRegistry()))
    assert (tmp_path / "home" / "logs").is_dir()
    assert list((tmp_path / "here").iterdir()) == []


def test_the_record_of_an_item(settings, tmp_path, bundle):
    path = tmp_path / "logs" / "audit.jsonl"
    with running(audited(settings, path)) as client:
        body = {"input": {"prompt": "hello", "response": "hi"}, "explain": "evidence"}
        answer = client.post("/moderate", json=body, headers={"x-request-id": "abc"})
    model, policy, verdict = lines_of(path)
    assert model["fingerprint"] == bundle.fingerprint
    assert model["thresholds"]["toxicity"][0] == bundle.thresholds["toxicity"].flag
    assert parse_policy(policy["policy"]) == default_policy()
    assert policy["version"] == default_policy().version

    said = answer.json()
    assert (verdict["request_id"], verdict["item"]) == ("abc", 0)
    assert verdict["trace_id"] == answer.headers["traceparent"].split("-")[1]
    assert verdict["time"][:2] == "20"
    assert (verdict["caller"], verdict["route"]) == (None, "/moderate")
    assert verdict["bundle"] == bundle.fingerprint
    assert f"{verdict['policy']}@{verdict['policy_version']}" == said["policy"]
    assert (verdict["mode"], verdict["explain"]) == ("enforce", "evidence")
    assert verdict["action"] == said["action"] == "allow"
    assert round(verdict["score"], 4) == said["score"]
    assert verdict["flagged"] == []
    assert verdict["severity"] == said["severity"] == "safe"
    assert list(verdict["fields"]) == ["prompt", "response"]
    for name, field in verdict["fields"].items():
        assert round(field["score"], 4) == said["fields"][name]["score"]
        assert field["action"] == said["fields"][name]["action"]
    prompt, response = verdict["contents"]
    assert prompt["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert (prompt["field"], prompt["question"], prompt["characters"]) == ("prompt", "prompt", 5)
    assert response["context"] == {"characters": 5, "sha256": prompt["sha256"]}
    assert set(prompt["categories"]) > {"toxicity", "harassment"}
    assert 0 < prompt["attack"] < 1
    assert response["attack"] is None
    assert prompt["windows"] == 1


def test_every_item_has_a_record_and_a_number(settings, tmp_path):
    path = tmp_path / "audit.jsonl"
    with running(audited(settings, path)) as client:
        post(client, input=[INSULT, "hello", ""])
        client.post("/v1/moderations", json={"input": ["a", "b"]})
        post(client, input="hello", policy=POLICY)
        post(client, input="hello", policy=POLICY)
        client.post("/moderate", json={"input": 5})
        metrics = client.get("/metrics").text
    found = verdicts_of(path)
    assert [v["number"] for v in found] == list(range(1, 8))
    assert [v["item"] for v in found] == [0, 1, 2, 0, 1, 0, 0]
    assert found[0]["action"] == "flag"
    assert "toxicity" in found[0]["flagged"]
    policies = [line["name"] for line in lines_of(path) if line["type"] == "policy"]
    assert policies == ["default", "mine"]
    assert 'tamis_audit_records_total{result="dropped"} 0.0' in metrics


def test_the_callers_name_and_a_mode_that_only_scores(settings, tmp_path):
    from service.access import new_key

    key, entry = new_key("gateway")
    keys = tmp_path / "keys.yaml"
    keys.write_text(json.dumps([entry]))
    path = tmp_path / "audit.jsonl"
    with running(audited(settings, path, keys=keys, mode="score")) as client:
        headers = {"x-api-key": key}
        answer = client.post("/moderate", json={"input": INSULT}, headers=headers).json()
        assert client.post("/moderate", json={"input": "x"}).status_code == 401
    (verdict,) = verdicts_of(path)
    assert verdict["caller"] == "gateway"
    assert verdict["mode"] == "score"
    # What the policy asks for; the caller saw it withheld.
    assert (verdict["action"], answer["action"], answer["withheld"]) == ("flag", "allow", "flag")


def test_records_are_counted(settings, tmp_path):
    with running(audited(settings, tmp_path / "audit.jsonl")) as client:
        post(client, input=["a", "b"])
        until(
            lambda: 'tamis_audit_records_total{result="written"} 2.0' in client.get("/metrics").text
        )
        assert "tamis_audit_waiting_records 0.0" in client.get("/metrics").text


def test_without_an_audit_log_its_metrics_are_zero(settings):
    with running(settings) as client:
        post(client, input="a")
        assert 'tamis_audit_records_total{result="written"} 0.0' in client.get("/metrics").text


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:secret@h/d", "Postgresql://u@h/d"])
def test_a_url_that_is_none_of_postgres_is_no_path(settings, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="TAMIS_AUDIT: must be a path or a postgresql:// URL"):
        create_app(settings.model_copy(update={"audit": url}))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def port() -> int:
    return free_port()


@contextmanager
def serving(port: int, path: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    env = {"TAMIS_AUDIT": str(path), "TAMIS_PORT": str(port), "TAMIS_LINGER_SECONDS": "0"}
    command = [sys.executable, "-m", "tamis", "serve", *more]
    with started(command, stderr=subprocess.DEVNULL, env=os.environ | env) as process:
        until(lambda: process.poll() is None and asked(port, "/health/ready"))
        yield process


def asked(port: int, path: str, body: bytes | None = None) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, timeout=10):
            return True
    except OSError:
        return False


def flood(port: int, threads: int) -> Iterator[int]:
    """Requests until the server is gone; yields running counts of what was answered."""
    answered = [0] * threads
    stop = threading.Event()

    def one(n: int) -> None:
        while not stop.is_set():
            if not asked(port, "/moderate", json.dumps({"input": f"goose {n}"}).encode()):
                return
            answered[n] += 1

    running = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(threads)]
    for thread in running:
        thread.start()
    try:
        while True:
            yield sum(answered)
    finally:
        stop.set()
        for thread in running:
            thread.join()


def test_sigterm_under_load_loses_no_record_of_an_answered_request(tmp_path, port):
    path = tmp_path / "audit.jsonl"
    with serving(port, path) as process:
        counts = flood(port, 8)
        until(lambda: next(counts) > 100)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        # Every thread has met a closed port by now.
        time.sleep(0.2)
        answered = next(counts)
        counts.close()
    found = verdicts_of(path)
    assert len(found) >= answered
    assert [v["number"] for v in found] == list(range(1, len(found) + 1))


def test_after_kill_9_the_log_can_be_read_and_written_on(tmp_path, port):
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with serving(port, path) as process:
            counts = flood(port, 4)
            before = path.stat().st_size if path.exists() else 0
            until(lambda counts=counts: next(counts) > 50)
            until(lambda before=before: path.exists() and path.stat().st_size > before)
            process.kill()
            process.wait(30)
            counts.close()
    # As if it had been cut off within a line.
    os.truncate(path, path.stat().st_size - 7)
    with serving(port, path) as process:
        assert asked(port, "/moderate", b'{"input": "x"}')
        process.terminate()
        process.wait(30)
    log = Log([str(path)])
    found = list(log.verdicts())
    # The kernel ends a write between two pages when it kills.
    assert 1 <= log.torn <= 3
    assert log.missing == 0
    assert len({recorded.raw["writer"] for recorded in found}) == 3


def test_several_processes_write_a_file_each(tmp_path, port):
    path = tmp_path / "audit.jsonl"
    with serving(port, path, "--processes", "2") as process:
        until(lambda: "tamis_ready 2.0" in scrape(port))
        for n in range(40):
            assert asked(port, "/moderate", json.dumps({"input": f"goose {n}"}).encode())
        process.terminate()
        process.wait(30)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert {p.name for p in files} <= {"audit.jsonl", "audit.2.jsonl"}
    log = Log([str(p) for p in files])
    assert len(list(log.verdicts())) == 40
    assert log.missing == 0


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    with postgres.controlled() as server:
        yield server


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def empty(database: postgres.Server) -> postgres.Server:
    query(database.url, "DROP TABLE IF EXISTS tamis_audit")
    return database


def test_postgres_holds_the_same_records(settings, tmp_path, empty):
    path = tmp_path / "audit.jsonl"
    requests = [{"input": [INSULT, "hello"]}, {"input": "hello", "policy": POLICY}]
    for target in (str(path), empty.url):
        with running(Settings(**settings.model_dump() | {"audit": target})) as client:
            for n, body in enumerate(requests):
                client.post("/moderate", json=body, headers={"x-request-id": f"r{n}"})

    def timeless(record: Any) -> dict[str, Any]:
        varying = ("time", "trace_id", "writer")
        return {k: v for k, v in record.items() if k not in varying}

    in_file = [timeless(line) for line in lines_of(path)]
    rows = query(empty.url, "SELECT record FROM tamis_audit ORDER BY id")
    assert [timeless(record) for (record,) in rows] == in_file
    columns = query(
        empty.url,
        "SELECT request_id, action, number, time > now() - interval '1 hour' FROM tamis_audit "
        "WHERE type = 'verdict' ORDER BY id",
    )
    assert columns == [
        ("r0", "flag", 1, True),
        ("r0", "allow", 2, True),
        ("r1", in_file[-1]["action"], 3, True),
    ]
    assert len(list(Log([empty.url]).verdicts())) == 3


def test_a_database_that_is_down_delays_records_and_no_answer(settings, empty, caplog):
    url = empty.url
    with running(Settings(**settings.model_dump() | {"audit": url})) as client:
        post(client, input="one")
        until(lambda: 'result="written"} 1.0' in client.get("/metrics").text)
        empty.stop()
        for _ in range(3):
            post(client, input="two")
        until(lambda: "tamis_audit_errors_total 0.0" not in client.get("/metrics").text)
        empty.start()
        until(lambda: 'result="written"} 4.0' in client.get("/metrics").text)
    assert "3 records wait: ConnectionError" in caplog.text
    log = Log([url])
    assert len(list(log.verdicts())) == 4
    assert log.missing == 0


def test_nobody_gets_out_of_the_log_by_a_name_that_it_cannot_hold(settings, empty):
    with running(Settings(**settings.model_dump() | {"audit": empty.url})) as client:
        post(client, input="one", policy=POLICY | {"name": "a\0b"})
        post(client, input="two", policy=POLICY | {"name": r"a\u0000b"})
        post(client, input="three")
    names = [recorded.raw["policy"] for recorded in Log([empty.url]).verdicts()]
    assert names == ["a\ufffdb", r"a\u0000b", "default"]


def test_what_a_database_has_no_letters_for_does_not_hold_up_the_others(empty, entry):
    from psycopg.conninfo import make_conninfo

    from service.observing.audit.postgres import Postgres

    query(empty.url, "CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    url = make_conninfo(empty.url, dbname="latin")
    sink = Postgres(url)
    lines = [json_line({"type": "verdict", "policy": name}) for name in ("é", "愛", "ö")]
    batch = [replace(entry, number=n, line=line) for n, line in enumerate(lines)]
    assert sink.write(batch) == 1
    with pytest.raises(RefusedError, match=r"^UnicodeEncodeError$"):
        sink.write(batch[1:])
    assert sink.write(batch[2:]) == 1
    sink.close()
    names = query(url, "SELECT record->>'policy' FROM tamis_audit WHERE type = 'verdict'")
    assert names == [("é",), ("ö",)]


def test_a_batch_that_came_twice_is_there_once(empty, entry):
    from service.observing.audit.postgres import Postgres

    sink = Postgres(empty.url)
    assert sink.write([entry]) == 1
    assert sink.write([entry, replace(entry, number=2)]) == 2
    sink.close()
    found = query(empty.url, "SELECT number FROM tamis_audit WHERE type = 'verdict' ORDER BY id")
    assert found == [(1,), (2,)]


def test_a_role_that_may_only_insert_does_with_a_table_that_is_there(empty, entry):
    from service.observing.audit.postgres import Postgres

    first = Postgres(empty.url)
    first.write([entry])
    first.close()
    query(empty.url, "DROP ROLE IF EXISTS writer")
    query(empty.url, "CREATE ROLE writer LOGIN")
    query(empty.url, "GRANT INSERT ON tamis_audit TO writer")
    try:
        sink = Postgres(empty.url.replace("tamis:secret@", "writer@"))
        assert sink.write([replace(entry, number=2)]) == 1
        sink.close()
    finally:
        query(empty.url, "DROP OWNED BY writer")
        query(empty.url, "DROP ROLE writer")


def test_the_password_is_in_no_message(settings, caplog):
    url = "postgresql://tamis:hunter2@127.0.0.1:1/none"
    quick = {"audit": url, "drain_seconds": 0}
    with caplog.at_level(logging.DEBUG):
        with running(Settings(**settings.model_dump() | quick)) as client:
            post(client, input="one")
            until(lambda: "records wait" in caplog.text)
        assert "1 records are lost" in caplog.text
        broken = Settings(**settings.model_dump() | {"audit": "postgresql://hunter2:%zz@x"})
        with pytest.raises(ValueError, match="not a PostgreSQL URL") as refused:
            create_app(broken)
    assert "hunter2" not in caplog.text + str(refused.value)


def test_without_psycopg_the_extra_is_named(settings, monkeypatch):
    import service.observing.audit

    monkeypatch.setitem(sys.modules, "service.observing.audit.postgres", None)
    monkeypatch.delattr(service.observing.audit, "postgres", raising=False)
    settings.audit = "postgresql://x/y"
    with pytest.raises(ValueError, match=r"tamis\[postgres\]"):
        create_app(settings)
