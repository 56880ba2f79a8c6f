"""A bundle as its difference from the public base it was trained from: exact, and small.

Fine-tuning moves most weights by less than one int8 step. So an int8 matrix is predicted from the
base's own weights, and what is kept is how far each code is from its prediction: nearly always by
nothing or by one. Weights that the prediction leaves halfway between two codes are off most often;
in the order of their place between two codes, the differences lie in runs that a common compressor
takes at about the entropy of their distribution (``docs/lab-log.md``).

Whatever the quantiser did to a matrix on its way (smoothing, merging, channels taken aside), what
is left of the base is a rank-one rescaling of it: code ≈ row factor × base weight × column factor.
The factors are fitted here, where only a good guess is wanted, and written down, so that nothing
of the quantiser is needed to undo them. What training left alone and nobody quantised, such as
places, is the base's to the byte, and said by its name. All other bytes are kept as they are.

Decoding multiplies, rounds and sorts; it adds nothing up, so every machine gets the same bytes,
and it takes numpy alone.
"""

import json
import lzma
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from export.kinds import load
from export.tracing import Codes, Copy, Matrix, Recipe, copies, fit, traced, verbatim
from tamis import perspective
from tamis.bundle import MANIFEST, BundleError, check_names, sha256_of, understanding

FORMAT: Final = "tamis.delta/1"
INDEX: Final = "delta.json"
PAYLOAD: Final = "delta.bin"
CARD: Final = "README.md"
# What a bundle holds as it is: small, and no part of the graph.
BESIDE: Final = (MANIFEST, CARD, perspective.FILE)
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
    for recipe, codes in traced(bundle, files, base):
        blobs = _difference(codes, recipe.of(base))
        payload += b"".join(blobs)
        recipes.append(replace(recipe, blobs=tuple(map(len, blobs))))
    copied = [*copies(files, base)]
    rest = []
    for name, blob in files.items():
        kept = lzma.compress(
            _without(name, blob, [*recipes, *copied]), lzma.FORMAT_RAW, filters=BYTES
        )
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
        "copies": [copy._asdict() for copy in copied],
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
        # Before anything is written: the fingerprint is looked at once all of it is there.
        check_names((file["name"] for file in index["files"]), delta / INDEX)
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
        # Deltas from before copies have none.
        made: list[tuple[Recipe | Copy, int]] = [(Copy(**c), 0) for c in index.get("copies", ())]
        made += zip(recipes, starts.tolist(), strict=False)
        for part, start in sorted(made, key=lambda pair: pair[0].offset):
            if part.file != name:
                continue
            gap = part.offset - end
            out[end : part.offset] = rest[taken : taken + gap]
            taken, end = taken + gap, part.offset
            if isinstance(part, Copy):
                out[end : end + part.size] = verbatim(base[part.tensor])
                end += part.size
                continue
            payload.seek(start)
            blobs = [payload.read(length) for length in part.blobs]
            for codes in _codes(part, base, blobs):
                out[end : end + codes.size] = codes.tobytes()
                end += codes.size
        out[end:] = rest[taken:]
    return out


def _without(name: str, blob: bytes, made: Sequence[Recipe | Copy]) -> bytes:
    """What nothing makes of a file."""
    parts, end = [], 0
    for part in sorted((part for part in made if part.file == name), key=lambda part: part.offset):
        parts.append(blob[end : part.offset])
        end = part.offset + part.size
    return b"".join([*parts, blob[end:]])


def _difference(codes: Codes, base: Matrix) -> list[bytes]:
    """Factors of rows and columns, and what they leave to say of the codes."""
    row, column = fit(codes, base)
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
    differences, done = _differences(recipe.size, planes), 0
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
