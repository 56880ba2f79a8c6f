"""A bundle as its difference from the public base it was trained from: exact, and small.

Fine-tuning moves most weights by less than one int8 step. So an int8 matrix is predicted from the
base's own weights, and what is kept is how far each code is from its prediction: nearly always by
nothing or by one. Weights that the prediction leaves halfway between two codes are off most often;
in the order of their place between two codes, the differences lie in runs that a common compressor
takes at about the entropy of their distribution (``docs/lab-log.md``).

Whatever the quantiser did to a matrix on its way (smoothing, merging, channels taken aside), what
is left of the base is a rank-one rescaling of it: code ≈ row factor × base weight × column factor.
The factors are fitted here, where only a good guess is wanted, and written down, so that nothing
of the quantiser is needed to undo them. Bytes that are no such codes are kept as they are.

Decoding multiplies, rounds and sorts; it adds nothing up, so every machine gets the same bytes,
and it takes numpy alone.
"""

import json
import lzma
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.kinds import load
from tamis import perspective
from tamis.bundle import MANIFEST, BundleError, sha256_of, understanding

FORMAT: Final = "tamis.delta/1"
INDEX: Final = "delta.json"
PAYLOAD: Final = "delta.bin"
CARD: Final = "README.md"
# What a bundle holds as it is: small, and no part of the graph.
BESIDE: Final = (MANIFEST, CARD, perspective.FILE)
# Matrices below are not worth a recipe.
SMALLEST: Final = 1 << 12
# At most so many rows or columns of a base's matrix may be missing from ours.
SKIPPED: Final = 64
# A prediction explains this much of a matrix, or is none.
LIKENESS: Final = 0.8
ROUNDS: Final = 8
BINS: Final = 64
# Weights of one order; bounds the memory of decoding.
BLOCK: Final = 1 << 20
# A difference d is counted as 0, 1, 2, 3, 4 for 0, -1, 1, -2, 2, and so on, and split among planes:
# two bits, of which the last value means "more"; four bits of what is more, likewise; the rest.
LOW: Final = 3
MIDDLE: Final = 15
# Symbols have no neighbours to learn from; floats have, four bytes back.
SYMBOLS: Final = ({"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0},)
BYTES: Final = ({"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 2, "pb": 2},)

Matrix = NDArray[np.float32]
Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where in a file a matrix of codes (K, N) lies, and what of the base predicts it.

    The base's tensors, transposed where they are a linear layer's, stand side by side; ``rows`` and
    ``columns`` are those that ours lacks. ``blobs`` are the lengths of what is kept of it: row
    factors, column factors, and the planes of the differences.
    """

    file: str
    offset: int
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    transposed: bool
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    blobs: tuple[int, ...] = ()

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Recipe":
        """From an index."""
        rows, columns = raw["shape"]
        return cls(
            file=raw["file"],
            offset=raw["offset"],
            shape=(rows, columns),
            tensors=tuple(raw["tensors"]),
            transposed=raw["transposed"],
            rows=tuple(raw["rows"]),
            columns=tuple(raw["columns"]),
            blobs=tuple(raw["blobs"]),
        )

    def of(self, base: Mapping[str, Matrix]) -> Matrix:
        """The base's part of the matrix."""
        parts = [base[name].T if self.transposed else base[name] for name in self.tensors]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self.rows:
            whole = np.delete(whole, self.rows, axis=0)
        return np.delete(whole, self.columns, axis=1) if self.columns else whole


def encode(bundle: Path, base: Mapping[str, Matrix], about: Mapping[str, Any], out: Path) -> int:
    """Write a verified bundle's delta, prove that it decodes, and return its size in bytes.

    Args:
        bundle: the int8 bundle of a classifier or a policy encoder.
        base: the tensors of its base by name.
        about: what the index says of the base: its name, and the sha256 of its weights.
        out: the folder to write to; other files in it stay.
    """
    loaded = load(bundle)
    files = {name: (bundle / name).read_bytes() for name in loaded.manifest["files"]}
    recipes = []
    payload = bytearray()
    for recipe, codes in _traced(bundle, files, base):
        blobs = _difference(codes, recipe.of(base))
        payload += b"".join(blobs)
        recipes.append(replace(recipe, blobs=tuple(map(len, blobs))))
    rest = []
    for name, blob in files.items():
        kept = lzma.compress(_without(name, blob, recipes), lzma.FORMAT_RAW, filters=BYTES)
        payload += kept
        rest.append({"name": name, "bytes": len(blob), "blob": len(kept)})
    out.mkdir(parents=True, exist_ok=True)
    (out / PAYLOAD).write_bytes(payload)
    _put_beside(bundle, out)
    index = {
        "format": FORMAT,
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "base": dict(about),
        "recipes": [asdict(recipe) for recipe in recipes],
        "files": rest,
        "payload": sha256_of(out / PAYLOAD),
    }
    (out / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")
    for name, blob in files.items():
        if decoded(out, base, name) != blob:
            raise AssertionError(f"{name} does not come back as it was")
    return sum(path.stat().st_size for path in out.iterdir() if path.is_file())


def _put_beside(bundle: Path, out: Path) -> None:
    """Copy what stands beside the graph; of a bundle whose delta was there before nothing stays."""
    for name in BESIDE:
        (out / name).unlink(missing_ok=True)
        if (bundle / name).is_file():
            shutil.copyfile(bundle / name, out / name)


def read_index(delta: Path) -> dict[str, Any]:
    """A delta's index, its payload verified.

    Raises:
        BundleError: where the delta is missing, corrupted, or of another format.
    """
    try:
        index: dict[str, Any] = json.loads((delta / INDEX).read_text(encoding="utf-8"))
        found = sha256_of(delta / PAYLOAD)
    except OSError as error:
        raise BundleError(f"no delta at {delta}: {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(f"{delta / INDEX}: not JSON ({error})") from None
    with understanding(delta):
        if index["format"] != FORMAT:
            raise BundleError(
                f"{delta / INDEX}: format is {index['format']!r}, this release reads {FORMAT!r}"
            )
        if found != index["payload"]:
            raise BundleError(f"{delta / PAYLOAD}: sha256 is {found}, not {index['payload']}")
    return index


def decoded(delta: Path, base: Mapping[str, Matrix], name: str) -> bytearray:
    """One of the bundle's files."""
    index = read_index(delta)
    recipes = [Recipe.read(raw) for raw in index["recipes"]]
    starts = np.cumsum([0, *(sum(r.blobs) for r in recipes), *(f["blob"] for f in index["files"])])
    at = next(n for n, file in enumerate(index["files"]) if file["name"] == name)
    with (delta / PAYLOAD).open("rb") as payload:
        payload.seek(int(starts[len(recipes) + at]))
        kept = payload.read(index["files"][at]["blob"])
        rest = memoryview(lzma.decompress(kept, lzma.FORMAT_RAW, filters=BYTES))
        out, taken = bytearray(index["files"][at]["bytes"]), 0
        end = 0
        for n, recipe in sorted(enumerate(recipes), key=lambda pair: pair[1].offset):
            if recipe.file != name:
                continue
            gap = recipe.offset - end
            out[end : recipe.offset] = rest[taken : taken + gap]
            taken, end = taken + gap, recipe.offset
            payload.seek(int(starts[n]))
            blobs = [payload.read(length) for length in recipe.blobs]
            for codes in _codes(recipe, base, blobs):
                out[end : end + codes.size] = codes.tobytes()
                end += codes.size
        out[end:] = rest[taken:]
    return out


def _without(name: str, blob: bytes, recipes: Sequence[Recipe]) -> bytes:
    """What no recipe makes of a file."""
    parts, end = [], 0
    for recipe in sorted((r for r in recipes if r.file == name), key=lambda r: r.offset):
        parts.append(blob[end : recipe.offset])
        end = recipe.offset + recipe.shape[0] * recipe.shape[1]
    return b"".join([*parts, blob[end:]])


def _difference(codes: Codes, base: Matrix) -> list[bytes]:
    """Factors of rows and columns, and what they leave to say of the codes."""
    row, column = _fit(codes, base)
    found = [
        codes[at].reshape(-1).astype(np.int16)[order] - predicted[order]
        for at, predicted, order in _predictions(base, row, column)
    ]
    factors = [each.astype("<f4").tobytes() for each in (row, column)]
    planes = (plane.tobytes() for plane in _planes(np.concatenate(found)))
    return factors + [lzma.compress(plane, lzma.FORMAT_RAW, filters=SYMBOLS) for plane in planes]


def _planes(differences: NDArray[np.int16]) -> tuple[NDArray[Any], ...]:
    """Differences as three planes, each as small as a compressor can use it."""
    count = np.where(differences < 0, -2 * differences - 1, 2 * differences)
    more = count[count >= LOW] - LOW
    most = more[more >= MIDDLE] - MIDDLE
    return (
        _packed(count.clip(0, LOW).astype(np.uint8), 2),
        _packed(more.clip(0, MIDDLE).astype(np.uint8), 4),
        most.astype("<u2"),
    )


def _differences(count: int, planes: Sequence[bytes]) -> NDArray[np.int16]:
    """So many differences out of their planes."""
    low = _unpacked(planes[0], 2)[:count].astype(np.int16)
    further = np.flatnonzero(low == LOW)
    more = _unpacked(planes[1], 4)[: len(further)].astype(np.int16)
    most = np.flatnonzero(more == MIDDLE)
    more[most] += np.frombuffer(planes[2], "<u2").astype(np.int16)
    low[further] += more
    return np.where(low % 2 == 1, -(low + 1) // 2, low // 2)


def _packed(symbols: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Symbols of so many bits as bytes."""
    each = 8 // bits
    rows = np.pad(symbols, (0, -len(symbols) % each)).reshape(-1, each)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_or.reduce(rows << shifts, axis=1), dtype=np.uint8)


def _unpacked(packed: bytes, bits: int) -> NDArray[np.uint8]:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    rows = np.frombuffer(packed, np.uint8)[:, None] >> shifts
    return (rows & np.uint8((1 << bits) - 1)).reshape(-1)


def _codes(recipe: Recipe, base: Mapping[str, Matrix], blobs: Sequence[bytes]) -> Iterator[Codes]:
    """The codes, some rows at a time."""
    row, column = (np.frombuffer(blob, "<f4") for blob in blobs[:2])
    planes = [lzma.decompress(blob, lzma.FORMAT_RAW, filters=SYMBOLS) for blob in blobs[2:]]
    differences, done = _differences(recipe.shape[0] * recipe.shape[1], planes), 0
    for _, predicted, order in _predictions(recipe.of(base), row, column):
        predicted[order] += differences[done : done + len(order)]
        done += len(order)
        yield predicted.astype(np.int8)


def _predictions(
    base: Matrix, row: Matrix, column: Matrix
) -> Iterator[tuple[slice, NDArray[np.int16], NDArray[np.intp]]]:
    """Of some rows at a time: which, their predicted codes, and the order to take them in.

    Products and roundings of single numbers alone, which IEEE 754 leaves no choice about.
    """
    rows = max(1, BLOCK // base.shape[1])
    for start in range(0, base.shape[0], rows):
        at = slice(start, start + rows)
        value = (base[at] * row[at, None] * column).reshape(-1)
        nearest = np.rint(value)
        place = np.floor((value - nearest + np.float32(0.5)) * np.float32(BINS))
        order = np.argsort(place.clip(0, BINS - 1).astype(np.uint8), kind="stable")
        yield at, nearest.clip(-127, 127).astype(np.int16), order


def _fit(codes: Codes, base: Matrix) -> tuple[Matrix, Matrix]:
    """Factors of rows (K,) and columns (N,) with codes ≈ row × base × column.

    Alternating least squares: where one is given, the other is a quotient.
    """
    wanted = codes.astype(np.float32)
    row, column = np.ones(base.shape[0]), np.ones(base.shape[1])
    both, square = wanted * base, np.square(base)
    for _ in range(ROUNDS):
        column = _ratio(row @ both, np.square(row) @ square)
        row = _ratio(both @ column, square @ np.square(column))
    return row.astype(np.float32), column.astype(np.float32)


def _ratio(one: Any, other: Any) -> Any:
    return np.divide(one, other, out=np.zeros_like(one), where=other > 0)


def _traced(
    bundle: Path, files: Mapping[str, bytes], base: Mapping[str, Matrix]
) -> Iterator[tuple[Recipe, Codes]]:
    """The bundle's matrices of codes that the base predicts."""
    import onnx
    from onnx import numpy_helper

    graphs = [onnx.load(bundle / name).graph for name in files if name.endswith(".onnx")]
    for tensor in (tensor for graph in graphs for tensor in graph.initializer):
        if tensor.data_type != onnx.TensorProto.INT8 or len(tensor.dims) != 2:
            continue
        codes = numpy_helper.to_array(tensor)
        if codes.size < SMALLEST:
            continue
        raw = codes.tobytes()
        where = next(((n, at) for n, b in files.items() if (at := b.find(raw)) >= 0), None)
        recipe = None if where is None else trace(codes, base, *where)
        if recipe is not None:
            yield recipe, codes


def trace(codes: Codes, base: Mapping[str, Matrix], file: str, offset: int) -> Recipe | None:
    """Which tensors of the base a matrix of codes was made of; None where none is like it."""
    matrices = [
        (name, transposed, tensor.T if transposed else tensor)
        for name, tensor in base.items()
        if tensor.ndim == 2 and tensor.size >= SMALLEST
        for transposed in (False, True)
    ]
    found: list[tuple[str, bool]] = []
    missing: dict[str, list[int]] = {"rows": [], "columns": []}
    wanted, done, width = codes.astype(np.float32), 0, 0
    while done < codes.shape[1]:
        rest = wanted[:, done:]
        likes = [(_likeness(rest, matrix), name, t, matrix) for name, t, matrix in matrices]
        likeness, name, transposed, matrix = max(likes, key=lambda like: like[0])
        if likeness < LIKENESS / 2 or (found and transposed != found[0][1]):
            return None
        if matrix.shape[0] > codes.shape[0]:
            missing["rows"] = _missing(wanted.T, matrix.T)
            taken = matrix.shape[1]
        else:
            lost = _missing(rest[:, : matrix.shape[1]], matrix)
            missing["columns"] += [width + n for n in lost]
            taken = matrix.shape[1] - len(lost)
        found.append((name, transposed))
        done, width = done + taken, width + matrix.shape[1]
    shape = (codes.shape[0], codes.shape[1])
    names, lost_rows, lost_columns = (
        tuple(name for name, _ in found),
        tuple(missing["rows"]),
        tuple(missing["columns"]),
    )
    recipe = Recipe(file, offset, shape, names, found[0][1], lost_rows, lost_columns)
    predicted = recipe.of(base)
    if predicted.shape != codes.shape:
        return None
    row, column = _fit(codes, predicted)
    return recipe if _cosine(wanted, predicted * row[:, None] * column) > LIKENESS else None


def _likeness(ours: Matrix, matrix: Matrix) -> float:
    """How like the beginnings of two matrices are, one of which may lack a few rows or columns."""
    (k, n), (rows, columns) = ours.shape, matrix.shape
    if rows == k and columns <= n + SKIPPED:
        return max(_cosine(ours[:, 0], matrix[:, s]) for s in range(min(SKIPPED, columns)))
    if columns == n and k < rows <= k + SKIPPED:
        return max(_cosine(ours[0], matrix[s]) for s in range(SKIPPED))
    return -1.0


def _missing(ours: Matrix, matrix: Matrix) -> list[int]:
    """The columns of a matrix that ours, in the same order, lacks."""
    count, most = matrix.shape[1], matrix.shape[1] - ours.shape[1]
    if most <= 0:
        # Ours goes on with another matrix behind this one, or has all of its columns.
        return []
    likeness = np.stack([_cosines(ours, matrix[:, s : s + ours.shape[1]]) for s in range(most + 1)])
    there = np.arange(ours.shape[1]) + likeness.argmax(axis=0)
    return [n for n in range(count) if n not in set(there.tolist())]


def _cosines(one: Matrix, other: Matrix) -> Any:
    dot = np.einsum("kn,kn->n", one, other)
    size = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return dot / np.maximum(size, 1e-12)


def _cosine(one: Matrix, other: Matrix) -> float:
    size = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / max(size, 1e-12)
