import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from benchmarks.server import free_port
from service.engine.engine import Engine
from service.observing import logs
from service.observing.answered import Answered
from service.observing.logs import JsonFormatter, LineSink, SpoolHandler, TextFormatter
from service.observing.metrics import Metrics
from service.observing.tracing import Ids
from service.settings import Settings
from service.web.bodies import Bodies
from service.web.lifecycle import Lifecycle
from service.web.middleware import Envelope
from tests.processes import running as started
from tests.service.observed import INSULT, post, running, until

SECRET = "zebra-canary-4c1"


def record(message: str, *args: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("tamis.x", logging.WARNING, "", 0, message, args, None)
    made.__dict__ |= more
    return made


def failed() -> logging.LogRecord:
    try:
        raise RuntimeError(f"failed on {SECRET}")
    except RuntimeError:
        return record("oh", exc_info=sys.exc_info())


def test_json_is_one_object_a_line_with_the_fields():
    line = JsonFormatter().format(record("a\n%s", "b", fields={"status": 200}, created=1.5))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "logger": "tamis.x",
        "message": "a\nb",
        "status": 200,
    }


def test_what_is_no_unicode_is_logged_all_the_same():
    line = JsonFormatter().format(record("no file %s", "\udcff.yaml"))
    assert json.loads(line)["message"] == "no file \udcff.yaml"


def test_text_is_for_people():
    line = TextFormatter().format(record("hello", fields={"a": "b", "c": {"d": 1}}, created=0.25))
    assert line == '1970-01-01T00:00:00.250Z WARNING tamis.x hello a=b c={"d": 1}'


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_of_an_exception_its_type_and_place_are_logged_and_not_its_message(formatter):
    line = formatter.format(failed())
    assert "RuntimeError" in line
    assert "in failed" in line
    assert SECRET not in line


