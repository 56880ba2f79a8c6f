"""Parts, and the job on Ray: the actor's class always, the cluster where Ray is installed."""

import dataclasses
import gzip
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.bulk import parts as parts_module
from service.bulk.cluster import LOCK
from service.bulk.job import Job, JobError
from service.bulk.journal import lock
from service.bulk.parts import Part, PartJudge, identity, plan
from service.bulk.results import Counts
from service.bulk.rows import Columns, parse
from service.bulk.sources import Files, InputError, open_file, open_source
from tamis import bundle as bundles
from tamis.bundle import MANIFEST
from tamis.policies.parsing import default_policy, parse_policy
from tests.encoders import write_encoder
from tests.service.test_bulk import FAULTY, GOOSE, lines, moderate, wait_for
from tests.service.test_bulk_rows import write
from tests.service.tiers import write_bands, write_second

ROWS = [{"id": n, "text": f"goose number {n}" if n % 3 else GOOSE} for n in range(50)]


def folder_of(tmp_path: Path) -> Path:
    """An input of three files, one faulty row in the first."""
    folder = tmp_path / "in"
    with write(folder / "a.jsonl", ROWS[:20]).open("a", encoding="utf-8") as stream:
        stream.write(FAULTY.rstrip())
    write(folder / "b.jsonl.gz", ROWS[20:35])
    write(folder / "c.parquet", ROWS[35:])
    return folder


def planned(path: Path, part_rows: int, limit: int | None = None) -> list[Part]:
    source = open_source(str(path), Columns())
    assert isinstance(source, Files)
    return plan(source, part_rows, limit)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("part_rows", [1, 6, 20, 21, 100])
def test_parts_cover_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, part_rows: int
):
    monkeypatch.setattr(parts_module, "BLOCK", block)
    parts = planned(folder_of(tmp_path), part_rows)
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [part.first for part in parts] == [
        sum(part.rows for part in parts[:n]) for n in range(len(parts))
    ]
    rows: Counter[str] = Counter()
    for part in parts:
        assert 0 < part.rows <= part_rows
        assert part.skip == rows[Path(part.path).name]
        rows[Path(part.path).name] += part.rows
        if part.path.endswith(".jsonl"):
            before = Path(part.path).read_bytes()[: part.offset]
            assert before.count(b"\n") == part.skip
    assert rows == {"a.jsonl": 21, "b.jsonl.gz": 15, "c.parquet": 15}


def test_a_limit_ends_the_plan(tmp_path: Path):
    parts = planned(folder_of(tmp_path), 8, limit=26)
    assert sum(part.rows for part in parts) == 26
    assert parts[-1].rows == 5


def test_a_link_is_read_as_its_name_says(tmp_path: Path):
    folder = tmp_path / "links"
    folder.mkdir()
    for n, file in enumerate(sorted(folder_of(tmp_path).iterdir())):
        (folder / file.name).symlink_to(file.rename(tmp_path / f"blob-{n}"))
    parts = planned(folder, 8)
    found = [open_file(Path(p.path), Columns()).slice(p.skip, p.rows) for p in parts]
    read = [parse(0, raw, Columns(), 99).id for raws in found for raw in raws]
    assert read == [*range(20), None, *range(20, 50)]


