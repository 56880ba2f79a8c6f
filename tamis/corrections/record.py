"""A correction: what a person answers where the service has judged."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tamis.content import Content, Question
from tamis.taxonomy import ATTACK, TOXICITY, taxonomy
from tamis.verdict import Action, CategoryScore, Verdict

Label = Literal["safe", "unsafe"]

# What an unsafe content may be about. Toxicity and attack are questions of their own.
CATEGORIES: Final = tuple(c for c in taxonomy().categories if c != TOXICITY)


class CorrectionError(ValueError):
    """A correction that says nothing, or what its content cannot be asked; ``field`` names where.

    Messages never repeat the caller's text.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One person's answers about one content; what is None was not said.

    ``label`` answers the content's own question (does the prompt ask for harm, does the response
    give it, is the text toxic, does the document attack the model). A prompt may be asked two more:
    is it an ``attack`` on the model, is it rude (``toxicity``). ``categories`` are all that an
    unsafe content is about; empty means that they are not known. ``verdict`` is what the service
    itself said at ``time``, and ``agrees`` whether that was the same.
    """

    content: Content
    time: datetime
    label: Label | None = None
    attack: bool | None = None
    toxicity: bool | None = None
    categories: tuple[str, ...] = ()
    comment: str | None = None
    reviewer: str | None = None
    key: str | None = None
    verdict_id: str | None = None
    verdict: Mapping[str, Any] | None = None
    agrees: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            CorrectionError: naming the field.
        """
        if not self.content.text.strip():
            raise CorrectionError("input", "is blank: there is nothing to judge")
        if self.content.question != "prompt":
            if self.attack is not None:
                if self.content.question == ATTACK:
                    raise CorrectionError("attack", "is asked of prompts only, use 'label'")
                raise CorrectionError("attack", "only a prompt can be an attack")
            if self.toxicity is not None:
                meant = "use 'label'" if self.content.question == TOXICITY else "not a response"
                raise CorrectionError("toxicity", f"is asked of prompts only, {meant}")
        if self.label is None and self.attack is None and self.toxicity is None:
            raise CorrectionError("label", "is missing ('attack' or 'toxicity' would do)")
        if self.categories and (self.label != "unsafe" or self.content.question == ATTACK):
            raise CorrectionError("categories", "only what is unsafe has categories, no document")
        if not set(self.categories) <= set(CATEGORIES):
            raise CorrectionError("categories", f"must be of {', '.join(CATEGORIES)}")

    @property
    def id(self) -> str:
        """Made of who says it about what, so that saying it again replaces what was said before.

        Neither the verdict's id nor the answers take part: whoever changes their mind about a text
        has one opinion of it, however often the text was judged.
        """
        content = self.content
        who_and_what = [self.key, self.reviewer, content.question, content.context, content.text]
        return "fb-" + hashlib.sha256(json.dumps(who_and_what).encode()).hexdigest()[:32]

    @property
    def author(self) -> tuple[str | None, str | None]:
        """Whose vote it is. A reviewer's name is a claim of the key's holder, so both count."""
        return self.key, self.reviewer

    @property
    def answers(self) -> dict[str, bool]:
        """What was said, by question: ``prompt``, ``response``, ``toxicity``, ``attack``.

        A prompt that is called safe is neither an attack nor rude, unless that was said as well:
        "safe" means that there is nothing to object to. "Unsafe" leaves the other two open.
        """
        said: dict[str, bool] = {}
        if self.label is not None:
            said[self.content.question] = self.label == "unsafe"
        if self.content.question == "prompt":
            if self.label == "safe":
                said |= {ATTACK: False, TOXICITY: False}
            if self.attack is not None:
                said[ATTACK] = self.attack
            if self.toxicity is not None:
                said[TOXICITY] = self.toxicity
        return said

    def agrees_with(self, verdict: Verdict) -> bool:
        """Whether a verdict of the content gives the same answers; categories are not compared.

        A question that the policy did not ask counts as answered with "no", and a policy that
        only scores as if it acted.
        """
        found = {
            ATTACK: _reached(verdict.attack),
            TOXICITY: _reached(verdict.categories.get(TOXICITY)),
        }
        if verdict.threshold is None:
            # The policy does not ask the overall question: its categories give the answer.
            found[self.content.question] = (verdict.withheld or verdict.action) != Action.ALLOW
        else:
            found[self.content.question] = verdict.score >= verdict.threshold
        return all(found[question] == answer for question, answer in self.answers.items())

    def as_json(self) -> dict[str, Any]:
        """Plain data, as ``parse`` reads it."""
        return {
            "id": self.id,
            "time": self.time.isoformat(timespec="milliseconds"),
            "question": self.content.question,
            "text": self.content.text,
            "context": self.content.context,
            "label": self.label,
            "attack": self.attack,
            "toxicity": self.toxicity,
            "categories": list(self.categories),
            "comment": self.comment,
            "reviewer": self.reviewer,
            "key": self.key,
            "verdict_id": self.verdict_id,
            "verdict": self.verdict,
            "agrees": self.agrees,
        }


