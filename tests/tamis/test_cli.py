import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tamis.cli import main
from tamis.cli.common import multilingual_of
from tests.conftest import row, write_rows


def test_moderate_prints_a_readable_verdict(capsys, bundle):
    assert (
        main(
            [
                "moderate",
                "Tell my sister she is a worthless, ugly idiot.",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert out.startswith(("FLAG", "BLOCK"))
    assert "toxicity" in out
    assert "1 window" in out


def test_moderate_prints_json_and_reads_standard_input(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello there"))
    assert main(["moderate", "-", "--response", "hello!", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["action"], verdict["windows"]) == ("allow", 2)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf8"])
def test_a_verdict_is_printed_in_any_encoding(monkeypatch, graded_bundle, encoding):
    word = "ｓｔｅａｌ"  # Letters that are read, and of few encodings.
    command = ["moderate", f"how to {word} cookie 5", "--bundle", str(graded_bundle.path)]
    for option, wanted in ((), b"BLOCK"), (("--json",), b"{"):
        out = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding=encoding))
        assert main([*command, *option]) == 0
        said = out.getvalue()
        assert said.startswith(wanted)
        assert (b"\xe2\x96\x88" in said) == (encoding == "utf8" and not option)
    assert json.loads(said.decode(encoding))["evidence"][0]["text"] == word


def test_moderate_judges_one_side_alone(capsys, graded_bundle):
    steal, declined = "how to steal cookie 5", "sorry I can not help with cookie 5"
    command = ["moderate", steal, "--bundle", str(graded_bundle.path), "--response", declined]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("BLOCK  unsafe, unsafe ")
    assert "allow, safe, declines" in said
    assert main([*command, "--judge", "response"]) == 0
    assert capsys.readouterr().out.startswith("ALLOW  safe, unsafe ")
    assert main([*command[:-2], "--judge", "response"]) == 1
    assert "has no response to judge; give it with --response" in capsys.readouterr().err


def test_a_policy_that_only_scores_does_not_act(capsys, tmp_path: Path, graded_bundle):
    policy = tmp_path / "watch.yaml"
    policy.write_text("name: watch\nmode: score\noverall: {}\n")
    steal = ["moderate", "how to steal cookie 5", "--bundle", str(graded_bundle.path)]
    command = [*steal, "--response", "take cookie 5 at night", "--policy", str(policy)]
    assert main([*command, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert (verdict["action"], verdict["withheld"], verdict["flagged"]) == ("allow", "block", False)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("BLOCK withheld  unsafe, unsafe ")
    assert "  block withheld, unsafe" in said


def test_an_interrupt_ends_a_command_quietly(capsys, monkeypatch):
    class Keyboard:
        def read(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Keyboard())
    assert main(["moderate", "-"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("given", ["", "off"])
def test_no_bundle_for_other_languages(given):
    assert multilingual_of(given) is None


def test_faults_are_one_line(capsys, tmp_path: Path):
    assert main(["moderate", "x", "--bundle", str(tmp_path)]) == 1
    assert "no bundle at" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(tmp_path)]) == 1
    assert "no *.jsonl.gz file" in capsys.readouterr().err


@pytest.mark.parametrize("texts", [["caf\udce9"], ["hello", "--response", "caf\udce9"]])
def test_an_argument_that_is_not_utf_8_is_refused(capsys, texts):
    assert main(["moderate", *texts]) == 1
    assert capsys.readouterr().err == "tamis: moderate: the text is not UTF-8\n"


@pytest.mark.parametrize("more", [[], ["--ray", "--output", "judged"]])
def test_an_input_without_a_name_is_not_the_folder(capsys, tmp_path: Path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('"a calm garden"\n')
    assert main(["moderate", "--input", "", *more]) == 1
    assert capsys.readouterr().err.startswith("tamis: --input: must name a file or a folder")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("lines", [1, 3_000])
def test_a_reader_who_has_had_enough_is_no_fault(tmp_path: Path, lines):
    said = {"time": "2026-01-01", "question": "prompt", "text": "a calm garden", "label": "safe"}
    store = tmp_path / "rows.jsonl"
    store.write_text((json.dumps(said) + "\n") * lines)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tamis", "feedback", "list", "--store", str(store)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_key_meant_for_a_closed_stream_does_not_land_in_the_file_of_keys():
    shell = ["sh", "-c", 'exec "$0" -m tamis keys new shop 2>&-', sys.executable]
    entry = subprocess.run(shell, stdout=subprocess.PIPE, check=True).stdout.decode()
    assert "name: shop" in entry
    assert "shown this once" not in entry
    # What is opened next has another number than the stream's.
    code = "import sys; from tamis import cli; cli._open_closed(); print(sys.stderr.fileno())"
    shell = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    assert subprocess.run(shell, stdout=subprocess.PIPE, check=True).stdout == b"2\n"


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: whole[:10] + b"\x07"])
def test_a_damaged_file_is_a_fault_of_one_line(capsys, tmp_path: Path, damage):
    store = tmp_path / "rows.jsonl.gz"
    store.write_bytes(damage(gzip.compress(b"{}")))
    assert main(["feedback", "list", "--store", str(store)]) == 1
    assert capsys.readouterr().err.startswith("tamis: ")


def test_evaluate_writes_the_figures(capsys, tmp_path: Path, bundle):
    garden = [row(n, "x", "text", 0, f"a lovely garden {n}") for n in range(6)]
    goose = [row(n, "x", "text", 1, f"you stupid goose {n}") for n in range(4)]
    write_rows(tmp_path / "mixed.jsonl.gz", garden + goose)
    write_rows(tmp_path / "safe.jsonl.gz", garden)
    out = tmp_path / "out.json"
    scores = tmp_path / "scores.jsonl"
    asked = ["--json", str(out), "--scores", str(scores)]
    assert main(["evaluate", "--data", str(tmp_path), *asked]) == 0
    results = json.loads(out.read_text())
    told = [json.loads(line) for line in scores.read_text().splitlines()]
    assert len(told) == 16
    assert set(told[0]) == {"set", "id", "label", "score", "flagged"}
    assert results["bundle"] == bundle.fingerprint
    mixed, safe = results["sets"]["mixed"], results["sets"]["safe"]
    assert (mixed["n"], mixed["positives"], mixed["floor_f1"]) == (10, 4, 0.5714)
    assert mixed["auroc"] == 1.0
    assert safe["f1"] is safe["auprc"] is safe["recall"] is None
    assert safe["fpr"] == 0.0
    assert "mixed" in capsys.readouterr().out


def test_a_row_outside_the_schema_is_named(capsys, tmp_path: Path):
    write_rows(tmp_path / "bad.jsonl.gz", [row(0, "x", "prompt", 2, "secret words")])
    assert main(["evaluate", "--data", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "bad.jsonl.gz line 1: field 'label'" in message
    assert "secret" not in message


def test_policies_that_the_reasoner_alone_judges_are_refused(capsys, tmp_path: Path):
    policy = tmp_path / "bank.yaml"
    policy.write_text("name: bank\ncategories: {loan promises: {definition: Promises a loan.}}\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "hello"}\n')
    for command in (
        ["moderate", "hello"],
        ["moderate", "--input", str(rows)],
        ["evaluate", "--data", str(tmp_path)],
    ):
        assert main([*command, "--policy", str(policy)]) == 1
        said = capsys.readouterr()
        assert "bank.yaml: category 'loan promises'" in said.err
        assert not said.out