def test_another_input_is_another_plan(tmp_path: Path):
    folder = folder_of(tmp_path)
    before = identity(planned(folder, 8))
    assert identity(planned(folder, 8)) == before
    assert identity(planned(folder.rename(tmp_path / "moved"), 8)) == before
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        changed = [row | {"text": str(row["text"]).replace("goose", "heron")} for row in ROWS[:20]]
        write(tmp_path / "moved" / name, changed)
        after = identity(planned(tmp_path / "moved", 8))
        assert after != before
        before = after


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_parts_together_are_what_one_machine_writes(tmp_path: Path, suffix: str):
    folder, out = folder_of(tmp_path), tmp_path / "out"
    (out / "_done").mkdir(parents=True)
    whole = tmp_path / f"whole{suffix}"
    assert moderate("--input", folder, "--output", whole) == 2
    job = Job(str(folder), str(out / f"x{suffix}"), default_policy())
    schema = job.schema(open_source(str(folder), Columns()))
    parts = planned(folder, 8)
    # As Ray sends them: the job pickled, a part as JSON.
    with PartJudge(dataclasses.replace(job), str(out), job.pins, schema) as judge:
        batch = {"part": [json.dumps(dataclasses.asdict(part)) for part in parts]}
        replies = judge(batch)["done"]
    total = Counts()
    for reply in replies:
        total.add(Counts(**json.loads(reply)["counts"]))
    assert (total.rows, total.errors) == (51, 1)
    written = [part.output(out, suffix) for part in parts]
    if suffix == ".parquet":
        rows = [row for path in written for row in pq.read_table(path).to_pylist()]
        assert rows == pq.read_table(whole).to_pylist()
    elif suffix == ".jsonl":
        assert b"".join(path.read_bytes() for path in written) == whole.read_bytes()
    else:
        unpacked = b"".join(gzip.decompress(path.read_bytes()) for path in written)
        assert unpacked == gzip.decompress(whole.read_bytes())
    assert {path.name for path in out.iterdir()} == {"_done", *(path.name for path in written)}
    assert len(list((out / "_done").iterdir())) == len(parts)


def test_a_part_that_fails_leaves_nothing(tmp_path: Path):
    folder, out = folder_of(tmp_path), tmp_path / "out"
    (out / "_done").mkdir(parents=True)
    job = Job(str(folder), str(out / "x.jsonl"), default_policy(), on_error="fail")
    parts = planned(folder, 100)
    with PartJudge(job, str(out), job.pins, None) as judge:
        with pytest.raises(JobError, match="row 20: the line is not JSON"):
            judge.write(parts[0])
        write(folder / "b.jsonl.gz", ROWS[20:30])
        with pytest.raises(InputError, match="changed"):
            judge.write(parts[1])
        reply = judge({"part": [json.dumps(dataclasses.asdict(parts[0]))]})["done"]
        assert json.loads(*reply)["error"].startswith("row 20: the line is not JSON")
    assert [path.name for path in out.rglob("*")] == ["_done"]


BANK = parse_policy(
    {"name": "bank", "categories": {"loan promises": {"definition": "Promises a loan."}}}
)


