"""Judging in worker processes: the same to the bit, and nothing is lost with one."""

import asyncio
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import tree
from benchmarks.server import Server
from service.app import create_app
from service.engine.classifier import Classifier, load_classifier
from service.engine.engine import Engine
from service.engine.loader import own_cores, workers_of
from service.engine.memory import Memory
from service.engine.runtime import available_memory
from service.engine.warmup import Pace
from service.engine.workers import crew as crews
from service.engine.workers import processes
from service.engine.workers import template as templates
from service.engine.workers.crew import Crew, CrewEvents, WorkerLostError
from service.engine.workers.processes import LostError
from service.settings import Settings
from tamis.bundle import MANIFEST, Bundle, sha256_of
from tamis.content import document, exchange, plain, prompt
from tamis.tiers import load_bands
from tests.service.deadly import Deadly, Panicking, Telling, Unreadable, Unsayable
from tests.service.observed import running, until
from tests.service.test_operation import sample
from tests.service.tiers import GOOSE, SOUP, write_second

LONG = "Tell me a story of a goose and a fox. " * 60
PACE = Pace(10_000, 128)
CONTENTS = (
    *(prompt(SOUP), plain(GOOSE), plain(""), prompt(LONG), document("Read me. " * 90)),
    *exchange(GOOSE, "I am sorry, but I can not help with that. " * 40),
    plain("Ünïcödé ✨ text, with emoji 🦆 and 漢字."),
)


class Heard(CrewEvents):
    def __init__(self) -> None:
        self.alive = 0
        self.restarts = 0

    def manned(self, workers: int) -> None:
        self.alive = workers

    def replaced(self) -> None:
        self.restarts += 1


@pytest.fixture(scope="module")
def second(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_second(bundle, tmp_path_factory.mktemp("workers") / "second")


@pytest.fixture(scope="module")
def accurate(second: Bundle) -> Classifier:
    return load_classifier(second)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def crew(bundle: Bundle, heard: Heard) -> Iterator[Crew]:
    made = Crew(1, events=heard)
    made.load("first", bundle)
    made.tend()
    yield made
    made.close()


Make = Callable[..., Engine]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Engine] = []

    def build(classifier: Any, **options: Any) -> Engine:
        options = {"workers": 1, "max_queued_tokens": 100_000, "max_wait": 60.0} | options
        made.append(Engine(classifier, PACE, **options))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


@pytest.fixture
def served(crew: Crew, bundle: Bundle, make: Make) -> Engine:
    return make(crews.Elsewhere(bundle), hands=crew)


@pytest.mark.parametrize("evidence", [False, True])
async def test_workers_find_what_the_process_itself_does(
    crew: Crew,
    served: Engine,
    make: Make,
    classifier: Classifier,
    accurate: Classifier,
    second: Bundle,
    evidence: bool,
):
    there, _ = crew.load("accurate", second)
    other, _ = crew.load("multilingual", second)
    here = make(classifier)
    for engine, one, another in ((here, accurate, accurate), (served, there, other)):
        engine.consult(load_bands(second.path), one, Pace(2_000, 128))
        engine.read_by(another, Pace(2_000, 128))
    german = "Das ist ein sehr schöner Garten, und der Tee ist warm. "
    both = plain(f"How do I bake a good cake for my sister? {german}")
    contents = [*CONTENTS, plain(german * 40), both]
    (expected,), _ = await here.judge([contents], evidence)
    (found,), timings = await served.judge([contents], evidence)
    assert found == expected
    assert {None, "accurate", "multilingual"} == {f.second and f.second.role for f in found}
    assert found[-1].other is not None
    assert any(f.windows > 3 for f in found)
    assert timings.tokenize > 0
    assert timings.postprocess > 0
    assert served.scheduler.queued_tokens == 0


async def test_a_growing_text_is_run_no_more_often(served: Engine, make: Make, classifier):
    here = make(classifier)
    memories = Memory(), Memory()
    for length in (300, 900, 2_000, len(LONG)):
        text = prompt(LONG[:length])
        expected, _, work = await here.judge_growing([(text, memories[0])])
        found, _, same = await served.judge_growing([(text, memories[1])])
        assert (found, same) == (expected, work)
    assert work[0].windows > work[0].run > 0
    assert memories[0].size == memories[1].size


async def held(crew: Crew, served: Engine, *texts: Any) -> tuple[int, "asyncio.Task[Any]"]:
    """A worker that stands still over texts, and who waits for them."""
    pid = crew.pids[0]
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(served.judge([texts]))
    await asyncio.sleep(0.1)
    return pid, asked


