"""Fit Perspective's scale to a bundle, and measure on held-out texts how near it comes.

The texts are sentences that carry Perspective's own scores (RealToxicityPrompts). Everything is
fitted on three quarters of them and measured on the rest; both halves of a sentence fall on the
same side.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.bundle import Bundle
from tamis.content import Content, plain
from tamis.perspective import ATTRIBUTES, FORMAT, Comparison, Scale, compare, logit, scores_of
from tamis.taxonomy import taxonomy
from tamis.verdict import Finding
from training.datasets.schema import data_files

HELD_OUT_ONE_IN: Final = 4
# Texts to fit on, and to measure on, without which an attribute has no scale.
FEWEST: Final = 5
# Ridge penalty, in rows: heads are correlated, and without one their weights cancel each other.
PENALTY: Final = 30.0
# Where the curve is told; between them it is straight. The common thresholds are among them.
LEVELS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
Judge = Callable[[Content], Finding]
Floats = NDArray[np.float64]
MARKS: Final = "<!-- fitted by `tamis perspective fit` -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Rated:
    """A text with Perspective's scores by attribute; some lack one."""

    id: str
    text: str
    scores: Mapping[str, float]

    @property
    def held_out(self) -> bool:
        """Whether it measures rather than fits; decided by the sentence that it is a part of."""
        sentence = self.id.rpartition("-")[0] or self.id
        digest = hashlib.sha256(sentence.encode()).digest()
        return int.from_bytes(digest[:8]) % HELD_OUT_ONE_IN == 0


def read(folder: Path) -> list[Rated]:
    """The rated texts of a folder's ``*.jsonl.gz``.

    Raises:
        FileNotFoundError, ValueError: where there is none, or a row has no id, text or scores.
    """
    found = []
    for path in data_files(folder):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    raw = json.loads(line)
                    rated = {a.upper(): float(v) for a, v in raw["perspective"].items()}
                    found.append(Rated(str(raw["id"]), str(raw["prompt"]), rated))
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    what = f"{path.name} line {number}: {type(error).__name__} {error}"
                    raise ValueError(f"{what}; wanted: id, prompt, perspective") from None
    return found


def scored(rows: Sequence[Rated], judge: Judge, cache: Path) -> Iterator[Mapping[str, float]]:
    """Our own scores of each text, from ``cache`` where it was judged before.

    A run that was interrupted goes on where it stopped: every score is on disk before the next.
    """
    known: dict[str, dict[str, float]] = {}
    if cache.exists():
        for line in cache.read_text(encoding="utf-8").splitlines():
            try:
                known |= json.loads(line)
            except json.JSONDecodeError:  # cut off by an interruption
                continue
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8", buffering=1) as lines:
        for row in rows:
            if row.id not in known:
                known[row.id] = scores_of(judge(plain(row.text)))
                lines.write("\n" + json.dumps({row.id: known[row.id]}))
            yield known[row.id]


def fit(
    rows: Sequence[Rated], scores: Sequence[Mapping[str, float]], bundle: Bundle
) -> dict[str, Any]:
    """The table for a bundle: a scale for each attribute that its heads can answer for."""
    # A text without any token has no scores.
    pairs = [(row, found) for row, found in zip(rows, scores, strict=True) if found]
    names = sorted(pairs[0][1])
    table: dict[str, Any] = {}
    for attribute in ATTRIBUTES:
        rule = taxonomy().crosswalk["perspective"][attribute]
        if rule is None or not any(set(term) <= set(names) for term in rule.any_of):
            continue
        rated = [(row, found) for row, found in pairs if attribute in row.scores]
        known = [(row, found) for row, found in rated if not row.held_out]
        if min(len(known), len(rated) - len(known)) < FEWEST:
            continue
        scale = _scale(known, names, attribute)
        table[attribute] = {
            "weights": {name: round(weight, 5) for name, weight in scale.weights.items()},
            "bias": round(scale.bias, 5),
            "knots": [[round(x, 4), y] for x, y in scale.knots],
            "held_out": _figures(_measured(rated, scale, attribute)),
        }
    ids = hashlib.sha256("\n".join(sorted(row.id for row in rows)).encode()).hexdigest()
    return {
        "format": FORMAT,
        "bundle": bundle.fingerprint,
        "name": bundle.name,
        "data": {
            "texts": len(pairs),
            "held_out": sum(row.held_out for row, _ in pairs),
            "ids_sha256": ids,
        },
        "attributes": table,
    }


