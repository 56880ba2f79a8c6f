"""Measure a reasoner: trained taxonomies on held-out rows, held-out taxonomies, and the bank."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml
from tqdm import tqdm

from tamis.content import Content, prompt
from tamis.reasoner.protocol import Format, Guideline
from training.classifier.inference import device, keep_memory
from training.datasets.mixing import FREE, Variant, is_held_out_prompt
from training.datasets.registry import sources
from training.reasoner import decode
from training.reasoner.cases import Pool, Sourced, pools_of, read_sourced
from training.reasoner.decode import Said
from training.reasoner.examples import Example, halved, whole
from training.reasoner.measures import beside, grounded, measure, pooled, single_rules
from training.reasoner.model import DEFAULT, form_of, load_reasoner, taught
from training.reasoner.policies import Library, library

Mode = Literal["scored", "generated"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
# Is each of these unsafe? The classifier's own answers on the same texts.
Flags = Callable[[Sequence[Content]], Sequence[bool]]
# Answers to texts under one policy.
Says = Callable[[Sequence[Example]], list[Said]]
GROUPS: Final = {
    "trained": "trained taxonomies, rows that were not trained on",
    "unseen": "taxonomies never trained on",
    "halved": "policies without every other category, whose texts are safe under them",
    "bank": "an invented bank's policy",
    "organisations": "written organisations never trained on",
}
# In these every rule is known of every text.
COMPLETE: Final = ("bank", "organisations")
# What is judged, by the question asked of it.
NOUNS: Final = {"prompt": "prompts", "response": "responses", "toxicity": "posts"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how."""

    mode: Mode = "generated"
    most: int = 60
    """Texts of either label, per taxonomy."""
    names_only: bool = False
    variant: Variant = "all"
    seed: int = 0
    only: tuple[str, ...] = ()
    """Taxonomies (default: all)."""
    trained: tuple[str, ...] | None = None
    """The taxonomies trained on (default: the adapter's report says)."""


def evaluate(
    data: Sequence[Path],
    adapter: Path | None,
    settings: Settings,
    flags: Flags | None = None,
    base: str = DEFAULT,
    form: Format | None = None,
    given: Library | None = None,
    says: Says | None = None,
    organisations: Sequence[Pool] = (),
) -> dict[str, Any]:
    """Figures by taxonomy, their means by group, and the classifier's figures on the same rows.

    A taxonomy of which both prompts and responses are judged counts as one of either.

    Args:
        data: folders of rows: training rows (the held-out slice is used) and evaluation sets.
        adapter: a checkpoint's folder; None measures the bare base.
        settings: see there.
        flags: the classifier; None leaves its figures out.
        base: what the adapter belongs to.
        form: of the answers.
        given: taxonomies (default: the project's).
        says: answers instead of base and adapter: a bundle as it is served.
        organisations: written ones that were not trained on, tested beside the taxonomies.

    Raises:
        FileNotFoundError, SchemaError, AdapterError: see there.
        ValueError: for taxonomies that do not exist.
    """
    keep_memory()
    known, form = given or library(), form or form_of(adapter)
    if stray := set(settings.only) - set(known.taxonomies) - {"bank"}:
        raise ValueError(f"--only: no taxonomy {min(stray)!r}")
    rows = read_sourced(data, settings.variant)
    trained = frozenset(settings.trained or _trained(adapter, known))
    work = list(_sets(rows, known, trained, settings))
    for pool in organisations:
        groups = whole([pool], settings.most, not settings.names_only, settings.seed)
        work += [("organisations", pool.taxonomy.name, examples) for examples in groups]
    says = says or _model(base, adapter, form, settings.mode)
    sets: dict[str, Any] = {}
    known_rules: dict[str, list[tuple[Example, Said]]] = {}
    began = time.monotonic()
    for group, title, examples in tqdm(work, desc="evaluate", unit="policy"):
        said = says(examples)
        if group in COMPLETE and said[0].rules is not None:
            for example, answer in zip(examples, said, strict=True):
                known_rules.setdefault(group, []).append((example, answer))
        for name, members in _by_question(title, examples).items():
            chosen, answers = [examples[n] for n in members], [said[n] for n in members]
            figures = measure(chosen, answers) | {"group": group}
            figures["question"] = chosen[0].content.question
            figures["grounded"] = grounded(chosen, answers)
            if flags is not None and group != "halved":
                figures["classifier"] = _classifier(chosen, flags)
            sets[name] = figures
    means = {
        group: pooled([f for f in sets.values() if f["group"] == group])
        for group in GROUPS
        if any(f["group"] == group for f in sets.values())
    }
    if flags is not None:
        for group, mean in means.items():
            found = [f for f in sets.values() if f["group"] == group and f.get("classifier")]
            mean["classifier"] = pooled([f["classifier"] for f in found]) if found else None
    return {
        "about": {
            "adapter": adapter.resolve().name if adapter else None,
            "base": Path(base).name if Path(base).is_dir() else base,
            "mode": settings.mode,
            "most": settings.most,
            "names_only": settings.names_only,
            "order": form.order,
            "device": str(device()),
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": round(time.monotonic() - began),
        },
        "sets": sets,
        "means": means,
    } | ({"rules": _single_rules(known_rules)} if known_rules else {})


