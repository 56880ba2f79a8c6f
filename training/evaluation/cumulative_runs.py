"""Train and measure the cumulative ablation, and write its table.

    python -m training.evaluation.cumulative_runs --data DATA --out RUNS --steps 150 --seeds 0 1 \
        [--only ROW …] [--synthetic SYN] [--eval-rows 1000] [--docs docs]

``DATA`` holds ``train``, ``annotated``, ``contexts`` and ``eval``. A run is ``RUNS/ROW-SEED``; the
same call goes on where it was stopped, and leaves alone what is finished. A finished checkpoint
that was put there, from wherever, is measured as it is. All runs are measured on the same rows.
"""

import argparse
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tamis.policies.parsing import default_policy
from tamis.verdict import Provenance
from training.classifier import trainer
from training.classifier.inference import predict
from training.classifier.recipe import Recipe
from training.classifier.trainer import held_out_quality
from training.datasets import mixing, readings, registry
from training.datasets.registry import source_of
from training.datasets.schema import (
    Row,
    data_files,
    fingerprint,
    read_pairs,
    read_rows,
    write_lines,
)
from training.evaluation import ablation, cumulative, held_out, suite
from training.evaluation.checkpoint import CheckpointJudge
from training.evaluation.cumulative import Variant

FOLDERS: Final = ("train", "annotated", "contexts")
SETTINGS: Final = "variant.json"
FINISHED: Final = "calibration.json"


class RunError(RuntimeError):
    """A run that cannot be made as it was asked for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for: folders of rows by name, and where runs go."""

    data: Mapping[str, Path]
    out: Path
    steps: int
    synthetic: Path | None = None

    def folder(self, name: str, seed: int) -> Path:
        """Where a run lies."""
        return self.out / f"{name}-{seed}"

    def rows_of(self, variant: Variant) -> list[Path]:
        """The folders that a row learns from."""
        return [self.data[name] for name in variant.data] + list(filter(None, [self.synthetic]))


def train(variant: Variant, seed: int, plan: Plan) -> Path:
    """Train and calibrate one run, or go on with it, or leave it alone where it is finished.

    Raises:
        RunError: where it was begun with other settings, or its teacher is not there.
    """
    folder = plan.folder(variant.name, seed)
    if (folder / FINISHED).exists() and not (folder / SETTINGS).exists():
        return folder  # made elsewhere
    teachers: tuple[str, ...] = ()
    if variant.teacher is not None:
        teacher = plan.folder(variant.teacher, seed)
        if not (teacher / FINISHED).exists():
            raise RunError(f"{folder.name} learns from {teacher.name}, which is not finished")
        teachers = (str(teacher),)
    _check(folder, variant, seed, plan)
    if (folder / FINISHED).exists():
        return folder
    # The last step counts: which one is best is not asked.
    settings: dict[str, Any] = {"steps": plan.steps, "check_every": plan.steps, "seed": seed}
    recipe = Recipe(**settings | dict(variant.recipe), teachers=teachers)
    with ExitStack() as stack:
        stack.enter_context(registry.meaning(variant.labels))
        if not variant.readings:
            stack.enter_context(readings.unread())
        if not (folder / "training.json").exists():
            trainer.train(plan.rows_of(variant), folder, recipe)
        trainer.calibrate(plan.rows_of(variant), folder)
    return folder