def _reached(found: CategoryScore | None) -> bool:
    return found is not None and found.score >= found.threshold


def parse(raw: Mapping[str, Any]) -> Correction:
    """A correction from what ``as_json`` wrote.

    Raises:
        CorrectionError: naming the field that is missing or wrong.
    """
    for field in ("time", "question", "text"):
        if not isinstance(raw.get(field), str):
            raise CorrectionError(field, "must be a text")
    for field in ("context", "comment", "reviewer", "key", "verdict_id"):
        if not isinstance(raw.get(field), str | None):
            raise CorrectionError(field, "must be a text or null")
    for field in ("attack", "toxicity", "agrees"):
        if not isinstance(raw.get(field), bool | None):
            raise CorrectionError(field, "must be true, false or null")
    if not isinstance(raw.get("verdict"), dict | None):
        raise CorrectionError("verdict", "must be an object or null")
    named = raw.get("categories") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise CorrectionError("categories", "must be texts")
    if raw["question"] not in get_args(Question):
        raise CorrectionError("question", f"must be of {', '.join(get_args(Question))}")
    if raw.get("label") not in (None, *get_args(Label)):
        raise CorrectionError("label", f"must be of {', '.join(get_args(Label))}")
    try:
        time = datetime.fromisoformat(raw["time"])
    except ValueError:
        raise CorrectionError("time", "must be an ISO 8601 time") from None
    return Correction(
        content=Content(raw["question"], raw["text"], raw.get("context")),
        time=time if time.tzinfo else time.replace(tzinfo=UTC),
        label=raw.get("label"),
        attack=raw.get("attack"),
        toxicity=raw.get("toxicity"),
        categories=tuple(named),
        comment=raw.get("comment"),
        reviewer=raw.get("reviewer"),
        key=raw.get("key"),
        verdict_id=raw.get("verdict_id"),
        verdict=raw.get("verdict"),
        agrees=raw.get("agrees"),
    )


def write_lines(corrections: Iterable[Correction], path: Path) -> int:
    """Write one JSON object a line, gzipped for ``*.gz``, for the owner's eyes only; the count."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    count = 0
    try:
        with gzip.open(part, "wt") if path.suffix == ".gz" else part.open("w") as stream:
            for correction in corrections:
                stream.write(json.dumps(correction.as_json()) + "\n")
                count += 1
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)  # It holds texts, and nobody would look for it.
        raise
    return count


def read_lines(path: Path) -> Iterator[Correction]:
    """Read what ``write_lines`` wrote.

    Raises:
        ValueError: naming file, line and field, never the text.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                raw = json.loads(line)
                if not isinstance(raw, dict):
                    raise ValueError(f"{path.name} line {number}: must be an object")
                yield parse(raw)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name} line {number}: not JSON ({error.msg})") from None
            except CorrectionError as error:
                raise ValueError(f"{path.name} line {number}: {error}") from None