@pytest.fixture(scope="module")
def begun(bundle: bundles.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that asks everybody who can be asked."""
    folder = tmp_path_factory.mktemp("begun")
    return Job(
        "",
        str(folder / "x.jsonl"),
        BANK,
        bundle_path=bundle.path,
        tier="cascade",
        accurate_path=write_second(bundle, folder / "accurate").path,
        multilingual_path=write_second(bundle, folder / "multilingual").path,
        encoder_path=write_encoder(folder / "encoder"),
    )


def renamed(path: Path, copy: Path) -> Path:
    """The same bundle under another name, which makes it another one."""
    shutil.copytree(path, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"name": "another"}))
    return copy


@pytest.mark.parametrize(
    ("field", "pin"),
    [
        ("bundle_path", "model"),
        ("accurate_path", "second"),
        ("multilingual_path", "multilingual"),
        ("encoder_path", "policy_encoder"),
    ],
)
def test_a_worker_with_another_bundle_refuses(begun: Job, tmp_path: Path, field: str, pin: str):
    other = renamed(getattr(begun, field), tmp_path / "another")
    there = PartJudge(dataclasses.replace(begun, **{field: other}), "", begun.pins, None)
    with pytest.raises(JobError, match=rf"\({pin} is another@\w+, the job's {begun.pins[pin]}\)"):
        _ = there.judge


def test_a_worker_with_other_bands_refuses(begun: Job, tmp_path: Path):
    assert begun.accurate_path is not None
    folder = shutil.copytree(begun.accurate_path, tmp_path / "accurate")
    assert begun.second is not None
    prints = begun.bundle.fingerprint, begun.second.fingerprint
    write_bands(folder, *prints, {"toxicity": {"overall": [0.2, 0.9]}})
    there = PartJudge(dataclasses.replace(begun, accurate_path=folder), "", begun.pins, None)
    with pytest.raises(JobError, match=r"\(bands is \w+, the job's \w+\)"):
        _ = there.judge


def test_a_worker_with_the_same_bundles_judges(begun: Job):
    with PartJudge(dataclasses.replace(begun), "", begun.pins, None) as judge:
        assert judge.judge is judge.judge


def test_a_cluster_reads_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write(tmp_path / "in.jsonl", ROWS)
    assert moderate("--input", "-", "--output", tmp_path / "out.jsonl", "--ray") == 1
    assert moderate("--input", source, "--ray") == 1
    assert capsys.readouterr().err.count("files or folders that all workers see") == 2
    (tmp_path / "taken.jsonl").write_text("mine")
    assert moderate("--input", source, "--output", tmp_path / "taken.jsonl", "--ray") == 1
    assert "is a file; --ray writes a folder" in capsys.readouterr().err
    (tmp_path / "mine.jsonl").mkdir()
    (tmp_path / "mine.jsonl" / "part-000000.jsonl").write_text("mine")
    assert moderate("--input", source, "--output", tmp_path / "mine.jsonl", "--ray") == 1
    assert "--overwrite writes over its parts" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine.jsonl").iterdir()] == ["part-000000.jsonl"]


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_two_clusters_do_not_write_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
):
    source, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    out.mkdir()
    under_way = out / ".part-000000.jsonl.another-7.tmp"
    with (out / LOCK).open("ab") as stream:
        lock(stream, out)
        (out / "_job.json").write_text("{}")
        under_way.touch()
        assert moderate("--input", source, "--output", out, "--ray", *more) == 1
    assert "is being written by another process" in capsys.readouterr().err
    assert under_way.exists()


def ray_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tamis", "moderate", *map(str, arguments), "--ray"]


def on_ray(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A process of its own: Ray leaves threads and sockets behind."""
    return subprocess.run(
        ray_command(*arguments), capture_output=True, text=True, check=False, timeout=300
    )


def together(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.glob("part-*.jsonl")))


def test_two_workers_write_what_one_machine_does(tmp_path: Path):
    pytest.importorskip("ray")
    folder, whole, out = folder_of(tmp_path), tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert moderate("--input", folder, "--output", whole) == 2
    job: tuple[Any, ...] = ("--input", folder, "--output", out, "--part-rows", 8, "--workers", 2)
    done = on_ray(*job)
    assert done.returncode == 2, done.stderr
    assert "51 rows" in done.stderr
    assert "goose" not in done.stdout + done.stderr
    assert together(out) == whole.read_bytes()
    assert len(lines(out / "part-000000.jsonl")) == 8

    # What is missing is judged again, what is there is left alone.
    kept = (out / "part-000000.jsonl").stat().st_mtime_ns
    (out / "_done" / "part-000001.json").unlink()
    (out / "part-000002.jsonl").unlink()
    again = on_ray(*job)
    assert again.returncode == 2, again.stderr
    assert "5 of 7 parts are done" in again.stderr
    assert (out / "part-000000.jsonl").stat().st_mtime_ns == kept
    assert together(out) == whole.read_bytes()

    other = on_ray(*job, "--keep", "id")
    assert other.returncode == 1
    assert "keep was" in other.stderr
    fatal = on_ray(*job, "--on-error", "fail", "--overwrite")
    assert fatal.returncode == 1
    assert "tamis: row 20: the line is not JSON" in fatal.stderr


def test_an_interrupted_cluster_goes_on(tmp_path: Path):
    pytest.importorskip("ray")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    rows = [{"text": f"goose number {n}, {'honk ' * 200}"} for n in range(600)]
    source = write(tmp_path / "in.jsonl", rows)
    job: tuple[Any, ...] = ("--input", source, "--output", out, "--part-rows", 20, "--workers", 1)
    command = ray_command(*job)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any(out.glob("part-*.jsonl")))
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "goes on with the parts that are missing" in said
    assert 0 < len(list(out.glob("part-*.jsonl"))) < 30
    again = on_ray(*job)
    assert again.returncode == 0, again.stderr
    assert moderate("--input", source, "--output", whole) == 0
    assert together(out) == whole.read_bytes()
