"""The page on languages: what is counted, and what is shown of it."""

from pathlib import Path

from tests.conftest import row, write_rows
from training.evaluation import languages

ENGLISH = "The lentils were soft after half an hour. We ate them with bread and butter."
GERMAN = "Die Linsen waren nach einer halben Stunde weich, und wir haben sie mit Brot gegessen."


def test_who_reads_what(tmp_path: Path):
    annotated, train = tmp_path / "annotated", tmp_path / "train"
    annotated.mkdir()
    train.mkdir()
    rows = [row(n, "written_texts", "text", 0, f"{GERMAN} {n}", lang="de") for n in range(3)]
    rows += [row(n, "written_texts", "text", 0, f"{ENGLISH} {n}") for n in range(3, 5)]
    # Nobody knows in which language rows are that were only labelled anew.
    rows.append(row(5, "aart_annotated", "prompt", 0, GERMAN))
    write_rows(annotated / "rows.jsonl.gz", rows)
    rows = [row(n, "aart", "prompt", 0, f"{ENGLISH} " * 7 + f"{n}.") for n in range(2)]
    rows.append(row(2, "aart", "prompt", 1, GERMAN))
    rows.append(row(3, "writingbench", "prompt", 0, GERMAN))
    write_rows(train / "rows.jsonl.gz", rows)
    text = languages.routing(annotated, train)
    assert "| de | 3 | 3 (100.0%) | 0 (0.0%) | 0 (0.0%) |" in text
    assert "| written_texts | 2 | 0 (0.0%) | 0 (0.0%) | 2 (100.0%) |" in text
    assert "| train, safe: prompt | 2 | 0 (0.0%) | 0 (0.0%) | 2 (100.0%) |" in text
    # The sentence behind English prose.
    assert "| de | 3 | 0 (0.0%) | 3 (100.0%) | 0 (0.0%) |" in text
    assert " µs for an English text" in text


def test_how_well_they_are_judged():
    def levels(unsafe: tuple[int, int], safe: tuple[int, int], others: int) -> dict[str, object]:
        cells = {"safe": safe, "borderline": (0, 1), "unsafe": unsafe}
        told = {k: {"flagged": flagged, "rows": rows} for k, (flagged, rows) in cells.items()}
        return told | {"multilingual": others}

    with_it = {"by_language": {"de": {"prompt": levels((3, 4), (1, 10), 15)}}}
    without = {"by_language": {"de": {"prompt": levels((0, 0), (0, 0), 0)}}}
    text = languages.judged({"fast": with_it, "alone": without})
    assert "| de | prompt | 0.75 (3/4) | 0.10 (1/10) | 100% | – | – | 0% |" in text