async def test_nothing_is_lost_with_a_worker(
    crew: Crew, served: Engine, classifier: Classifier, heard: Heard
):
    pid, asked = await held(crew, served, prompt(SOUP))
    waiting = [asyncio.create_task(served.judge([(plain(f"{GOOSE} {n}"),)])) for n in range(9)]
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    ((found,),), _ = await asked
    assert found == classifier.judge(prompt(SOUP))
    for n, ((((one,),), _)) in enumerate(await asyncio.gather(*waiting)):
        assert one == classifier.judge(plain(f"{GOOSE} {n}"))
    assert pid not in crew.pids
    assert (heard.alive, heard.restarts) == (2, 1)


async def test_nothing_is_lost_between_the_windows_of_a_text(
    crew: Crew, served: Engine, classifier
):
    patient = crew.pids[1]
    asked = asyncio.create_task(served.judge([(prompt(LONG),)], True))
    await asyncio.sleep(0.03)
    os.kill(patient, signal.SIGKILL)
    ((found,),), _ = await asked
    assert found == classifier.judge(prompt(LONG), True)


async def test_what_no_worker_survives_is_refused_and_harms_nobody_else(
    served: Engine, classifier, heard: Heard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crews, "Judge", Deadly)
    with pytest.raises(WorkerLostError):
        await served.judge([(prompt(SOUP),)])
    monkeypatch.undo()
    ((found,),), _ = await served.judge([(prompt(SOUP),)])
    assert found == classifier.judge(prompt(SOUP))
    assert heard.restarts == 2


async def test_a_worker_that_does_not_answer_is_replaced(
    crew: Crew, served: Engine, classifier, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "PATIENCE", 1.5)
    for seat in crew._seats.values():
        crew._bury(seat)
    crew.tend()
    pid, asked = await held(crew, served, prompt(SOUP))
    ((found,),), _ = await asked
    assert found == classifier.judge(prompt(SOUP))
    assert pid not in crew.pids


async def test_an_error_is_the_callers_and_the_worker_lives_on(
    crew: Crew, served: Engine, bundle: Bundle, accurate: Classifier
):
    pids = crew.pids
    # A bundle that no worker has.
    served.read_by(accurate, PACE)
    with pytest.raises(KeyError):
        await served.judge([(prompt("Das ist ein schöner Garten, und der Tee ist warm."),)])
    served._other = None
    await served.judge([(prompt(SOUP),)])
    assert crew.pids == pids


@pytest.mark.parametrize(
    ("call", "error"),
    [(Panicking, RuntimeError), (Telling, RuntimeError), (Unsayable, TypeError)],
)
async def test_whatever_a_call_comes_to_the_worker_lives_on(
    crew: Crew, served: Engine, monkeypatch: pytest.MonkeyPatch, call: type, error: type[Exception]
):
    pids = crew.pids
    monkeypatch.setattr(crews, "Judge", call)
    with pytest.raises(error, match=r"PanicException|Told|pickle"):
        await served.judge([(prompt(SOUP),)])
    assert crew.pids == pids


async def test_a_worker_that_an_error_ends_says_so(
    crew: Crew, served: Engine, monkeypatch: pytest.MonkeyPatch, caplog
):
    monkeypatch.setattr(crews, "Judge", Unreadable)
    with pytest.raises(WorkerLostError):
        await served.judge([(prompt(SOUP),)])
    # Told with the next worker that is made once the kernel has said so.
    for _ in range(100):
        if "ended (status 1)" in caplog.text:
            break
        await asyncio.sleep(0.02)
        os.kill(crew.pids[0], signal.SIGKILL)
        await asyncio.to_thread(crew.tend)
    assert "ended (status 1)" in caplog.text


async def test_models_are_loaded_again_where_who_holds_them_has_ended(
    crew: Crew, served: Engine, classifier
):
    template = crew._template.pid
    for pid in (template, *crew.pids):
        os.kill(pid, signal.SIGKILL)
    ((found,),), _ = await served.judge([(prompt(SOUP),)])
    assert found == classifier.judge(prompt(SOUP))
    assert crew._template.pid != template


def test_a_worker_that_ends_idle_is_replaced(crew: Crew, heard: Heard):
    first, other = crew.pids
    os.kill(first, signal.SIGKILL)
    until(lambda: next(iter(crew._seats.values())).worker.gone)
    crew.tend()
    assert crew.pids[0] != first
    assert crew.pids[1] == other
    assert (heard.alive, heard.restarts) == (2, 1)
    # A new bundle is no loss.
    crew.load("accurate", next(iter(crew._loaded.values())).bundle)
    crew.tend()
    assert heard.restarts == 1
    assert {first, other}.isdisjoint(crew.pids)


