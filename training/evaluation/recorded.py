"""Findings on file: decided upon again without running a model, alone or as a cascade.

    tamis evaluate --data DATA/eval --findings FAST
    tamis evaluate --tier accurate --data DATA/eval --findings ACCURATE
    tamis evaluate --recorded FAST ACCURATE --data DATA/eval --json cascade.json

A file begins with whose findings they are; a line each follows. Contents are known by a digest, so
no text is kept, and what a bundle was never asked is not guessed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TextIO

from tamis.bundle import BundleError, thresholds_of
from tamis.content import Content
from tamis.policy import CalibratedThresholds, Thresholds
from tamis.tiers import BANDS, Bands
from tamis.verdict import Finding, Second

FORMAT: Final = "tamis.findings/1"
# Evidence is not recorded, and whose opinion it is follows from the file, which is of one bundle.
LEFT_OUT: Final = ("evidence", "second", "missed", "field", "other")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A bundle's findings from a file."""

    name: str
    licence: str
    fingerprint: str
    thresholds: Mapping[str, Thresholds]
    found: Mapping[str, Finding]
    path: Path

    def judge(self, content: Content) -> Finding:
        """The finding of a content.

        Raises:
            BundleError: where it is not on file.
        """
        try:
            return replace(self.found[digest(content)], field=content.field)
        except KeyError:
            raise BundleError(
                f"{self.path}: not every text was judged; record it on the same data"
            ) from None


class RecordedCascade:
    """Two bundles' findings as the cascade of both gives them, where no deadline cuts it short."""

    def __init__(self, first: Recorded, second: Recorded, bands: Bands) -> None:
        """Check that bands and findings belong together.

        Raises:
            BundleError: naming the file whose bundle the bands were not chosen for.
        """
        for wanted, one in ((bands.fast, first), (bands.accurate, second)):
            if one.fingerprint != wanted:
                raise BundleError(
                    f"{one.path} is of {one.name}@{one.fingerprint[:12]}, and {BANDS} was made "
                    f"for the bundle {wanted[:12]}"
                )
        self._first, self._second, self._bands = first, second, bands
        self.second = Second(second.name, second.fingerprint, second.thresholds)

    def judge(self, content: Content) -> Finding:
        """The finding of a content.

        Raises:
            BundleError: where it is not on file.
        """
        found = self._first.judge(content)
        if not self._bands.unsure(found):
            return found
        second = replace(self._second.judge(content), second=self.second)
        return self._bands.settle(found, second, self._first.thresholds)


def digest(content: Content) -> str:
    """What a content is known by, wherever it stood in a request."""
    said = json.dumps([content.question, content.text, content.context])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def head(
    name: str, licence: str, fingerprint: str, own: Mapping[str, Thresholds]
) -> dict[str, Any]:
    """The first line of a file."""
    return {
        "format": FORMAT,
        "name": name,
        "licence": licence,
        "fingerprint": fingerprint,
        "thresholds": {name: _thresholds_json(limits) for name, limits in own.items()},
    }


def recording(
    contents: Sequence[Content], findings: Iterable[Finding], out: TextIO
) -> Iterator[Finding]:
    """Pass findings on, each written as a line behind the head."""
    for content, finding in zip(contents, findings, strict=True):
        told = {key: value for key, value in asdict(finding).items() if key not in LEFT_OUT}
        out.write(json.dumps({"content": digest(content)} | told) + "\n")
        yield finding


def read(path: Path) -> Recorded:
    """The findings of a file.

    Raises:
        BundleError: where it is missing or is no such file.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            about = json.loads(next(lines))
            if about["format"] != FORMAT:
                raise ValueError(f"format is {about['format']!r}, this release reads {FORMAT!r}")
            rows = [json.loads(line) for line in lines]
        return Recorded(
            name=about["name"],
            licence=about["licence"],
            fingerprint=about["fingerprint"],
            thresholds={
                name: thresholds_of({"name": name} | raw)
                for name, raw in about["thresholds"].items()
            },
            found={row.pop("content"): _finding(row) for row in rows},
            path=path,
        )
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    except StopIteration:
        raise BundleError(f"{path}: empty") from None
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: no file of findings ({error})") from None


def _finding(row: Mapping[str, Any]) -> Finding:
    return Finding(**{**row, "transforms": tuple(row["transforms"])})


def _thresholds_json(limits: Thresholds) -> dict[str, Any]:
    told: dict[str, Any] = {"flag": limits.flag, "block": limits.block}
    if isinstance(limits, CalibratedThresholds):
        told["sensitivities"] = {
            "strict": asdict(limits.strict),
            "loose": asdict(limits.loose),
        }
    return told
