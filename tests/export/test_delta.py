"""A bundle as its difference from a base: exact, whatever the quantiser did on its way."""

import json
from pathlib import Path

import numpy as np
import pytest

from export import delta
from export.delta import PAYLOAD, decoded, encode, read_index
from export.rounding import nearest
from export.tracing import Recipe, copies, trace, verbatim
from tamis.bundle import BundleError, sha256_of

RNG = np.random.default_rng(0)


def matrix(rows: int, columns: int) -> np.ndarray:
    return RNG.normal(0, 0.04, (rows, columns)).astype(np.float32)


@pytest.fixture(scope="module")
def base() -> dict[str, np.ndarray]:
    """Linear layers (out, in) and a table."""
    shapes = {f"layer.{n}.{part}": (128, 128) for n in range(3) for part in "qkvo"}
    shapes |= {f"layer.{n}.up": (512, 128) for n in range(3)}
    shapes |= {f"layer.{n}.down": (128, 512) for n in range(3)} | {"words": (2000, 128)}
    return {name: matrix(*shape) for name, shape in shapes.items()} | {"bias": RNG.normal(size=9)}


def tuned(weight: np.ndarray) -> np.ndarray:
    return weight + RNG.normal(0, 4e-4, weight.shape).astype(np.float32)


def smoothed(weight: np.ndarray) -> np.ndarray:
    return weight * np.exp(RNG.normal(0, 0.5, (len(weight), 1))).astype(np.float32)


def test_merged_layers_are_found_side_by_side(base):
    ours = np.concatenate([tuned(base[f"layer.1.{p}"].T) for p in "qkv"], axis=1)
    rescaled = smoothed(ours)
    rescaled[[3, 60]] = 0  # channels taken aside
    found = trace(nearest(rescaled)[0], base, "file", 7)
    assert found == Recipe(
        *("file", 7, (128, 384), ("layer.1.q", "layer.1.k", "layer.1.v"), True, (), ())
    )


@pytest.mark.parametrize("lost", [(), (0, 5, 6, 300, 511)])
def test_what_was_taken_out_of_a_matrix_is_found(base, lost: tuple[int, ...]):
    kept = np.setdiff1d(np.arange(512), lost)
    up = smoothed(tuned(base["layer.2.up"].T))[:, kept]
    found = trace(nearest(up)[0], base, "file", 0)
    assert found is not None
    assert (found.tensors, found.rows, found.columns) == (("layer.2.up",), (), lost)
    down = tuned(base["layer.0.down"].T)[kept]
    found = trace(nearest(down)[0], base, "file", 0)
    assert found is not None
    assert (found.tensors, found.rows, found.columns) == (("layer.0.down",), lost, ())


@pytest.mark.parametrize("lost", [(), (0, 5, 300)])
def test_what_a_restored_body_has_at_its_end_is_found(base, lost: tuple[int, ...]):
    # Those that one quantiser took aside come last, and the next one takes others.
    last = (7, 2, 411)
    order = [n for n in range(512) if n not in (*lost, *last)] + [*last]
    up = smoothed(tuned(base["layer.2.up"].T))[:, order]
    found = trace(nearest(up)[0], base, "file", 0)
    assert found is not None
    assert (found.tensors, found.columns, found.last_columns) == (("layer.2.up",), lost, last)
    assert np.array_equal(found.of(base), base["layer.2.up"].T[:, order])
    down = tuned(base["layer.0.down"].T)[order]
    found = trace(nearest(down)[0], base, "file", 0)
    assert found is not None
    assert (found.tensors, found.rows, found.last_rows) == (("layer.0.down",), lost, last)
    assert np.array_equal(found.of(base), base["layer.0.down"].T[order])


def test_what_nobody_touched_is_said_by_its_name(base):
    files = {"one": b"before", "two": b"before" + verbatim(base["words"]) + b"behind"}
    assert [*copies(files, base)] == [("two", 6, "words", base["words"].nbytes)]


def test_a_table_is_found_as_it_lies_and_a_stranger_is_not(base):
    packed, _ = nearest(base["words"].T)
    found = trace(np.ascontiguousarray(packed.T), base, "file", 0)
    assert found is not None
    assert (found.tensors, found.transposed) == (("words",), False)
    assert trace(nearest(matrix(128, 128))[0], base, "file", 0) is None
    # Far from every base, though it began as one.
    assert trace(nearest(base["layer.0.q"].T + 2 * matrix(128, 128))[0], base, "file", 0) is None


