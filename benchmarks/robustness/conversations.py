"""Last turns in the light of earlier ones: harm that only shows there, and topics that are over.

    tamis bench conversations --data DATA [--tier cascade]

``DATA`` holds ``contexts/conversations.jsonl.gz`` and ``annotated/``. Each conversation is read as
``POST /moderate`` reads it in a tier, under the default policy, behind as many characters of its
earlier turns as are tried; none at all is the last exchange alone.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.record import Record, Row, judged_by
from service.engine.ruled import Judging
from tamis.cli.common import load_tier
from tamis.content import EARLIER, LIGHT, Content, Message, behind, conversation, last_asked, said
from tamis.deciding import decide
from tamis.policies.parsing import default_policy
from tamis.tiers import Tier
from tamis.verdict import FieldVerdict, Provenance
from training.datasets.mixing import is_held_out
from training.datasets.schema import parse_row, read_rows

SIZES: Final = (0, 100, EARLIER, 300, LIGHT)
SAFE, UNSAFE = 0, 2
# A request that is refused for sure, so that what follows it is another topic.
SURELY: Final = 0.9
LONGEST: Final = 600

Turns = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A last turn behind earlier ones, and what was read of it; severities are 0, 1 or 2."""

    turns: Turns
    severity: int
    alone: int
    held_out: bool


@dataclass(frozen=True)
class Judge:
    """A tier under the default policy, which remembers what it said."""

    classifier: Judging
    known: dict[Content, FieldVerdict] = field(default_factory=dict)

    def last(self, turns: Turns, room: int) -> bool:
        """Whether the last turn is flagged behind ``room`` characters of the earlier ones."""
        content = conversation(turns)[-1]
        answering = content.question == "response"
        before = turns[: -2 if answering else -1]
        request = last_asked(turns).request if answering else None
        return self(replace(content, context=behind(said(before), request, room))).flagged

    def alarming(self, turns: Turns) -> bool:
        """Whether an earlier turn is flagged, each read in its own exchange."""
        return any(self.last(turns[:n], 0) for n in range(1, len(turns)))

    def __call__(self, content: Content) -> FieldVerdict:
        """The verdict on a content."""
        if content in self.known:
            return self.known[content]
        bundle, policy = self.classifier.bundle, default_policy()
        by = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        found = decide([self.classifier.judge(content)], policy, bundle.thresholds, by)
        return self.known.setdefault(content, found.fields[content.field])


