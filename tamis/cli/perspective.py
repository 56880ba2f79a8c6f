"""``tamis perspective``: fit Perspective's scale to a bundle; compare with scores that you kept."""

import argparse
import csv
import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

from tamis import perspective
from tamis.cli.common import CommandError, Commands, load_classifier
from tamis.perspective import ATTRIBUTES, THRESHOLDS

PATH: Final = "/v1alpha1/comments:analyze"
SECONDS: Final = 30
# What comes of reading an answer that is another's.
NO_ANSWER: Final = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
# Of a column of a table; Python's own limit is 128 KiB, half of what the service judges.
MAX_COLUMN: Final = 16 << 20


class _RefusedError(CommandError):
    """What a service says of one text in place of scores."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = commands.add_parser("perspective", help="Perspective's scores: fit, compare")
    steps = command.add_subparsers(dest="step", required=True, metavar="STEP")
    fit = steps.add_parser("fit", help="Perspective's scale for a bundle, from rated texts")
    fit.add_argument("--data", type=Path, required=True, help="folder of rated *.jsonl.gz")
    fit.add_argument("--bundle", type=Path, help="where the table is written, too")
    fit.add_argument("--scores", type=Path, help="cache of the bundle's scores, to go on with")
    fit.add_argument("--page", type=Path, help="page whose figures are replaced")
    fit.set_defaults(run=_fit)
    compare = steps.add_parser("compare", help="a service's scores with stored ones")
    compare.add_argument("stored", type=Path, help="*.jsonl or *.csv of texts and their scores")
    compare.add_argument("--url", default="http://localhost:8000", help="where the service is")
    compare.add_argument("--key", help="API key, where the service wants one")
    compare.add_argument("--most", type=int, default=1_000, help="texts to compare at most")
    compare.set_defaults(run=_compare)


def _fit(args: argparse.Namespace) -> int:
    from platformdirs import user_cache_path
    from tqdm import tqdm

    from training import perspective as fitting

    classifier = load_classifier(args.bundle, threads=1)
    bundle = classifier.bundle
    name = f"perspective-{bundle.fingerprint[:12]}.jsonl"
    rows = fitting.read(args.data)
    found = fitting.scored(rows, classifier.judge, args.scores or user_cache_path("tamis") / name)
    table = fitting.fit(rows, list(tqdm(found, total=len(rows), unit="text")), bundle)
    out = bundle.path / perspective.FILE
    out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(fitting.report(table))
    if args.page:
        fitting.write_page(args.page, table)
    return 0


def _compare(args: argparse.Namespace) -> int:
    theirs: dict[str, list[float]] = {}
    ours: dict[str, list[float]] = {}
    empty = 0
    for number, (text, scores) in enumerate(_stored(args.stored), 1):
        if number > args.most:
            break
        asked = {name: value for name, value in scores.items() if name in ATTRIBUTES}
        if not asked:
            continue
        try:
            found = _ask(args.url, args.key, text, list(asked)) if text.strip() else None
        except _RefusedError as error:
            raise CommandError(f"{args.stored.name}: row {number}: {error}") from None
        if found is None:
            empty += 1
            continue
        for name, value in found.items():
            theirs.setdefault(name, []).append(asked[name])
            ours.setdefault(name, []).append(value)
    if not any(len(values) > 1 for values in ours.values()):
        raise CommandError(f"{args.stored.name}: fewer than two texts with scores to compare")
    print(_head())
    for name in ATTRIBUTES:
        if len(ours.get(name, ())) > 1:
            print(_line(name, perspective.compare(ours[name], theirs[name])))
    if empty:
        print(f"rows with nothing to judge: {empty}")
    return 0


def _stored(path: Path) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Texts and their scores, as somebody may have kept them.

    A table with a column ``text`` and one for each attribute; lines of ``{"text", "scores"}``; or
    requests merged with their answers (``comment``, ``attributeScores``).
    """
    # Spreadsheets put a mark of the byte order before their tables.
    with path.open(encoding="utf-8-sig", newline="") as lines:
        csv.field_size_limit(MAX_COLUMN)
        rows: Iterator[dict[str, Any]]
        rows = csv.DictReader(lines) if path.suffix == ".csv" else _json_of(lines)
        for number in count(1):
            try:
                found = _row(next(rows))
            except StopIteration:
                return
            except (*NO_ANSWER, csv.Error) as error:
                # What is no number may be a piece of text, where a comma in it was not quoted.
                which = "" if isinstance(error, ValueError) else f" {error}"
                what = f"{path.name}: row {number}: {type(error).__name__}{which}"
                raise CommandError(f"{what}; wanted: text and scores by attribute") from None
            yield found