def _single_rules(found: Mapping[str, list[tuple[Example, Said]]]) -> dict[str, dict[str, Any]]:
    """Calibration of single rules by group, in all and by what is judged."""
    told: dict[str, dict[str, Any]] = {}
    for group, pairs in found.items():
        asked = {NOUNS[q]: [p for p in pairs if p[0].content.question == q] for q in NOUNS}
        parts = {name: part for name, part in asked.items() if part}
        if len(parts) > 1:
            parts = {"all": pairs} | parts
        told[group] = {name: single_rules(*zip(*part, strict=True)) for name, part in parts.items()}
    return told


def bank() -> list[Example]:
    """The invented bank's policy over its 40 hand-written requests."""
    raw = yaml.safe_load(files("training.reasoner").joinpath("bank.yaml").read_text("utf-8"))
    policy = tuple(Guideline(name, text) for name, text in raw["categories"].items())
    names = set(raw["categories"])
    found = []
    for n, given in enumerate(raw["examples"]):
        if given["category"] is not None and given["category"] not in names:
            raise ValueError(f"bank.yaml: example {n} has an unknown category")
        found.append(
            Example(
                id=f"bank/{n}",
                view="bank",
                taxonomy="bank",
                policy=policy,
                content=prompt(given["prompt"]),
                category=given["category"],
                reason="",
                source="bank",
                licence="own",
            )
        )
    return found


def _trained(adapter: Path | None, known: Library) -> frozenset[str]:
    """The taxonomies that an adapter was trained on, by its report; else all not kept for tests."""
    if adapter is not None and (found := taught(adapter)) is not None:
        return found
    return frozenset(name for name, taxonomy in known.taxonomies.items() if not taxonomy.held_out)