@pytest.mark.parametrize("moved", [0.0, 4e-4, 4e-3, 2e-2])
def test_codes_come_back_exactly_and_small(base, moved: float):
    weight = base["layer.0.up"].T
    noise = RNG.normal(0, 1, weight.shape).astype(np.float32)
    codes, step = nearest(smoothed(weight + moved * noise))
    codes[0, :8] = [-127, 127] * 4  # as far as can be
    recipe = trace(codes, base, "file", 0)
    assert recipe is not None
    blobs = delta._difference(codes, recipe.of(base))
    back = np.concatenate(list(delta._codes(recipe, base, blobs)))
    assert np.array_equal(back.reshape(codes.shape), codes)
    # What the factors leave of weights that did not move is their own rounding.
    bits = 8 * sum(map(len, blobs[2:])) / codes.size
    assert bits < {0.0: 0.3, 4e-4: 1.2, 4e-3: 4.0, 2e-2: 7.0}[moved]
    assert step.shape == (512,)


def test_differences_of_every_size_come_back():
    wanted = np.array([*range(-254, 255), 0, 0, -1], np.int16)
    planes = [plane.tobytes() for plane in delta._planes(wanted)]
    assert np.array_equal(delta._differences(len(wanted), planes), wanted)


def test_blocks_make_no_difference_to_the_codes(base, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(delta, "BLOCK", 512 * 5 + 3)
    test_codes_come_back_exactly_and_small(base, 4e-4)


@pytest.fixture(scope="module")
def encoded(bundle, tmp_path_factory: pytest.TempPathFactory):
    """The shipped bundle's delta from a base that its own codes were turned into."""
    import onnx
    from onnx import numpy_helper

    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(bundle.path / bundle.graph.name).graph.initializer
    }
    base = {
        name.removesuffix("_int8"): tuned(value.astype(np.float32) / 100)
        for name, value in tensors.items()
        if value.dtype == np.int8
    }
    # Places are as the base has them.
    base |= {n: v for n, v in tensors.items() if n.endswith("position_embeddings.weight")}
    out = tmp_path_factory.mktemp("delta")
    size = encode(bundle.path, base, {"name": "invented", "sha256": None}, out)
    return base, out, size


def test_a_bundle_comes_back_byte_by_byte(bundle, encoded):
    base, out, size = encoded
    for name, digest in bundle.manifest["files"].items():
        (out / "back").write_bytes(decoded(out, base, name))
        assert sha256_of(out / "back") == digest
        (out / "back").unlink()
    whole = sum((bundle.path / name).stat().st_size for name in bundle.manifest["files"])
    assert size < whole / 4
    index = read_index(out)
    assert index["fingerprint"] == bundle.fingerprint
    assert len(index["recipes"]) == 25  # four products a layer, and the table
    (copy,) = index["copies"]
    assert copy["tensor"].endswith("position_embeddings.weight")


def test_nothing_of_an_earlier_bundle_stays_beside_a_delta(tmp_path: Path):
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    for folder, names in ((bundle, ["manifest.json"]), (out, ["perspective.json", "other.txt"])):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
    delta._put_beside(bundle, out)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "other.txt"]


def test_a_delta_that_was_changed_is_refused(encoded, tmp_path: Path):
    _, out, _ = encoded
    with pytest.raises(BundleError, match="no delta at"):
        read_index(tmp_path)
    for path in out.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    blob = bytearray((tmp_path / PAYLOAD).read_bytes())
    blob[1000] ^= 1
    (tmp_path / PAYLOAD).write_bytes(blob)
    with pytest.raises(BundleError, match="sha256 is"):
        read_index(tmp_path)
    index = json.loads((out / "delta.json").read_text())
    (tmp_path / "delta.json").write_text(json.dumps(index | {"format": "tamis.delta/0"}))
    with pytest.raises(BundleError, match="this release reads"):
        read_index(tmp_path)


@pytest.mark.parametrize("name", ["../../../x.txt", "/tmp/x.txt", "a/b", "..", ""])
def test_a_delta_says_nothing_of_other_folders(encoded, tmp_path: Path, name: str):
    _, out, _ = encoded
    (tmp_path / PAYLOAD).write_bytes((out / PAYLOAD).read_bytes())
    index = json.loads((out / "delta.json").read_text())
    index["files"][0]["name"] = name
    (tmp_path / "delta.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match=f"{name!r} is not a file of its own folder"):
        read_index(tmp_path)