def _json_of(lines: Iterable[str]) -> Iterator[Any]:
    """Blank lines, as editors and ``cat`` leave them, are no rows."""
    return map(json.loads, filter(str.strip, lines))


def _row(row: dict[str, Any]) -> tuple[str, dict[str, float]]:
    if "attributeScores" in row:
        found = row["attributeScores"].items()
        text = row["comment"]["text"]
        scores = {n: _number(s["summaryScore"]["value"]) for n, s in found}
    else:
        given = row.get("scores") or {n: v for n, v in row.items() if n.upper() in ATTRIBUTES}
        text = row["text"]
        scores = {n.upper(): _number(v) for n, v in given.items() if v not in (None, "")}
    if not isinstance(text, str):
        raise TypeError("text is none")
    return text, scores


def _number(given: Any) -> float:
    """A score; "NaN" is none, and has no rank among others.

    Raises:
        TypeError, ValueError, OverflowError: where it is none.
    """
    found = float(given)
    if not math.isfinite(found):
        raise ValueError("not finite")
    return found


def _ask(url: str, key: str | None, text: str, attributes: list[str]) -> dict[str, float] | None:
    """What a service says of a text; None where it finds nothing in it, say blanks of no width."""
    query = f"?{urllib.parse.urlencode({'key': key})}" if key else ""
    body = {
        "comment": {"text": text},
        "requestedAttributes": {name: {} for name in attributes},
        "languages": ["en"],
        "doNotStore": True,
    }
    request = urllib.request.Request(  # noqa: S310 (the user's own address)
        url.rstrip("/") + PATH + query,
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            found = json.load(answer)["attributeScores"]
            return {name: _number(score["summaryScore"]["value"]) for name, score in found.items()}
    except urllib.error.HTTPError as error:
        message, kind = _said(error)
        if kind == "COMMENT_EMPTY":
            return None
        raise _RefusedError(f"{url} answers {error.code}: {message}") from None
    except OSError as error:
        raise CommandError(f"{url} does not answer: {error}") from None
    except (*NO_ANSWER, http.client.HTTPException) as error:
        name = type(error).__name__
        raise CommandError(f"{url} does not answer as Perspective does: {name}") from None


def _said(error: urllib.error.HTTPError) -> tuple[str, str | None]:
    """A refusal's message, and Perspective's name for it where it has one."""
    try:
        said = json.loads(error.read())["error"]
        details = said.get("details") or [{}]
        return str(said["message"]), details[0].get("errorType")
    except (*NO_ANSWER, OSError, http.client.HTTPException):
        return error.reason, None  # A proxy's page, perhaps, or half of an answer.


def _head() -> str:
    at = "".join(f"{f'same at {t}':>14}" for t in THRESHOLDS)
    return f"{'attribute':18}{'texts':>7}{'rank corr.':>12}{'mean diff.':>12}{'absolute':>10}{at}"


def _line(name: str, found: perspective.Comparison) -> str:
    at = "".join(f"{a.agreement:>14.1%}" for a in found.thresholds.values())
    return (
        f"{name:18}{found.texts:>7}{found.rank_correlation:>12.3f}"
        f"{found.mean_difference:>+12.3f}{found.mean_absolute_difference:>10.3f}{at}"
    )
