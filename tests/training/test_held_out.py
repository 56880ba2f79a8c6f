from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tamis.content import Content
from tamis.policies.parsing import default_policy
from tamis.policy import Thresholds
from tamis.verdict import Finding, Provenance, Second
from tests.conftest import row, write_rows
from training.datasets import mixing
from training.evaluation import held_out, suite

OWN = {
    name: Thresholds(0.5, 0.9)
    for name in ("prompt", "response", "toxicity", "attack", "refusal", "severity")
}

OTHER = Second("multilingual", "0" * 64, OWN, "multilingual")


def judge_all(contents: Sequence[Content]) -> Iterator[Finding]:
    """Says what the text says of itself: ``bad``, ``mild``, ``no`` (a refusal)."""
    for content in contents:
        yield Finding(
            content.question,
            overall=0.8 if "bad" in content.text else 0.1,
            categories={},
            attack=None,
            windows=1,
            tokens=1,
            severity=0.7 if "mild" in content.text else 0.2,
            refusal=(0.6 if "no" in content.text else 0.1) if content.context else None,
            second=OTHER if "eine" in content.text else None,
        )


def test_what_another_bundle_judges_alone_is_not_asked_twice(tmp_path: Path):
    texts = [f"eine Frage {n}" for n in range(3)] + ["unsure"]
    rows = [row(n, "aart", "prompt", 0, text) for n, text in enumerate(texts)]
    write_rows(tmp_path / "asked.jsonl.gz", rows)

    def cascade(contents: Sequence[Content]) -> Iterator[Finding]:
        for content, found in zip(contents, judge_all(contents), strict=True):
            second = Second("accurate", "1" * 64, OWN) if content.text == "unsure" else found.second
            yield replace(found, second=second)

    who = Provenance("m", "f", "p", "v")
    found = [
        suite.evaluate(tmp_path, judge, default_policy(), OWN, who)
        for judge in (judge_all, cascade)
    ]
    assert [one.get("asked_twice") for one in found] == [None, {"asked": 0.25}]


def test_held_out_rows_are_told_by_subject_and_severity(tmp_path: Path):
    def written(
        n: int, text: str, severity: int, source: str = "", **more: object
    ) -> dict[str, object]:
        label = int(severity == 2)
        target = "response" if "response" in more else "prompt"
        source = source or f"written_{target}s"
        return row(n, source, target, label, text, severity=severity, attack=False, **more)

    rows = [written(n, f"a bad question {n}", 2) for n in range(40)]
    rows += [written(n, f"a mild question {n}", 1) for n in range(40, 80)]
    rows += [written(n, f"eine Frage {n}", 0, lang="de") for n in range(80, 180)]
    for n in range(180, 280):
        rows.append(written(n, f"{n}?", 0, response="no, thanks", stance="refuses"))
        rows.append(written(n + 100, f"{n}?", 0, response="with joy", stance="complies"))
    rows.append(row(1, "aart", "prompt", 1, "never read"))
    rows += [written(n, f"a bad contrast {n}", 2, source="tamis_contrasts") for n in range(99)]
    for n in range(300, 400):
        said = {"document": f"a {('calm', 'bad')[n % 2]} page {n}", "attack": bool(n % 2)}
        rows.append({"id": f"d-{n}", "source": "written_documents", "user": "what?", **said})
    write_rows(tmp_path / "rows.jsonl.gz", rows)

    held = held_out.rows_of([tmp_path])
    trained, _ = mixing.split(mixing.load([tmp_path], "permissive"))
    assert held
    assert not {r.id for r in held} & {r.id for r in trained}

    who = Provenance("m", "f", "p", "v")
    found = held_out.measure(held, judge_all, default_policy(), OWN, who)
    english, german = found["languages"]["en"], found["languages"]["de"]
    assert english["unsafe"]["flagged"] == english["unsafe"]["rows"] > 0
    assert german["safe"] == {"rows": german["safe"]["rows"], "flagged": 0}
    assert found["targets"]["prompt"]["borderline"]["flagged"] == 0
    assert found["severities"]["borderline"]["borderline"] > 0
    assert found["severities"]["unsafe"]["unsafe"] == english["unsafe"]["rows"]
    german = found["by_language"]["de"]["prompt"]
    assert german["safe"] == found["languages"]["de"]["safe"]
    assert german["multilingual"] == german["safe"]["rows"] > 0
    assert found["by_language"]["en"]["prompt"]["multilingual"] == 0
    assert set(found["by_language"]["en"]) == {"prompt", "response"}
    refusals = found["refusals"]
    assert (refusals["precision"], refusals["recall"], refusals["flagged"]) == (1.0, 1.0, 0)
    assert refusals["answers"] > refusals["refuse"] >= refusals["english"]["refuse"] > 0
    assert refusals["english"]["flagged"] == 0
    documents = found["documents"]
    assert documents["injected"]["flagged"] == documents["injected"]["rows"] > 0
    assert documents["clean"] == {"rows": documents["clean"]["rows"], "flagged": 0}
    assert documents["clean"]["rows"] > 0
    # Contrasts are near what was taught, and measure nothing.
    assert "tamis_contrasts" not in {r.source for r in held}