def _sets(
    rows: Sequence[Sourced], known: Library, trained: frozenset[str], settings: Settings
) -> Iterator[tuple[str, str, list[Example]]]:
    """Group, title and texts of every set."""

    def wanted(name: str) -> bool:
        return not settings.only or name in settings.only

    held = pools_of(rows, known, held_out_rows=True)
    seen = pools_of(rows, known, held_out_rows=False)
    tests = known.pools.get("test_requests", frozenset())
    defined, seed = not settings.names_only, settings.seed
    for name, taxonomy in known.taxonomies.items():
        if not wanted(name):
            continue
        if name in trained:
            group, pool = "trained", held.get(name)
        else:
            group = "trained" if taxonomy.like in trained else "unseen"
            pool = _joined(held.get(name), seen.get(name), tests)
        if pool is None:
            continue
        for examples in whole([pool], settings.most, defined, seed):
            yield group, name, examples
        for examples in halved([pool], settings.most // 2, defined, seed):
            if {True, False} == {example.category is None for example in examples}:
                yield "halved", f"{name}, half", examples
    if wanted("bank"):
        yield "bank", "bank", bank()


def _joined(held: Pool | None, seen: Pool | None, tests: frozenset[str]) -> Pool | None:
    """All rows of a taxonomy that was never trained on.

    Its unsafe rows may all test. Safe rows of pools may have been trained on under another policy,
    so they come from the held-out slice, or are its own, or those of test sets.
    """
    if held is None or seen is None:
        return held or seen
    keys = [key for key in held.taxonomy.categories if key in held.unsafe or key in seen.unsafe]
    unsafe = {k: (*held.unsafe.get(k, ()), *seen.unsafe.get(k, ())) for k in keys}
    own = held.taxonomy.sources | tests
    safe = {
        name: (*held.safe.get(name, ()), *(seen.safe.get(name, ()) if name in own else ()))
        for name in sorted({*held.safe, *seen.safe})
    }
    safe = {name: cases for name, cases in safe.items() if cases}
    return Pool(held.taxonomy, unsafe, safe)


def _model(base: str, adapter: Path | None, form: Format, mode: Mode) -> Says:
    model, coder = load_reasoner(base, adapter)
    run = decode.scored if mode == "scored" else decode.generated
    return lambda examples: run(model, coder, form, examples)


def _by_question(title: str, examples: Sequence[Example]) -> dict[str, list[int]]:
    """Places of examples, by the set's title and, where it has several, what is judged of them."""
    found: dict[str, list[int]] = {}
    for n, example in enumerate(examples):
        found.setdefault(example.content.question, []).append(n)
    if len(found) == 1:
        return {title: list(range(len(examples)))}
    return {f"{title}, {NOUNS[question]}": members for question, members in found.items()}


def _classifier(examples: Sequence[Example], flags: Flags) -> dict[str, Any] | None:
    """The classifier's figures; None where it was trained on any of the texts.

    Of the others alone they would stand beside figures of other texts.
    """
    if any(map(_taught, examples)):
        return None
    flagged = flags([example.content for example in examples])
    truth = [example.category is not None for example in examples]
    right = sum(t == f for t, f in zip(truth, flagged, strict=True))
    hits = sum(t and f for t, f in zip(truth, flagged, strict=True))
    twice = sum(truth) + sum(flagged)
    return {
        "n": len(truth),
        "unsafe": sum(truth),
        "s_acc": round(right / len(truth), 4),
        "s_f1": round(2 * hits / twice, 4) if twice else None,
    }


def _taught(example: Example) -> bool:
    """Whether the shipped classifier was trained on a text: permissive rows, not held out."""
    content = example.content
    asked = content.text if content.context is None else content.context
    known = example.source in sources() and example.licence in FREE
    return known and not is_held_out_prompt(asked)


def table(results: dict[str, Any]) -> str:
    """The figures as an aligned text table."""
    columns = ("n", "unsafe", "parsed", "s_acc", "s_f1", "c_acc", "words")
    lines = [
        "".ljust(22) + "question".ljust(17) + "".join(c.rjust(8) for c in columns) + "  classifier"
    ]
    rows = [(n, f["question"], f) for n, f in results["sets"].items()]
    rows += [(f"mean {group}", "", mean) for group, mean in results["means"].items()]
    for name, question, figures in rows:
        cells = "".join(_cell(figures.get(c)).rjust(8) for c in columns)
        other = (beside(figures) or {}).get("s_acc")
        lines.append(name.ljust(22) + question.ljust(17) + cells + _cell(other).rjust(12))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def save(results: dict[str, Any], path: Path) -> None:
    """Write the figures as JSON."""
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