Pairs = Sequence[tuple[Rated, Mapping[str, float]]]


def _scale(known: Pairs, names: Sequence[str], attribute: str) -> Scale:
    """Ridge regression of log-odds on log-odds, then shares equated at the levels."""
    ours = np.array([[logit(found[name]) for name in names] for _, found in known])
    theirs = np.array([row.scores[attribute] for row, _ in known])
    odds = np.array([logit(score) for score in theirs])
    centre = ours.mean(0)
    spread = ours - centre
    weights = np.linalg.solve(
        spread.T @ spread + PENALTY * np.eye(len(names)), spread.T @ (odds - odds.mean())
    )
    bias = float(odds.mean() - centre @ weights)
    sums = np.sort(ours @ weights + bias)
    return Scale(dict(zip(names, weights.tolist(), strict=True)), bias, _knots(sums, theirs))


def _knots(sums: Floats, theirs: Floats) -> list[tuple[float, float]]:
    """Points of the curve at which as many of our sums lie below as Perspective's scores did."""
    knots: list[tuple[float, float]] = []
    for level in LEVELS:
        below = float((theirs < level).mean())
        at = float(np.quantile(sums, below))
        # Levels that no text lies between, and those that none reaches, have no knot.
        if 0 < below < 1 and (not knots or at > knots[-1][0]):
            knots.append((at, level))
    ends = (float(sums[0]), float(theirs.min())), (float(sums[-1]), float(theirs.max()))
    inner = [k for k in knots if ends[0][0] < k[0] < ends[1][0] and ends[0][1] < k[1] < ends[1][1]]
    return [ends[0], *inner, ends[1]]


def _measured(rated: Pairs, scale: Scale, attribute: str) -> Comparison:
    held = [(row, found) for row, found in rated if row.held_out]
    ours = [scale.value(found) for _, found in held]
    return compare(ours, [row.scores[attribute] for row, _ in held])


def _figures(found: Comparison) -> dict[str, Any]:
    plain_data = asdict(found)
    plain_data["thresholds"] = {
        str(at): {name: round(value, 4) for name, value in asdict(agreement).items()}
        for at, agreement in found.thresholds.items()
    }
    return {n: round(v, 4) if isinstance(v, float) else v for n, v in plain_data.items()}


def report(table: Mapping[str, Any]) -> str:
    """The held-out figures as Markdown."""
    data = table["data"]
    lines = [
        f"Bundle `{table['name']}@{table['bundle'][:12]}`, {data['held_out']:,} of "
        f"{data['texts']:,} texts held out. The last four columns are at 0.5 / 0.7 / 0.9.",
        "",
        "| attribute | rank correlation | mean difference | mean absolute "
        "| equal decisions | kappa | share above, ours | Perspective's |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for attribute, scale in table["attributes"].items():
        held = scale["held_out"]
        cells = [
            f"{held['rank_correlation']:.3f}",
            f"{held['mean_difference']:+.3f}",
            f"{held['mean_absolute_difference']:.3f}",
        ]
        cells += (
            " / ".join(f"{at[figure]:.3f}" for at in held["thresholds"].values())
            for figure in ("agreement", "kappa", "ours", "theirs")
        )
        lines.append(f"| {attribute} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(page: Path, table: Mapping[str, Any]) -> None:
    """Put the figures between the marks of a page.

    Raises:
        ValueError: where the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = MARKS
    if begin not in text or end not in text.partition(begin)[2]:
        raise ValueError(f"{page.name}: has no place for the figures, {begin} … {end}")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{report(table)}\n{end}{after}", encoding="utf-8")