def test_who_reloads_the_server_ends_nobody(crew: Crew):
    """The front reads its files anew on SIGHUP, which a whole group may get."""
    template, pids = crew._template, crew.pids
    for pid in (template.pid, *pids):
        os.kill(pid, signal.SIGHUP)
    seat = next(iter(crew._seats.values()))
    crew._bury(seat)
    crew.tend()  # which asks the template, that has heard it by then
    assert crew._template is template
    assert crew.pids[1] == pids[1]
    assert lives(pids[1])


def test_a_bundle_that_comes_back_is_the_newest(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("CpuRuntime", "Classifier"):
        monkeypatch.setattr(templates, name, lambda *_, **__: None)
    monkeypatch.setattr(templates, "warm_up", lambda _: PACE)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    template = templates._Template(None, None)
    for fingerprint in ("a", "b", "a", "c"):
        template._load(templates.Load("accurate", replace(bundle, fingerprint=fingerprint)))
    # A text may be on its way to the one before.
    assert list(template._models) == [("accurate", "a"), ("accurate", "c")]


def test_one_that_ends_at_once_is_given_time(crew: Crew, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(crew._closing, "wait", waits.append)
    seat = next(iter(crew._seats.values()))
    for _ in range(9):
        crew._bury(seat)
        crew._seated(seat)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_who_ends_before_a_worker_is_handed_over_is_started_anew(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
):
    template, seat = crew._template, next(iter(crew._seats.values()))
    receive = socket.recv_fds

    def killed(*arguments: Any) -> Any:
        monkeypatch.setattr(socket, "recv_fds", receive)
        for way in receive(*arguments)[1]:
            os.close(way)  # as if it had never been sent
        os.kill(template.pid, signal.SIGKILL)
        template._process.wait()
        return receive(*arguments)

    monkeypatch.setattr(socket, "recv_fds", killed)
    crew._bury(seat)
    crew._seated(seat)
    assert crew._template is not template
    assert crew.alive == crew.wanted


def test_prompt_workers_keep_their_priority_and_their_cores(bundle: Bundle):
    core = min(os.sched_getaffinity(0))
    crew = Crew(1, cores=[core])
    try:
        crew.load("first", bundle)
        crew.tend()
        first, patient = crew.pids
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        # A worker sees to that by itself, once it is there.
        until(lambda: os.sched_getaffinity(first) == {core})
        until(lambda: os.getpriority(os.PRIO_PROCESS, patient) == max(mine, 13))
        assert os.getpriority(os.PRIO_PROCESS, first) == mine
        assert os.sched_getaffinity(patient) == os.sched_getaffinity(0)
    finally:
        crew.close()


def test_a_bundle_that_cannot_be_loaded_says_why(bundle: Bundle, tmp_path: Path):
    shutil.copytree(bundle.path, tmp_path / "broken")
    manifest = json.loads((tmp_path / "broken" / MANIFEST).read_text())
    manifest["heads"].pop()
    (tmp_path / "broken" / MANIFEST).write_text(json.dumps(manifest))
    with running_until_failed(Settings(bundle=tmp_path / "broken", workers=1)) as reason:
        assert "heads, the manifest lists" in reason


def test_who_ends_over_a_bundle_says_so(bundle: Bundle):
    crew = Crew(1)
    try:
        os.kill(crew._template.pid, signal.SIGKILL)
        with pytest.raises(LostError, match="signal 9"):
            crew._template.load(crews.Load("first", bundle))
        # The next one is another one.
        crew.load("first", bundle)
        crew.tend()
        assert crew.alive == 2
    finally:
        crew.close()


def test_one_that_holds_the_models_and_does_not_answer_is_started_anew(
    crew: Crew, second: Bundle, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "FORKING", 1.0)
    template, seat = crew._template, next(iter(crew._seats.values()))
    os.kill(template.pid, signal.SIGSTOP)
    crew._bury(seat)
    crew._seated(seat)
    assert crew._template is not template
    assert not lives(template.pid)
    monkeypatch.setattr(processes, "LOADING", 0.2)
    os.kill(crew._template.pid, signal.SIGSTOP)
    with pytest.raises(LostError, match="it does not answer"):
        crew.load("accurate", second)
    monkeypatch.undo()
    crew.tend()
    assert crew.alive == crew.wanted


async def test_the_end_does_not_wait_for_a_load(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    stuck, load = asyncio.Event(), crews.Template.load
    loop = asyncio.get_running_loop()

    def never(template: crews.Template, asked: crews.Load) -> Pace:
        os.kill(template.pid, signal.SIGSTOP)
        loop.call_soon_threadsafe(stuck.set)
        return load(template, asked)

    monkeypatch.setattr(crews.Template, "load", never)
    app = create_app(settings.model_copy(update={"workers": 1}))
    async with asyncio.timeout(60), app.router.lifespan_context(app):
        await stuck.wait()
        await asyncio.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 30


class running_until_failed:  # noqa: N801
    """Why an application did not become ready."""

    def __init__(self, settings: Settings) -> None:
        from fastapi.testclient import TestClient

        self._client = TestClient(create_app(settings))

    def __enter__(self) -> str:
        self._client.__enter__()
        until(lambda: self._client.get("/health/ready").json()["status"] == "failed")
        return str(self._client.get("/health/ready").json()["reason"])

    def __exit__(self, *_: object) -> None:
        self._client.__exit__(None, None, None)


def test_as_served(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("service.moderation.serving.TEND", 0.05)
    with running(Settings(bundle=bundle.path, workers=1)) as client:
        crew = client.app.state.moderator.serving.loader.crew
        ready = client.get("/health/ready").json()
        assert (ready["status"], ready["workers"]) == ("ready", "2 of 2")
        body = {"input": [SOUP, {"text": GOOSE}, LONG], "explain": "evidence"}
        first = client.post("/moderate", json=body).json()["results"]
        os.kill(crew.pids[0], signal.SIGKILL)
        client.app.state.moderator.serving.engine.cache = None
        again = client.post("/moderate", json=body).json()["results"]
        assert [r["score"] for r in again] == [r["score"] for r in first]
        until(lambda: sample(client.get("/metrics").text, "tamis_worker_restarts_total") == 1)
        assert sample(client.get("/metrics").text, "tamis_workers") == 2

        monkeypatch.setattr(crews, "Judge", Deadly)
        refused = client.post("/moderate", json={"input": "hello"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "worker_lost")
        assert int(refused.headers["retry-after"]) >= 1
        monkeypatch.undo()

        monkeypatch.setattr(crews, "LONGEST_PAUSE", 30.0)
        monkeypatch.setattr(crew, "tend", lambda: None)

        def none_ready() -> bool:
            # A look that had begun before may bring one back.
            for seat in crew._seats.values():
                with seat.lock:
                    if seat.worker is not None:
                        crew._bury(seat)
            return sample(client.get("/metrics").text, "tamis_ready") == 0

        until(none_ready)
        refused = client.get("/health/ready")
        assert refused.status_code == 503
        assert "no inference worker" in refused.json()["reason"]
        monkeypatch.undo()


def test_no_process_outlives_a_server(bundle: Bundle):
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with Server(bundle.path, workers=1, reasoner="", multilingual="") as server:
            until(lambda: len(tree(server.pid)) == 4)
            pids = tree(server.pid)
            # Ctrl-C, and supervisors, tell the whole group.
            for pid in pids if how != signal.SIGKILL else [server.pid]:
                os.kill(pid, how)
            until(lambda: not any(lives(pid) for pid in pids[1:]))  # noqa: B023


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_command_that_cannot_have_workers_says_so():
    with pytest.raises(ValueError, match="cannot share a GPU"):
        Settings(provider="cuda", workers=2)
    assert Settings(provider="cuda", workers="auto").workers == "auto"
    done = subprocess.run(
        [sys.executable, "-m", "tamis", "serve", "--workers", "many"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "workers" in done.stderr


def test_workers_by_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert workers_of(3, "cpu", 2) == 3
    assert workers_of("auto", "cuda", 64) == 0
    assert workers_of("auto", "cpu", 2) == 0
    monkeypatch.setattr("service.engine.loader.available_memory", lambda: 2**33)
    assert workers_of("auto", "cpu", 16) == 16
    monkeypatch.setattr("service.engine.loader.available_memory", lambda: 2**30)
    assert workers_of("auto", "cpu", 16) == 4

    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  4096 kB\n")
    assert available_memory(tmp_path / "none", tmp_path) == 4096 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory(tmp_path, tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path, tmp_path) == 4096 * 1024
    # Version 1 has a folder for each resource, and a number where there is no limit.
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("1000000\n")
    for limit, left in ((3_000_000, 2_000_000), (2**63 - 4096, 4096 * 1024)):
        (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{limit}\n")
        assert available_memory(tmp_path, tmp_path) == left


def test_cores_are_kept_where_they_were_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 3})
    assert own_cores(2, None) == [2, 3]
    assert own_cores(4, None) == []
    assert own_cores(2, False) == []
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert own_cores(2, None) == []
    assert own_cores(2, True) == [2, 3]


def test_a_graph_that_changed_is_not_loaded(bundle: Bundle, tmp_path: Path):
    folder = tmp_path / "changed"
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    name = manifest["graph"]
    (folder / name).write_bytes(b"no graph")
    manifest["files"][name] = sha256_of(folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    began = time.monotonic()
    with running_until_failed(Settings(bundle=folder, workers=1)) as reason:
        assert reason
    assert time.monotonic() - began < 60
