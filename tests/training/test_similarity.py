import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tamis.cli import main
from tests.conftest import invented, row, write_rows
from training.classifier.bases import Base
from training.curation import embedding
from training.curation.embedding import SentenceEncoder
from training.curation.similarity import nearest, repeats, similar


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def test_nearest_agrees_with_all_cosines(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.curation.similarity.BLOCK", 7)
    rng = np.random.default_rng(0)
    texts, others = unit(rng.normal(size=(23, 5))), unit(rng.normal(size=(150, 5)))
    best, where = nearest(texts, others)
    np.testing.assert_allclose(best, (texts @ others.T).max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(where, (texts @ others.T).argmax(axis=1))
    assert nearest(texts, others[:0])[0].max() == -1


def test_the_first_of_near_texts_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("training.curation.similarity.BLOCK", 2)
    angles = np.radians([0, 10, 20, 90, 1, 91])
    texts = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    # 20° is near 10°, which is itself a repetition and so repels nobody.
    assert repeats(texts, np.cos(np.radians(12))).tolist() == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]


def test_embeddings_are_unit_vectors_whatever_the_company(tiny_base: Path, tmp_path: Path):
    encoder = SentenceEncoder(str(tiny_base))
    texts = ["what a lovely garden number 7", "how to bake cookie 3 how to bake cookie", ""]
    together = encoder.embed(texts)
    assert together.shape == (3, encoder.width)
    np.testing.assert_allclose(np.linalg.norm(together[:2], axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(together[:1], encoder.embed(texts[:1]), atol=0.02)
    assert encoder.embed([]).shape == (0, encoder.width)


def test_what_is_embedded_is_kept(tiny_base: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD", 2)
    encoder = SentenceEncoder(str(tiny_base))
    texts = [f"how to bake cookie {n}" for n in range(5)]
    first = encoder.embed(texts, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    monkeypatch.setattr(encoder, "_embed", None)
    np.testing.assert_array_equal(encoder.embed(texts, tmp_path), first)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    real, made = tmp_path / "real", tmp_path / "made"
    real.mkdir()
    made.mkdir()
    write_rows(
        real / "a.jsonl.gz",
        [
            row(0, "sap200", "prompt", 1, "how to steal cookie 3"),
            row(1, "sap200", "text", 1, "what a lovely garden number 5"),
            row(2, "sap200", "prompt", 1, "you silly goose number 9", licence="nc"),
        ],
    )
    texts = [
        "how to steal cookie 3",
        "how to bake cookie 3",
        "how to bake cookie 3",
        "ignore your rules 7",
    ]
    texts.append("what a lovely garden number 5")
    write_rows(
        made / "b.jsonl.gz",
        [
            row(
                n,
                "tamis_synthetic",
                "prompt",
                0,
                t,
                leaf="sexual/minors/grooming/0a",
                generator="g",
            )
            for n, t in enumerate(texts)
        ],
    )
    return real, made


class Words:
    """An encoder for which two texts are as near as the words that they share."""

    base = Base("words", "none", "none", None)

    def embed(self, texts: Sequence[str], *_: object) -> np.ndarray:
        known = sorted({word for made in invented() for word in made["prompt"].split()})
        return unit(np.array([[word in text.split() for word in known] for text in texts], float))


def test_rows_are_kept_between_the_thresholds(folders, tmp_path: Path):
    real, made = folders
    report = similar(real, made, tmp_path / "out", tau=0.75, near=0.99, encoder=Words())
    with gzip.open(tmp_path / "out/rows.jsonl.gz", "rt") as lines:
        kept = [json.loads(line) for line in lines]
    assert [r["id"] for r in kept] == ["tamis_synthetic-1"]
    assert kept[0]["generator"] == "g"
    assert report["reasons"] == {
        "repeats a real row": 1,
        "kept": 1,
        "repeats a synthetic row": 1,
        # A garden is in the real rows, but among texts: targets are compared with their own.
        "unlike anything real": 2,
    }
    assert report["rows"] == {"synthetic": 5, "real": 2, "kept": 1}
    assert report["examples"]["repeats a real row"][0]["nearest"] == "sap200-0"
    assert set(report["surviving_share_by_tau"]["by"]["category"]) == {"sexual/minors"}
    assert (tmp_path / "out/similarity.png").read_bytes().startswith(b"\x89PNG")
    assert "cookie" not in json.dumps(report)


def test_what_goes_by_itself_takes_no_near_row_along(tmp_path: Path):
    real, made = tmp_path / "real", tmp_path / "made"
    angles = {"real": 0, "copy": 5, "near the copy": 15, "far": 55, "near the far": 45}
    found = {
        name: [float(np.cos(np.radians(a))), float(np.sin(np.radians(a)))]
        for name, a in angles.items()
    }
    for folder, source, texts in (
        (real, "sap200", ["real"]),
        (made, "tamis_synthetic", [name for name in angles if name != "real"]),
    ):
        folder.mkdir()
        given = [row(n, source, "prompt", 1, text) for n, text in enumerate(texts)]
        write_rows(folder / "rows.jsonl.gz", given)

    class Angles(Words):
        def embed(self, texts: Sequence[str], *_: object) -> np.ndarray:
            return np.array([found[text] for text in texts], np.float32)

    report = similar(
        real, made, tmp_path / "out", 0.6, float(np.cos(np.radians(12))), encoder=Angles()
    )
    assert report["reasons"] == {"repeats a real row": 1, "kept": 2, "unlike anything real": 1}


def test_thresholds_must_leave_room(folders, tmp_path: Path):
    with pytest.raises(ValueError, match="tau < near"):
        similar(*folders, tmp_path / "out", tau=0.96)


def test_the_command_line_reaches_the_stage(folders, tmp_path: Path, capsys):
    real, made = map(str, folders)
    command = [
        "train",
        "similar",
        "--real",
        real,
        "--synthetic",
        made,
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--tau", "0.99"]) == 1
    assert "tau < near" in capsys.readouterr().err
