"""The profile names what is there, sorts stacks into stages, and adds up to the account."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.dom import minidom

import pytest

from benchmarks.profile import flame, measure, spy
from benchmarks.profile.stages import IDLE, OTHER, RULES, STAGES, Frame, frames_of, stage_of, waits

ROOT = Path(__file__).parents[2]
ENGINE = ";".join((
    "thread (12): tamis-infer-0",
    "Thread._bootstrap (threading.py:1002)",
    "Thread.run (threading.py:982)",
    "Scheduler._serve (service/engine/scheduler.py:284)",
))  # fmt: skip
SCORE = f"{ENGINE};Classifier.score (service/engine/classifier.py:1)"
RUN = "CpuRuntime.run (service/engine/runtime.py:9);Session.run (onnxruntime/capi/x.py:3)"
TAKE = "Scheduler._take (service/engine/scheduler.py:1);Condition.wait (threading.py:327)"
LOG = "Thread.run (threading.py:982);Spool._run (service/observing/spool.py:1)"
LINES = (
    f"{SCORE};{RUN} 60",
    f"{SCORE} 20",
    f"{ENGINE};{TAKE} 20",
    "thread (11): MainThread;Runner.run (asyncio/runners.py:118) 10",
    f"process 7:tamis;thread (0xd): log;{LOG} 5",
)
MODERATE = "moderate (service/dialects/native.py:3)"
ENTER = "Moderator.enter (service/moderation/moderator.py:3)"


@pytest.mark.parametrize("rule", [r for r in RULES if r.file.startswith(("service/", "tamis/"))])
def test_rules_name_what_is_there(rule):
    path = ROOT / rule.file
    assert path.exists()
    if rule.functions:
        source = path.read_text(encoding="utf-8")
        assert [name for name in rule.functions if f"def {name}(" not in source] == []


def test_every_rule_has_a_stage_and_every_stage_a_colour():
    assert {rule.stage for rule in RULES} | {OTHER} == set(STAGES)
    assert set(flame.COLOURS) == set(STAGES)
    assert len(set(flame.COLOURS.values())) == len(STAGES)
    assert not any(rule.stage for rule in IDLE)


@pytest.mark.parametrize(
    ("stack", "stage"),
    [
        ("read (tamis/reading/reader.py:1)", "normalise"),
        ("Envelope.__call__.<locals>.tagged (service/web/middleware.py:3)", "read, route"),
        ("RequestResponseCycle.send (uvicorn/protocols/http/httptools_impl.py:3)", "write"),
        ("HttpToolsProtocol.on_url (uvicorn/protocols/http/httptools_impl.py:3)", "read, route"),
        (f"{MODERATE};body_of (service/dialects/dialect.py:4)", "validate"),
        ("verdict_json (service/dialects/native.py:3);<genexpr> (<string>:4)", "serialise"),
        (f"{ENTER};check (service/engine/scheduler.py:4)", "admit"),
        ("strange (elsewhere.py:1)", OTHER),
    ],
)
def test_the_innermost_frame_that_a_rule_knows_says_the_stage(stack, stage):
    assert stage_of(frames_of(stack)) == stage


def test_threads_and_processes_are_no_frames():
    threads = spy.parsed(LINES)
    assert {n: (t.name, t.samples) for n, t in threads.items()} == {
        12: ("tamis-infer-0", 100),
        11: ("MainThread", 10),
        13: ("log", 5),
    }
    (frames,) = threads[11].stacks
    assert frames == (Frame("Runner.run", "asyncio/runners.py"),)
    assert waits(frames)


@pytest.fixture
def found() -> measure.Profile:
    """Ten requests a second; of a second the worker ran for .5 s in the first pass."""
    busy, everything = spy.parsed(LINES), spy.parsed(LINES)
    busy[12].cpu, busy[12].ready = 0.5, 0.1
    return measure.Profile(10.0, 1.0, busy, everything)


def test_shares_of_samples_divide_the_cpu_of_their_thread(found):
    assert found.cpu() == pytest.approx({
        "run": 30_000, "feed": 10_000, "queue": 10_000, "event loop, sockets": 0, "observe": 0
    })  # fmt: skip
    # In the second pass it was in a run for 60 % of the second, and on a core for 30 %.
    assert found.stood()["run"] == pytest.approx(30_000)
    # Where it waits for work it stands still for nobody.
    assert "queue" not in found.stood()
    assert found.ready == pytest.approx(10_000)


def test_the_table_adds_up(found):
    *rows, whole, ready = measure.table("fast", found)
    spent = "CPU, µs a request"
    assert [row["fast"] for row in rows] == ["queue", "feed", "run", "observe"]
    assert sum(row[spent] for row in rows) == whole[spent] == 50_000
    assert ready["stood still, µs a request"] == 10_000


def test_a_forked_workers_stacks_begin_where_it_was_forked():
    line = (
        "process 9:python;thread (9): MainThread;main (service/engine/workers/__main__.py:1);"
        "_Template._become (service/engine/workers/template.py:2);"
        "serve (service/engine/workers/calls.py:3);"
        "Connection._recv (multiprocessing/connection.py:4) 10"
    )
    threads = spy.parsed([line])
    threads[9].cpu = 1.0
    ((name, frames, spent),) = measure.seen(measure.Profile(1.0, 1.0, threads, threads))
    assert (name, [frame.function for frame in frames]) == (
        "worker process",
        ["serve", "Connection._recv"],
    )
    assert spent == pytest.approx(1e6)
    assert (stage_of(frames), waits(frames)) == ("hand over", True)


def test_boxes_are_as_wide_as_what_they_take(found):
    root = flame.tree(found.stacks())
    assert root.weight == pytest.approx(50_000)
    drawn = minidom.parseString(flame.picture(root, "a < b"))
    widths = dict(_boxes(drawn))
    assert widths["Session.run"] == pytest.approx(0.6 * widths["all"], abs=0.2)
    assert widths["Classifier.score"] == pytest.approx(0.8 * widths["all"], abs=0.2)
    # What takes nothing is not drawn.
    assert "Runner.run" not in widths


def _boxes(drawn: minidom.Document) -> Iterator[tuple[str, float]]:
    for group in drawn.getElementsByTagName("g"):
        title = group.getElementsByTagName("title")[0].firstChild.data
        width = group.getElementsByTagName("rect")[0].getAttribute("width")
        yield title.rpartition(":")[0], float(width)


def test_the_account_is_that_of_each_thread():
    code = "import time\nwhile True: sum(range(10_000))"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        try:
            before = spy.account(busy.pid)
            time.sleep(1)
            after = spy.account(busy.pid)
        finally:
            busy.kill()
    spent = after[busy.pid][0] - before.get(busy.pid, (0.0, 0.0))[0]
    assert 0 < spent < 5


def test_without_py_spy_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(spy.NoSpyError, match="pip install py-spy"):
        spy.find_spy()


def test_a_busy_function_is_found():
    try:
        spy.find_spy()
    except spy.NoSpyError:
        pytest.skip("no py-spy")
    code = "def busy():\n    while True: sum(range(10_000))\nbusy()"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            time.sleep(0.5)
            threads, seconds = spy.sample(process.pid, 1, idle=False)
        except RuntimeError as error:
            pytest.skip(str(error))  # where nobody may look into others' processes
        finally:
            process.kill()
    assert seconds > 0.5
    thread = threads[process.pid]
    assert thread.cpu > 0
    assert any(frame.function == "busy" for frames in thread.stacks for frame in frames)
