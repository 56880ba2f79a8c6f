"""A policy's own rules where no service is asked: files, commands, the audit log."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.bulk.job import Job
from service.engine.cache import RULE_BYTES, Cache
from service.observing.audit.replay import replay
from service.settings import Settings
from tamis.cli import common, main
from tamis.cli.common import load_classifier
from tamis.content import prompt
from tamis.policies.parsing import parse_policy
from tamis.rules import hints_of
from tamis.verdict import Finding, Ruled, Second
from tests.encoders import BY_VERDICT, write_encoder
from tests.service.observed import lines_of, post, running
from tests.service.test_rules import BANK, BUY, RULES
from tests.service.tiers import GOOSE

CALM = "What a lovely garden."
ITEMS: list[Any] = [BUY, CALM, "", {"prompt": CALM, "response": BUY}, {"document": BUY}]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_encoder(tmp_path / "encoder")
    monkeypatch.setenv("TAMIS_POLICY_ENCODER", str(folder))
    return folder


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.yaml"
    path.write_text(yaml.safe_dump(BANK))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in (BUY, CALM, BUY)))
    return path


def test_a_file_is_judged_by_the_rules_of_a_policy(encoder, bank, rows, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = ["moderate", "--input", str(rows), "--policy", str(bank), "--quiet"]
    assert main([*command, "--output", str(out)]) == 0
    found = lines_of(out)
    assert [one["action"] for one in found] == ["flag", "allow", "flag"]
    assert found[0]["categories"]["investment advice"]["score"] == 0.7311
    assert found[0]["policy_encoder"].startswith("tiny-encoder@")
    # Another encoder is another job.
    write_encoder(encoder, "another")
    assert main([*command, "--output", str(out)]) == 1
    assert "policy_encoder" in capsys.readouterr().err


def test_a_table_has_a_column_for_each_rule(encoder, bank, rows, tmp_path):
    table = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    command = ["moderate", "--input", str(rows), "--policy", str(bank), "--quiet"]
    assert main([*command, "--output", str(out)]) == 0
    found = table.read_table(out).to_pylist()
    assert found[0]["categories"]["investment advice"]["flagged"] is True
    assert found[1]["categories"]["loan promises"]["flagged"] is False
    assert found[0]["policy_encoder"].startswith("tiny-encoder@")


def test_one_text_on_the_command_line(encoder, bank, capsys, monkeypatch):
    assert main(["moderate", BUY, "--policy", str(bank), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["action"] == "flag"
    assert said["categories"]["investment advice"]["flagged"] is True
    monkeypatch.setenv("TAMIS_POLICY_ENCODER", "")
    assert main(["moderate", BUY, "--policy", str(bank)]) == 1
    assert "without the policy encoder's bundle" in capsys.readouterr().err


def test_a_job_without_rules_needs_no_encoder(tmp_path):
    job = Job("", str(tmp_path / "x.jsonl"), parse_policy({"name": "p", "overall": {}}))
    assert job.encoder is None


@pytest.fixture
def log(settings: Settings, encoder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    audited = {"audit": str(path), "policy_encoder": encoder}
    with running(Settings(**settings.model_dump() | audited)) as client:
        post(client, input=ITEMS, policy=BANK)
        post(client, input=ITEMS)
    return path


def test_the_audit_log_holds_what_rules_said_and_is_replayed(log: Path):
    kinds = [line["type"] for line in lines_of(log)]
    assert kinds[:3] == ["model", "model", "policy"]
    verdicts = [line for line in lines_of(log) if line["type"] == "verdict"]
    assert verdicts[0]["flagged"] == ["investment advice"]
    assert verdicts[0]["contents"][0]["rules"]["scores"]["investment advice"] == pytest.approx(
        0.7311, abs=1e-4
    )
    assert "rules" not in verdicts[4]["contents"][0]  # a document
    assert "rules" not in verdicts[5]["contents"][0]  # the default policy
    report = replay([str(log)])
    assert (report.same, report.different) == (10, 0)


def test_with_texts_rules_are_judged_again(log: Path, encoder: Path, tmp_path: Path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in (BUY, CALM)))
    command = ["audit", "replay", str(log), "--texts", str(texts)]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == "10 verdicts: 10 same, 0 different"
    lines = lines_of(log)
    next(line for line in lines if line["type"] == "verdict")["contents"][0]["rules"]["scores"][
        "investment advice"
    ] = 0.9
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(command) == 1
    assert "contents[0].rules" in capsys.readouterr().out
    # Other weights are another thing.
    write_encoder(encoder, "another")
    assert main(command) == 1
    assert "refused: judged by bundle" in capsys.readouterr().out


def hinted(settings: Settings, tmp_path: Path, **more: Any) -> Settings:
    encoder = write_encoder(tmp_path / "hinted", "hinted", hints=True)
    return Settings(**settings.model_dump() | {"policy_encoder": encoder} | more)


BY_WORD = {"name": "by-word", "categories": BY_VERDICT}


def test_an_encoder_that_reads_hints_hears_the_classifier(
    bundle, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    classifier = load_classifier(bundle.path)
    given = hinted(settings, tmp_path)
    monkeypatch.setenv("TAMIS_POLICY_ENCODER", str(given.policy_encoder))
    with_rules = common.with_rules(classifier, parse_policy(BY_WORD))
    heard = set()
    with running(given) as client:
        for text in (BUY, CALM, "you are awful", GOOSE):
            verdict = hints_of(classifier.judge(prompt(text)))[0]
            heard.add(verdict)
            # Twice in the rule, once before the text; what is unsafe breaks any rule more likely.
            likely, unlikely = (0.8808, 0.1192) if verdict == "unsafe" else (0.7311, 0.0474)
            expected = {
                name: likely if said["definition"] == verdict else unlikely
                for name, said in BY_VERDICT.items()
            }
            (one,) = post(client, input=[{"prompt": text}], policy=BY_WORD)["results"]
            assert {n: one["categories"][n]["score"] for n in BY_VERDICT} == expected
            found = with_rules.judge(prompt(text)).ruled
            assert found is not None
            assert {r.name: round(p, 4) for r, p in found.scores.items()} == expected
            asked = {"type": "predicate", "instructions": f"{verdict} {verdict}"}
            body = {"model": "any", "input": text, "questions": [asked]}
            (answer,) = client.post("/v1/decisions", json=body).json()["answers"]
            assert answer["probability"] == pytest.approx(likely, abs=1e-3)
    assert {"safe", "unsafe"} <= heard


def test_the_size_of_what_is_remembered_with_rules():
    who = Second("m", "b", {}, "rules")

    def finding(n: int) -> Finding:
        scores = {rule: n + k / 7 for k, rule in enumerate(RULES * 1)}
        return Finding("prompt", n / 3, {}, None, 1, 1, ruled=Ruled(who, scores))

    def grown(with_rules: bool) -> float:
        cache = Cache(1 << 30)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(1_000):
            bare = Finding("prompt", n / 3, {}, None, 1, 1)
            key = cache.key(prompt(str(n)), False)
            cache.put(key, finding(n) if with_rules else bare)
        return (tracemalloc.get_traced_memory()[0] - before) / 1_000

    tracemalloc.start()
    more = grown(True) - grown(False)
    tracemalloc.stop()
    assert more == pytest.approx(RULE_BYTES * len(RULES), rel=0.5)
