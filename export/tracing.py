"""Where in a bundle's files the tensors of its base are, and in which shape (``export.delta``)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Matrices below are not worth a recipe.
SMALLEST: Final = 1 << 12
# At most so many rows or columns of a base's matrix may be missing from ours, or elsewhere.
SKIPPED: Final = 64
# A prediction explains this much of a matrix, or is none.
LIKENESS: Final = 0.8
ROUNDS: Final = 8

Matrix = NDArray[np.float32]
Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where in a file a matrix of codes (K, N) lies, and what of the base predicts it.

    The base's tensors, transposed where they are a linear layer's, stand side by side; ``rows`` and
    ``columns`` are those that ours lacks, ``last_rows`` and ``last_columns`` those that ours has at
    its end. ``blobs`` are the lengths of what is kept of it: row factors, column factors, and the
    planes of the differences.
    """

    file: str
    offset: int
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    transposed: bool
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    last_rows: tuple[int, ...] = ()
    last_columns: tuple[int, ...] = ()
    blobs: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its codes."""
        return self.shape[0] * self.shape[1]

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
            last_rows=tuple(raw.get("last_rows", ())),
            last_columns=tuple(raw.get("last_columns", ())),
            blobs=tuple(raw["blobs"]),
        )

    def of(self, base: Mapping[str, Matrix]) -> Matrix:
        """The base's part of the matrix."""
        parts = [base[name].T if self.transposed else base[name] for name in self.tensors]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self.rows or self.last_rows:
            whole = whole[_kept(whole.shape[0], self.rows, self.last_rows)]
        if self.columns or self.last_columns:
            whole = whole[:, _kept(whole.shape[1], self.columns, self.last_columns)]
        return whole


def _kept(count: int, lost: Sequence[int], last: Sequence[int]) -> list[int]:
    """Of so many the places that are kept, in ours' order."""
    others = {*lost, *last}
    return [*(n for n in range(count) if n not in others), *last]


class Copy(NamedTuple):
    """Where in a file a tensor of the base lies as it is."""

    file: str
    offset: int
    tensor: str
    size: int


def copies(files: Mapping[str, bytes], base: Mapping[str, Matrix]) -> Iterator[Copy]:
    """The base's tensors that are in the files as they are; none lies within another."""
    for name, tensor in base.items():
        if tensor.size < SMALLEST or tensor.dtype != np.float32:
            continue
        raw = verbatim(tensor)
        for file, blob in files.items():
            if (at := blob.find(raw)) >= 0:
                yield Copy(file, at, name, len(raw))
                break


def verbatim(tensor: Matrix) -> bytes:
    """A tensor as it lies in a file."""
    return tensor.astype("<f4").tobytes()


def fit(codes: Codes, base: Matrix) -> tuple[Matrix, Matrix]:
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


def traced(
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
    rows, columns = Places([], []), Places([], [])
    wanted, done, width = codes.astype(np.float32), 0, 0
    while done < codes.shape[1]:
        rest = wanted[:, done:]
        likes = [
            (*_likeness(rest, matrix, not found), name, t, matrix) for name, t, matrix in matrices
        ]
        likeness, by_row, name, transposed, matrix = max(likes, key=lambda like: like[0])
        if likeness < LIKENESS / 2 or (found and transposed != found[0][1]):
            return None
        if by_row:
            rows = _places(wanted.T, matrix.T)
            taken = matrix.shape[1]
        else:
            there = _places(rest[:, : matrix.shape[1]], matrix)
            for mine, its in zip(columns, there, strict=True):
                mine += [width + n for n in its]
            taken = matrix.shape[1] - len(there.lost)
        found.append((name, transposed))
        done, width = done + taken, width + matrix.shape[1]
    recipe = Recipe(
        file=file,
        offset=offset,
        shape=(codes.shape[0], codes.shape[1]),
        tensors=tuple(name for name, _ in found),
        transposed=found[0][1],
        rows=tuple(rows.lost),
        columns=tuple(columns.lost),
        last_rows=tuple(rows.last),
        last_columns=tuple(columns.last),
    )
    predicted = recipe.of(base)
    if predicted.shape != codes.shape:
        return None
    row, column = fit(codes, predicted)
    return recipe if _cosine(wanted, predicted * row[:, None] * column) > LIKENESS else None


def _likeness(ours: Matrix, matrix: Matrix, alone: bool) -> tuple[float, bool]:
    """How like the beginnings of two matrices are, and whether by their rows.

    Of one of them some columns may be missing, or elsewhere; or some rows, where it stands alone.
    """
    (k, n), (rows, columns) = ours.shape, matrix.shape
    likeness = -1.0
    if rows == k and columns <= n + SKIPPED:
        likeness = max(_cosine(ours[:, 0], matrix[:, s]) for s in range(min(SKIPPED, columns)))
    # Rows of channels that were taken aside are zero: they are asked only where columns say no.
    if likeness < LIKENESS / 2 and alone and columns == n and k <= rows <= k + SKIPPED:
        return max(_cosine(ours[0], matrix[s]) for s in range(min(SKIPPED, rows))), True
    return likeness, False


class Places(NamedTuple):
    """Columns of a matrix that ours lacks, and those that ours has at its end."""

    lost: list[int]
    last: list[int]


def _places(ours: Matrix, matrix: Matrix) -> Places:
    """Where our columns are in a matrix that has a few more.

    They are in its order, but for some at the end: a body that was restored from a bundle
    (``export.restore``) has those channels there that the quantiser had taken aside.
    """
    count = matrix.shape[1]
    ours, matrix = _directions(ours), _directions(matrix)
    width = ours.shape[1]
    padded = np.pad(matrix, ((0, 0), (0, SKIPPED)))
    shifts = [(ours * padded[:, n : n + width]).sum(axis=0) for n in range(SKIPPED)]
    there = np.arange(width) + np.argmax(shifts, axis=0)
    moved = np.max(shifts, axis=0) < LIKENESS / 2
    there[moved] = (matrix.T @ ours[:, moved]).argmax(axis=0)
    last = there[np.flatnonzero(moved)[0] :] if moved.any() else there[:0]
    return Places(sorted({*range(count)} - {*there.tolist()}), last.tolist())


def _directions(matrix: Matrix) -> Matrix:
    """Columns of length 1."""
    size: Matrix = np.maximum(np.linalg.norm(matrix, axis=0), np.float32(1e-12))
    return matrix / size


def _cosine(one: Matrix, other: Matrix) -> float:
    size = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / max(size, 1e-12)
