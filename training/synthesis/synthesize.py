"""The stage ``tamis train synthesize``: rows in the one data schema, with a report beside them.

Rows carry where they come from in fields that the schema ignores: leaf, tier, generator, task.
Interrupted, the same call goes on after the last shard.
"""

import gzip
import hashlib
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from training.datasets.contamination import Seen
from training.datasets.schema import write_lines
from training.synthesis.distinctness import variety
from training.synthesis.filters import Candidate, Filters, OnTopic
from training.synthesis.generator import Generator, Sampling, generator
from training.synthesis.plan import TUNED, Item, Planner
from training.synthesis.seeds import SOURCE, Seeds, load_seeds

TEMPLATES: Final = "templates"
# A shard is written when it holds this many rows or so many seconds of work.
SHARD: Final = 1000
SHARD_S: Final = 60
TEMPLATE_BATCH: Final = 500
# Below this share of kept rows over the last GIVE_UP candidates there is nothing new to be said.
EXHAUSTED: Final = 0.02
GIVE_UP: Final = 5000
EXAMPLES: Final = 3
EXAMPLE_IDS: Final = 20


class SynthesisError(RuntimeError):
    """A run that cannot start or go on; the message says what to put right."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides the rows, besides the code and the seeds."""

    count: int
    generator: str = TEMPLATES
    model: str | None = None
    categories: tuple[str, ...] = ()
    seed: int = 0
    responses: float = 0.2
    # Prompts written to at the same time. On two cores: 16 → 103, 32 → 98, 64 → 115 tokens/s.
    batch: int = 64
    max_new_tokens: int = 48
    temperature: float = 0.8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise SynthesisError("--count must be at least 1")
        if not 0 <= self.responses <= 1:
            raise SynthesisError("--responses must be a share between 0 and 1")
        if self.batch < 1:
            raise SynthesisError("--batch must be at least 1")


@dataclass(slots=True)
class Progress:
    """How far a run is; written after every shard."""

    settings: dict[str, Any]
    next: int = 0
    shards: int = 0
    seconds: float = 0.0
    tokens: int = 0
    candidates: dict[str, int] = field(default_factory=dict)
    """By task (or ``templates``): candidates made."""
    kept: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """By task: reason → candidates."""
    dropped_leaves: dict[str, list[str]] = field(default_factory=dict)
    """By reason: the first few leaves, to look at; never texts."""
    dropped_ids: dict[str, list[str]] = field(default_factory=dict)
    """By reason: the ids that the first few would have had."""


def synthesize(
    out: Path,
    settings: Settings,
    seeds_file: Path | None = None,
    exclude: Path | None = None,
    writer: Generator | None = None,
) -> dict[str, Any]:
    """Write ``out/rows-*.jsonl.gz`` and ``out/report.json``; returns the report.

    ``exclude`` is a folder of rows that nothing may repeat (the evaluation sets); ``writer``
    replaces the generator that the settings name.

    Raises:
        SynthesisError: where ``out`` holds a run with other settings.
        SeedError, GeneratorError: see there.
    """
    seeds = load_seeds(seeds_file)
    if settings.categories:
        seeds = seeds.only(list(settings.categories))
    banned = Seen.of(exclude) if exclude else None
    out.mkdir(parents=True, exist_ok=True)
    progress = _resume(out, settings, seeds, banned)
    rows = list(_read(out, progress.shards))
    if len(rows) < settings.count:
        if writer is None and settings.generator != TEMPLATES:
            sampling = Sampling(settings.max_new_tokens, settings.temperature)
            writer = generator(settings.generator, settings.model, sampling)
        on_topic = None
        if writer is not None:
            from training.curation.embedding import SentenceEncoder

            on_topic = OnTopic(seeds, SentenceEncoder())
        filters = Filters(banned, on_topic)
        for row in rows:
            filters.duplicates.reason(_duplicate_key(row))
        planner = _planner(seeds, settings, writer)
        try:
            rows += _Run(out, settings, progress, planner, filters, writer).rows(len(rows))
        finally:
            close = getattr(writer, "close", None)
            if close is not None:
                close()
    report = _report(rows, progress, seeds)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _planner(seeds: Seeds, settings: Settings, writer: Generator | None) -> Planner:
    if writer is not None and writer.tuned:
        # It was taught to write requests and has forgotten how to answer them.
        return Planner(seeds, settings.seed, 0.0, True, TUNED)
    return Planner(seeds, settings.seed, settings.responses, writer is not None)