def accessed(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [r.__dict__["fields"] for r in caplog.records if r.name == "tamis.access"]


def test_the_access_record_of_a_moderation(settings, caplog):
    settings.audit_secret = None
    with caplog.at_level(logging.INFO), running(settings) as client:
        headers = {"x-request-id": "abc"}
        body = {"input": [INSULT, {"prompt": "hello", "response": "hi"}]}
        answer = client.post("/moderate", json=body, headers=headers)
    (line,) = accessed(caplog)
    assert line["request_id"] == "abc"
    assert line["trace_id"] == answer.headers["traceparent"].split("-")[1]
    assert line["span_id"] == answer.headers["traceparent"].split("-")[2]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/moderate", 200)
    assert line["outcome"] == "ok"
    assert line["caller"] is None
    assert line["items"] == 2
    assert line["characters"] == len(INSULT) + len("hello") + len("hi")
    assert line["actions"] == {"flag": 1, "allow": 1}
    assert line["severities"] == {"unsafe": 1, "safe": 1}
    assert line["policy"] == answer.json()["results"][0]["policy"]
    assert line["model"] == answer.json()["results"][0]["model"]
    assert len(line["sha256"]) == 3
    assert line["ms"] > line["infer_ms"] > 0
    assert "input" not in str(line)


def test_under_a_secret_hashes_are_keyed(settings, caplog):
    found = []
    for secret in ("one", "two"):
        with caplog.at_level(logging.INFO), running(keyed(settings, secret)) as client:
            post(client, input="hello")
        (line,) = accessed(caplog)
        assert "sha256" not in line
        found.append(line["hmac_sha256"])
        caplog.clear()
    assert found[0] != found[1]


def keyed(settings: Any, secret: str) -> Any:
    return type(settings)(**settings.model_dump() | {"audit_secret": secret})


def test_a_batch_does_not_make_an_endless_line(settings, caplog):
    settings.max_items = 256
    with caplog.at_level(logging.INFO), running(settings) as client:
        post(client, input=[f"goose {n}" for n in range(256)])
    (line,) = [r for r in caplog.records if r.name == "tamis.access"]
    assert line.__dict__["fields"]["items"] == 256
    assert len(JsonFormatter().format(line)) < 4096


def test_errors_have_their_code_and_faults_of_ours_are_warnings(settings, caplog, monkeypatch):
    async def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    with caplog.at_level(logging.INFO), running(settings) as client:
        client.post("/moderate", json={"input": "x", "policy": "nope"})
        client.post("/moderate", content=b"x" * 5_000_000)
        client.request("BREW" * 99, f"/{SECRET}")
        monkeypatch.setattr(Engine, "judge", broken)
        client.post("/moderate", json={"input": "x"})
    codes = [(line["status"], line["code"]) for line in accessed(caplog)]
    assert codes == [
        (400, "unknown_policy"),
        (413, "body_too_large"),
        (404, "not_found"),
        (500, "internal_error"),
    ]
    assert accessed(caplog)[2]["method"] == "_OTHER"
    assert accessed(caplog)[2]["route"] == "other"
    levels = [r.levelname for r in caplog.records if r.name == "tamis.access"]
    assert levels == ["INFO", "INFO", "INFO", "WARNING"]
    ours = [r for r in caplog.records if not r.name.startswith("httpx")]  # the client's own
    assert SECRET not in "".join(map(JsonFormatter().format, ours))


async def test_an_answer_that_a_shutdown_cuts_off_was_not_given():
    told, began = list[Answered](), asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        began.set()
        await asyncio.Event().wait()

    async def ignore(_: Message) -> None: ...

    observers: Any = SimpleNamespace(tracing=Ids(), tell=told.append)
    lifecycle = Lifecycle(0, 0, lambda: None)
    bodies = Bodies(Settings(), Metrics())
    envelope = Envelope(endless, Metrics(), bodies, None, lifecycle, observers, 503)
    scope = {"type": "http", "method": "POST", "path": "/moderate/stream", "headers": []}
    task = asyncio.create_task(envelope(scope, asyncio.Event().wait, ignore))  # type: ignore[arg-type]
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (answered,) = told
    assert (answered.status, answered.outcome) == (0, "error")


def test_probes_are_logged_only_when_they_fail(settings, caplog, tmp_path):
    with caplog.at_level(logging.INFO), running(settings) as client:
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert client.get(path).status_code == 200
        assert accessed(caplog) == []
        moderator = client.app.state.moderator
        kept, moderator.serving.engine = moderator.serving.engine, None
        assert client.get("/health/ready").status_code == 503
        moderator.serving.engine = kept
    assert [line["status"] for line in accessed(caplog)] == [503]


def test_an_observer_that_fails_harms_nobody_and_is_logged_without_text(
    settings, caplog, monkeypatch
):
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(logs, "observe", broken)
    with caplog.at_level(logging.DEBUG), running(settings) as client:
        post(client, input=SECRET)
        assert 'tamis_verdicts_total{action="allow"' in client.get("/metrics").text
    assert "observer: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("loop_of", ["asyncio", "uvloop"])
def test_what_the_loop_reports_quotes_nothing(caplog, loop_of):
    def broken(_: object) -> None:
        raise RuntimeError(SECRET)

    async def abandoned() -> None:
        raise ValueError(SECRET)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        logs.guard(loop)
        loop.call_soon(broken, SECRET)
        task = loop.create_task(abandoned())
        await asyncio.sleep(0.01)
        assert task.done()
        del task

    import uvloop

    with caplog.at_level(logging.DEBUG):
        factory = uvloop.new_event_loop if loop_of == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(go())
    assert "RuntimeError outside of any request" in caplog.text
    assert "ValueError outside of any request" in caplog.text
    assert SECRET not in caplog.text


def handled(handler: SpoolHandler, message: str) -> None:
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.handle(record(message))


def test_lines_arrive_whole_and_in_order():
    reader, writer = os.pipe()
    handler = SpoolHandler(writer)
    for n in range(1_000):
        handled(handler, f"line {n} " + "x" * 40)
    with open(reader) as stream:  # noqa: PTH123
        lines = []
        while len(lines) < 1_000:
            lines.append(stream.readline())
        handler.close()
        os.close(writer)
        assert stream.read() == ""
    assert [int(line.split()[1]) for line in lines] == list(range(1_000))


def test_a_line_longer_than_a_pipe_takes_is_not_mixed_with_another(tmp_path):
    path = tmp_path / "out"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    batch = [b"a" * 3000 + b"\n", b"b" * 3000 + b"\n", b"c\n", b"d" * 9000 + b"\n"]
    sink, taken = LineSink(descriptor), []
    while batch:
        taken.append(sink.write(batch))
        batch = batch[taken[-1] :]
    os.close(descriptor)
    assert taken == [1, 2, 1]
    assert [len(line) for line in path.read_bytes().splitlines()] == [3000, 3000, 1, 9000]


def test_who_does_not_read_the_log_holds_up_nobody_and_is_told_what_was_lost(monkeypatch):
    monkeypatch.setattr(logs, "MAX_BYTES", 20_000)
    reader, writer = os.pipe()
    handler = SpoolHandler(writer)
    for n in range(3_000):
        handled(handler, f"{n} " + "x" * 95)
    with open(reader, "rb", buffering=0) as stream:  # noqa: PTH123
        text = stream.read(65_536)
        # There is room again.
        until(lambda: handler._spool.flush(0.1) or stream.read(65_536))
        handled(handler, "the end")
        while b"lines were dropped" not in text:
            text += stream.read(65_536)
        handler.close()
        os.close(writer)
    # Said once, or twice where this thread had to wait for a core in between.
    said = [line for line in text.decode().splitlines() if "dropped" in line]
    assert 1_000 < sum(int(line.split()[0]) for line in said) < 3_000


def test_who_does_not_read_the_log_does_not_hold_up_the_end(monkeypatch):
    reader, writer = os.pipe()
    handler = SpoolHandler(writer)
    for _ in range(1_000):
        handled(handler, "x" * 95)
    spool = handler._spool._thread
    with monkeypatch.context() as patch:
        patch.setattr(spool, "join", lambda _: None)  # it hangs, and need not be waited for
        handler.settle()
    last = threading.Thread(target=handled, args=(handler, "finished"), daemon=True)
    last.start()
    last.join(5)
    held = last.is_alive()
    os.close(reader)
    spool.join(10)
    last.join(5)
    handler.close()
    os.close(writer)
    assert not held


def test_the_real_command_logs_json_without_a_terminal_and_nothing_is_lost(tmp_path: Path):
    port = free_port()
    settings = {"TAMIS_PORT": str(port), "TAMIS_LINGER_SECONDS": "0"}
    out = tmp_path / "stderr"
    with (
        out.open("wb") as stderr,
        started(
            [sys.executable, "-m", "tamis", "serve"], stderr=stderr, env=os.environ | settings
        ) as process,
    ):
        until(lambda: '"ready: ' in out.read_text())
        for n in range(20):
            body = json.dumps({"input": f"{SECRET} {n}"}).encode()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/moderate", body, timeout=10):
                pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(line["logger"] == "tamis.access" for line in lines) == 20
    assert lines[-1]["logger"] == "uvicorn.error"
    assert "Finished server process" in lines[-1]["message"]
    assert SECRET not in out.read_text()
    assert all(line["time"][:2] == "20" and line["time"][-1] == "Z" for line in lines)
    assert time.strftime("%Y") in lines[0]["time"]