def _check(folder: Path, variant: Variant, seed: int, plan: Plan) -> None:
    """Refuse to go on with what was begun otherwise: rows would not be comparable."""
    told = asdict(variant) | {"seed": seed, "steps": plan.steps}
    told |= {"synthetic": plan.synthetic is not None}
    # As JSON has it, and without what is only said on the page.
    wanted = json.loads(json.dumps({k: v for k, v in told.items() if k not in ("row", "what")}))
    path = folder / SETTINGS
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        if others := sorted(k for k in wanted.keys() | begun if wanted.get(k) != begun.get(k)):
            raise RunError(
                f"{folder} was begun with other settings ({', '.join(others)}): remove it, or "
                "choose another --out"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def yardstick(plan: Plan) -> list[Row]:
    """Held-out rows that no run has seen, under today's labels.

    A twin is held out with its group; its prompt alone may be learnt from where groups are not
    known, so both have to be.
    """
    folders = [plan.data[name] for name in FOLDERS]
    _, held = mixing.split(mixing.load(folders, "permissive"))
    return [
        row
        for row in held
        if mixing.is_held_out_prompt(row.prompt) and not source_of(row).synthetic
    ]


def sample(data: Path, out: Path, most: int) -> Path:
    """Of each set that is shown at most so many rows, evenly drawn; the same at every call.

    Raises:
        RunError: where a set is not there.
    """
    folder = out / f"eval-{most}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in cumulative.sets():
        path = data / f"{name}.jsonl.gz"
        if not path.exists():
            raise RunError(f"{path} is not there")
        lines = [line for line, _ in read_pairs(path)]
        picked = (
            [lines[n * len(lines) // most] for n in range(most)] if len(lines) > most else lines
        )
        write_lines(folder / path.name, picked)
    return folder


def measured_on(held: Sequence[Row], sets: Path) -> str:
    """What rows are called: records of others, or of other labels, do not stand beside them."""
    digest = hashlib.sha256(fingerprint(list(held)).encode())
    for row in held:
        digest.update(repr(sorted(source_of(row).labels_of(row).items())).encode())
    for path in data_files(sets):
        digest.update(fingerprint(list(read_rows(path))).encode())
    return f"{sets.name}-{digest.hexdigest()[:12]}"


def measure(
    folder: Path, variant: Variant, seed: int, held: list[Row], sets: Path, on: str
) -> dict[str, Any]:
    """One run's record, kept beside its folder; measured anew ``on`` other rows than those."""
    path = folder.with_name(f"{folder.name}.json")
    if path.exists() and path.stat().st_mtime_ns >= (folder / FINISHED).stat().st_mtime_ns:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["measured_on"] == on:
            return record
    judge = CheckpointJudge(folder)
    training = judge.checkpoint.training
    english = [row for row in held if row.english]
    others = [row for row in held if not row.english]
    policy = default_policy()
    who = Provenance(folder.name, "", policy.name, policy.version)
    answers = [row for row in english if row.severity is not None and row.stance is not None]
    figures = suite.evaluate(sets, judge.judge_all, policy, judge.thresholds, who)["sets"]
    record = {
        "row": variant.name,
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "base": training["recipe"]["base"],
        "steps": training["steps"],
        "rows": training["rows"],
        "seconds": training["seconds"],
        "peak_memory_mb": training["peak_memory_mb"],
        "data_sha256": training["data_sha256"][:12],
        "measured_on": on,
        "held_out": quality(judge, english),
        "other_languages": quality(judge, others),
        "refusals": held_out.measure(answers, judge.judge_all, policy, judge.thresholds, who)[
            "refusals"
        ],
        "sets": {
            name: {key: row[key] for key in ablation.FIGURES} for name, row in figures.items()
        },
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def quality(judge: CheckpointJudge, rows: list[Row]) -> float | None:
    """Mean average precision over sources and questions; None where no source has both labels."""
    if not rows:
        return None
    examples = judge.checkpoint.encode(rows)
    found = held_out_quality(rows, examples, predict(judge.checkpoint.model, examples))
    return None if math.isnan(found) else round(found, 4)


def run(
    plan: Plan, sets: Path, seeds: Sequence[int], only: Sequence[str], docs: Path | None = None
) -> list[dict[str, Any]]:
    """All rows for the first seed, then for the next; the records of all that is finished.

    Raises:
        RunError: where a run cannot be made as it was asked for.
    """
    rows = cumulative.variants()
    if unknown := set(only) - {variant.name for variant in rows}:
        raise RunError(f"no such row: {', '.join(sorted(unknown))}")
    plan.out.mkdir(parents=True, exist_ok=True)
    held = yardstick(plan)
    on = measured_on(held, sets)
    for seed in seeds:
        for variant in rows:
            if not only or variant.name in only:
                folder = train(variant, seed, plan)
                found = measure(folder, variant, seed, held, sets, on)
                print(f"{folder.name}: {found['steps']} steps, held out {found['held_out']}")
                if docs is not None:
                    _write(collect(plan.out, on), docs)
    return collect(plan.out, on)


def collect(out: Path, on: str) -> list[dict[str, Any]]:
    """The records in a folder of runs that were measured on these rows, by row and seed."""
    order = [variant.name for variant in cumulative.variants()]
    told = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*-*.json")]
    found = [one for one in told if one["row"] in order and one["measured_on"] == on]
    return sorted(found, key=lambda record: (order.index(record["row"]), record["seed"]))


def _write(records: list[dict[str, Any]], docs: Path) -> None:
    text = json.dumps(records, indent=1) + "\n"
    (docs / "measurements" / cumulative.FILE).write_text(text, encoding="utf-8")
    page = ablation.render(docs / "measurements") + "\n"
    (docs / "ablation.md").write_text(page, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW")
    parser.add_argument("--synthetic", type=Path, help="generated rows, for every row alike")
    parser.add_argument("--eval-rows", type=int, default=1000, help="of each set (1000)")
    parser.add_argument("--docs", type=Path, help="write measurements and page there")
    return parser.parse_args()


def main() -> None:
    """The command."""
    arguments = _arguments()
    plan = Plan(
        {name: arguments.data / name for name in FOLDERS},
        arguments.out,
        arguments.steps,
        arguments.synthetic,
    )
    try:
        sets = sample(arguments.data / "eval", arguments.out, arguments.eval_rows)
        records = run(plan, sets, arguments.seeds, arguments.only, arguments.docs)
    except RunError as error:
        raise SystemExit(str(error)) from None
    print(cumulative.table(records))


if __name__ == "__main__":
    main()