class _Run:
    def __init__(
        self,
        out: Path,
        settings: Settings,
        progress: Progress,
        planner: Planner,
        filters: Filters,
        writer: Generator | None,
    ) -> None:
        self.out, self.settings, self.progress = out, settings, progress
        self.planner, self.filters, self.writer = planner, filters, writer

    def rows(self, have: int) -> list[dict[str, Any]]:
        """Make rows until there are enough, shard by shard."""
        settings, progress = self.settings, self.progress
        stored = time.monotonic()
        began = stored - progress.seconds
        made: list[dict[str, Any]] = []
        shard: list[dict[str, Any]] = []
        size = TEMPLATE_BATCH if self.writer is None else settings.batch
        recent: list[tuple[int, int]] = []
        bar = tqdm(total=settings.count, initial=have, desc="synthesize", unit="row")
        while have + len(made) + len(shard) < settings.count:
            items = [self.planner.item(progress.next + n) for n in range(size)]
            candidates, kept = self._batch(items)
            progress.next += size
            wanted = settings.count - have - len(made) - len(shard)
            shard += kept[:wanted]
            bar.update(len(kept[:wanted]))
            recent.append((candidates, len(kept)))
            if len(shard) >= SHARD or time.monotonic() - stored >= SHARD_S:
                self._store(shard, time.monotonic() - began)
                made, shard, stored = made + shard, [], time.monotonic()
            tried = sum(n for n, _ in recent)
            if tried >= GIVE_UP:
                if sum(k for _, k in recent) < EXHAUSTED * tried:
                    bar.write("synthesize: hardly anything new is left to say; stopping here")
                    break
                recent.pop(0)
        self._store(shard, time.monotonic() - began)
        bar.close()
        return made + shard

    def _batch(self, items: Sequence[Item]) -> tuple[int, list[dict[str, Any]]]:
        progress = self.progress
        asked = [item for item in items if item.prompt is not None]
        written = {}
        if self.writer is not None and asked:
            texts = self.writer.write(
                [item.prompt for item in asked if item.prompt is not None],
                seed=self.settings.seed * 1_000_003 + progress.next,
            )
            progress.tokens += sum(text.tokens for text in texts)
            written = {id(item): text for item, text in zip(asked, texts, strict=True)}
        pairs = [(item, c) for item in items for c in item.candidates(written.get(id(item)))]
        reasons = self.filters.reasons([candidate for _, candidate in pairs])
        kept = []
        for (item, candidate), reason in zip(pairs, reasons, strict=True):
            task = item.task or TEMPLATES
            _count(progress.candidates, task)
            if reason is None:
                _count(progress.kept, task)
                by = self.writer.name if self.writer is not None and item.task else TEMPLATES
                kept.append(_row(item, candidate, by))
                continue
            _count(progress.dropped.setdefault(task, {}), reason)
            leaves = progress.dropped_leaves.setdefault(reason, [])
            if len(leaves) < EXAMPLES:
                leaves.append(candidate.leaf.id)
            ids = progress.dropped_ids.setdefault(reason, [])
            if len(ids) < EXAMPLE_IDS:
                ids.append(row_id(candidate))
        return len(pairs), kept

    def _store(self, shard: list[dict[str, Any]], seconds: float) -> None:
        progress = self.progress
        if shard:
            lines = (json.dumps(row, ensure_ascii=False) for row in shard)
            write_lines(self.out / _shard_name(progress.shards), lines)
            progress.shards += 1
        progress.seconds = seconds
        state = {name: getattr(progress, name) for name in Progress.__slots__}
        unfinished = self.out / "progress.part"
        unfinished.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(self.out / "progress.json")


