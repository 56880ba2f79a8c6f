"""Written rows, and the verdicts on them under the default policy."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.engine.ruled import Judging
from tamis.content import Content, plain, prompt, response
from tamis.deciding import decide
from tamis.policies.parsing import default_policy
from tamis.taxonomy import ATTACK, TOXICITY
from tamis.verdict import UNSAFE, Provenance, Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """A text: a request, a post (its text is ``prompt``), or an answer to ``prompt``."""

    id: str
    group: str
    target: Literal["prompt", "response", "text"]
    prompt: str
    response: str | None = None
    pair: str | None = None
    lang: str | None = None

    @property
    def content(self) -> Content:
        """What is judged: of an exchange the answer alone."""
        if self.response is not None:
            return response(self.response, self.prompt)
        return plain(self.prompt) if self.target == "text" else prompt(self.prompt)


@dataclass(frozen=True, slots=True)
class Judged:
    """A row's verdict: its overall ``score``, and the signal that came nearest to an alarm.

    ``reach`` is that signal's score over its flag threshold: 1 and above is a false alarm.
    """

    row: Row
    flagged: bool
    score: float
    signal: str
    signal_score: float
    reach: float

    def __str__(self) -> str:
        return f"{self.row.id} ({self.signal} {self.signal_score:.2f})"


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """The fields of all rows of a folder, file by file."""
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def judge(classifier: Judging, some: Iterable[Row]) -> list[Judged]:
    """Judge rows one by one under the default policy."""
    policy, bundle = default_policy(), classifier.bundle
    provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
    judged = []
    for row in some:
        verdict = decide([classifier.judge(row.content)], policy, bundle.thresholds, provenance)
        signal, score, reach = max(_signals(verdict), key=lambda found: found[2])
        judged.append(Judged(row, verdict.flagged, verdict.score, signal, score, reach))
    return judged


def _signals(verdict: Verdict) -> Iterator[tuple[str, float, float]]:
    """The signals that can flag on their own: name, score, score over threshold."""
    assert verdict.threshold is not None
    yield UNSAFE, verdict.score, verdict.score / verdict.threshold
    alone = {TOXICITY: verdict.categories.get(TOXICITY), ATTACK: verdict.attack}
    for name, found in alone.items():
        if found is not None:
            yield name, found.score, found.score / found.threshold