def cases(path: Path) -> list[Case]:
    """The conversations of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [(line, json.loads(line)) for line in lines]
    return [
        Case(
            turns=tuple(Message(m["role"], m["content"]) for m in raw["messages"]),
            severity=raw["severity"],
            alone=raw["alone"],
            held_out=is_held_out(parse_row(line, path.name)),
        )
        for line, raw in found
    ]


def run(bundle_path: Path, data: Path, rows: int, tier: Tier | None, accurate: Path | None) -> None:
    """Measure, and keep the tables; ``rows`` last turns of a kind are put behind other topics."""
    classifier = load_tier(tier, bundle_path, accurate)
    judge = Judge(classifier)
    found = cases(data / "contexts" / "conversations.jsonl.gz")
    after = {id(case): judge.alarming(case.turns) for case in found if case.severity == SAFE}
    command = f"tamis bench conversations --data DATA --rows {rows}"
    if tier is not None:
        command += f" --tier {tier}"
    record = Record("conversations", "Conversations", command)
    unsafe = [case for case in found if case.severity == UNSAFE]
    subjects: dict[str, list[Case]] = {
        "unsafe last turns flagged": unsafe,
        "… harmless alone": [case for case in unsafe if case.alone == SAFE],
        "… milder alone": [case for case in unsafe if case.alone < UNSAFE],
        "borderline flagged": [case for case in found if SAFE < case.severity < UNSAFE],
        "safe flagged": [case for case in found if case.severity == SAFE],
        "… after an alarming turn": [case for case in found if after.get(id(case))],
    }
    held = sum(case.held_out for case in found)
    record.notes = [
        f"{len(found)} conversations of three to seven turns, of which the last is judged. In "
        f"brackets the {held} of groups that training never saw; the bundle learnt of the others, "
        "so that their figures say how it reads what it knows. *Earlier characters* are those of "
        "the turns before the last exchange: 0 is the last turn, and of an answer its request, "
        f"alone; **{EARLIER}** is what is served. *Alone* is a person's reading of the last turn "
        "by itself. Alarming is an earlier turn that is flagged in its own exchange.",
        "Below, last turns that have nothing to do with what was before: held-out prompts and "
        f"answers (with their prompts), {rows} of each kind, behind the turns of calm "
        "conversations, of those that end in harm, of both in this order, and behind a harmful "
        "request that was declined.",
    ]
    record.tables = [
        [_row(judge, subjects, room) for room in SIZES],
        list(_other_topics(judge, data, rows, found)),
    ]
    record.write(classifier.bundle, bundle=judged_by(classifier))


def _row(judge: Judge, subjects: dict[str, list[Case]], room: int) -> Row:
    row: Row = {"earlier characters": f"**{room}**" if room == EARLIER else room}
    for name, some in subjects.items():
        flagged = [judge.last(case.turns, room) for case in some]
        held = [flag for flag, case in zip(flagged, some, strict=True) if case.held_out]
        row[name] = f"{sum(flagged)}/{len(flagged)} ({sum(held)}/{len(held)})"
    print(*row.values(), sep="\t", flush=True)
    return row


def _other_topics(judge: Judge, data: Path, rows: int, found: Sequence[Case]) -> Iterator[Row]:
    """Unsafe and safe last turns behind topics that are not theirs."""
    rng = random.Random(15)
    paths = sorted((data / "annotated").glob("*.jsonl.gz"))
    read = [row for path in paths for row in read_rows(path) if is_held_out(row)]
    answered = [case for case in found if case.turns[-1].role == "assistant"]
    calm = [case.turns for case in answered if case.severity == SAFE]
    alarming = [case.turns for case in answered if case.severity == UNSAFE]
    declined = [
        (Message("user", row.prompt), Message("assistant", row.response))
        for row in read
        if row.response and row.stance == "refuses" and row.severity == SAFE
        if judge(conversation([Message("user", row.prompt)])[0]).score > SURELY
    ]
    before: dict[str, Callable[[], Turns]] = {
        "calm": lambda: rng.choice(calm),
        "alarming": lambda: rng.choice(alarming),
        "alarming, then calm": lambda: rng.choice(alarming) + rng.choice(calm),
        "declined": lambda: rng.choice(declined),
    }
    lasts: dict[int, list[Turns]] = {UNSAFE: [], SAFE: []}
    for target in ("prompt", "response"):
        for severity, some in lasts.items():
            fitting = [
                (Message("user", row.prompt), *_answer(row.response))
                for row in read
                if (row.target, row.severity) == (target, severity)
                if not row.context and len(row.judged) <= LONGEST
            ]
            some += rng.sample(fitting, min(rows, len(fitting)))
    for name, choose in before.items():
        behind_it = {level: [choose() + last for last in some] for level, some in lasts.items()}
        for room in SIZES:
            row: Row = {
                "before": name,
                "earlier characters": f"**{room}**" if room == EARLIER else room,
            }
            for level, what in ((UNSAFE, "unsafe flagged"), (SAFE, "safe flagged")):
                flagged = [judge.last(turns, room) for turns in behind_it[level]]
                row[what] = f"{sum(flagged)}/{len(flagged)}"
            print(*row.values(), sep="\t", flush=True)
            yield row


def _answer(response: Any) -> Turns:
    return () if response is None else (Message("assistant", response),)
