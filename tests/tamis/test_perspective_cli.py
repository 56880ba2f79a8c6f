"""``tamis perspective compare``: tables as people keep them, and answers that are another's."""

import http.client
import io
import json
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tamis.cli import main

ANSWER = {"attributeScores": {"TOXICITY": {"summaryScore": {"value": 0.25}}}}
LONG = "The geese were asleep. " * 8_000


def compare(path: Path) -> int:
    return main(["perspective", "compare", str(path)])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that a service was asked about."""
    texts: list[str] = []

    def answer(request: urllib.request.Request, **_: Any) -> io.BytesIO:
        assert isinstance(request.data, bytes)
        texts.append(json.loads(request.data)["comment"]["text"])
        return io.BytesIO(json.dumps(ANSWER).encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return texts


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_of_spreadsheets_and_long_texts_are_read(
    tmp_path: Path, asked: list[str], mark: str
):
    table = tmp_path / "kept.csv"
    quoted = 'text,toxicity\r\n"two\nlines, one text",0.5\r\n'
    table.write_text(f"{mark}{quoted}{LONG},0.25\r\n", encoding="utf-8", newline="")
    assert compare(table) == 0
    lines = tmp_path / "kept.jsonl"
    rows = [{"text": text, "scores": {"TOXICITY": 0.5}} for text in asked]
    lines.write_text(mark + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert compare(lines) == 0
    assert asked == ["two\nlines, one text", LONG] * 2


def test_blank_lines_are_no_rows(tmp_path: Path, asked: list[str]):
    lines = tmp_path / "kept.jsonl"
    rows = [{"text": text, "scores": {"TOXICITY": 0.5}} for text in ("a pond", "a garden")]
    lines.write_text("\n\n \n".join(map(json.dumps, rows)) + "\n\n")
    assert compare(lines) == 0
    assert asked == ["a pond", "a garden"]


@pytest.mark.parametrize(
    "row",
    [
        '{"text": null, "scores": {"TOXICITY": 0.5}}',
        '{"text": "a quiet garden", "scores": {"TOXICITY": "a quiet pond"}}',
        '{"text": "a quiet garden", "scores": {"TOXICITY": NaN}}',
        '{"text": "a quiet garden", "toxicity": "inf"}',
        f'{{"text": "a quiet garden", "toxicity": {10**400}}}',
        '"a quiet garden"',
        '{"text": "a quiet garden"',
    ],
)
def test_a_row_at_fault_is_numbered_and_not_quoted(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str], row: str
):
    path = tmp_path / "kept.jsonl"
    path.write_text(json.dumps({"text": "fine", "scores": {"TOXICITY": 1}}) + f"\n{row}\n")
    assert compare(path) == 1
    said = capsys.readouterr().err
    assert said.startswith("tamis: kept.jsonl: row 2: ")
    assert "quiet" not in said


def test_texts_without_anything_to_judge_are_counted_and_refused_ones_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "kept.jsonl"
    texts = ("a pond", " ", "\u200b", "a garden")
    rows = [{"text": text, "scores": {"TOXICITY": 0.5}} for text in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    kinds = {"\u200b": "COMMENT_EMPTY"}

    def answer(request: urllib.request.Request, **_: Any) -> io.BytesIO:
        assert isinstance(request.data, bytes)
        if kind := kinds.get(json.loads(request.data)["comment"]["text"]):
            said = {"error": {"message": "Refused.", "details": [{"errorType": kind}]}}
            raise urllib.error.HTTPError(
                "", 400, "", Message(), io.BytesIO(json.dumps(said).encode())
            )
        return io.BytesIO(json.dumps(ANSWER).encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert compare(path) == 0
    assert capsys.readouterr().out.endswith("\nrows with nothing to judge: 2\n")
    kinds["a garden"] = "COMMENT_TOO_LONG"
    assert compare(path) == 1
    assert (
        "kept.jsonl: row 4: http://localhost:8000 answers 400: Refused." in capsys.readouterr().err
    )


class Torn(io.BytesIO):
    """What is read where a connection is closed in the middle."""

    def read(self, *_: Any) -> bytes:
        raise http.client.IncompleteRead(b"{")


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b'{"attributeScores": {"TOXICITY": 1}}',
        b'{"attributeScores": {"TOXICITY": {"summaryScore": {"value": NaN}}}}',
    ],
)
def test_who_is_not_asked_as_perspective_is_said_to_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer
):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"text": "fine", "scores": {"TOXICITY": 1}}\n')
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(answer))
    assert compare(path) == 1
    assert "does not answer as Perspective does" in capsys.readouterr().err

    for page in (io.BytesIO(answer), Torn()):

        def refuse(*_: Any, page: io.BytesIO = page, **__: Any) -> None:
            raise urllib.error.HTTPError("", 502, "Bad Gateway", Message(), page)

        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        assert compare(path) == 1
        assert "answers 502: Bad Gateway" in capsys.readouterr().err