def row_id(candidate: Candidate) -> str:
    """The id of a candidate's row: a hash of its leaf and texts."""
    said = f"{candidate.leaf.id}\n{candidate.context}\n{candidate.text}"
    return f"{SOURCE}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _row(item: Item, candidate: Candidate, by: str) -> dict[str, Any]:
    leaf = item.leaf
    is_response = bool(candidate.context)
    return {
        "id": row_id(candidate),
        "source": SOURCE,
        "target": "response" if is_response else leaf.target,
        # A refusal of a harmful request is a safe answer.
        "label": item.label if is_response else leaf.label,
        "prompt": candidate.context if is_response else candidate.text,
        "response": candidate.text if is_response else None,
        "categories": [] if is_response and not item.label else list(leaf.names),
        "licence": "permissive",
        "leaf": leaf.id,
        "tier": item.tier,
        "generator": by,
        "task": item.task or TEMPLATES,
    }


def _duplicate_key(row: Mapping[str, Any]) -> str:
    is_response = row["target"] == "response"
    return f"{row['prompt']} {row['response']}" if is_response else f" {row['prompt']}"


def _resume(out: Path, settings: Settings, seeds: Seeds, banned: Seen | None) -> Progress:
    about = {name: getattr(settings, name) for name in Settings.__slots__ if name != "count"}
    about |= {
        "categories": list(settings.categories),
        "seeds_sha256": seeds.sha256,
        "exclude_sha256": banned.sha256 if banned else None,
    }
    path = out / "progress.json"
    progress = Progress(about)
    if path.exists():
        progress = Progress(**json.loads(path.read_text(encoding="utf-8")))
        changed = sorted(k for k in about if about[k] != progress.settings.get(k))
        if changed:
            raise SynthesisError(
                f"{out} holds a run with other settings ({', '.join(changed)}); use another --out"
            )
    for stray in out.glob("rows-*.jsonl.gz"):
        # Written after the progress that was last recorded: it is made again, the same.
        if stray.name >= _shard_name(progress.shards):
            stray.unlink()
    return progress


def _shard_name(number: int) -> str:
    return f"rows-{number:05d}.jsonl.gz"


def _read(out: Path, shards: int) -> Iterator[dict[str, Any]]:
    for number in range(shards):
        with gzip.open(out / _shard_name(number), "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _report(rows: list[dict[str, Any]], progress: Progress, seeds: Seeds) -> dict[str, Any]:
    def by(name: str) -> dict[str, int]:
        return dict(sorted(Counter(str(row[name]) for row in rows).items()))

    categories: dict[str, dict[str, Any]] = {}
    for row in rows:
        category = seeds.by_id[row["leaf"]].category
        found = categories.setdefault(category, {"unsafe": 0, "safe": 0, "examples": []})
        found["unsafe" if row["label"] else "safe"] += 1
        if len(found["examples"]) < EXAMPLES:
            found["examples"].append(row["id"])
    shares = {
        task: round(progress.kept.get(task, 0) / n, 4)
        for task, n in sorted(progress.candidates.items())
    }
    seconds = max(progress.seconds, 1e-9)
    made = sum(progress.kept.values())
    return {
        "settings": progress.settings,
        "rows": len(rows),
        "leaves": {"used": len({row["leaf"] for row in rows}), "all": len(seeds.leaves)},
        "by_label": by("label"),
        "by_target": by("target"),
        "by_tier": by("tier"),
        "by_task": by("task"),
        "by_generator": by("generator"),
        "categories": dict(sorted(categories.items())),
        "candidates": progress.candidates,
        "kept_share": shares,
        "dropped": {task: dict(sorted(d.items())) for task, d in sorted(progress.dropped.items())},
        "dropped_leaves": dict(sorted(progress.dropped_leaves.items())),
        "dropped_ids": dict(sorted(progress.dropped_ids.items())),
        "variety": variety([row["response"] or row["prompt"] for row in rows]),
        "seconds": round(progress.seconds, 1),
        "rows_per_second": round(made / seconds, 2),
        "tokens_per_second": round(progress.tokens / seconds, 1) if progress.tokens else None,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
