"""``tamis train clean | plant | judge | hard | disagree``: which rows are worth training on."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.cli.common import Commands, chosen, load_classifier, whole

if TYPE_CHECKING:
    import numpy as np

    from training.curation.judge import Judge
    from training.datasets.schema import Row


def add_to(stages: Commands) -> None:
    """Add the stages."""
    variants = ("permissive", "all")
    clean = stages.add_parser("clean", help="drop rows whose label looks wrong")
    clean.add_argument("--data", type=Path, nargs="+", required=True, help="folders of rows")
    clean.add_argument("--out", type=Path, required=True, help="folder of what is kept; resumes")
    clean.add_argument("--variant", choices=variants)
    clean.add_argument("--by", choices=("source", "target", "all"), help="one mixture for each")
    clean.add_argument("--force", action="store_true", default=None, help="drop where it refuses")
    _recipe_options(clean)
    clean.set_defaults(run=_clean)

    plant = stages.add_parser("plant", help="measure what finds labels that are known to be wrong")
    plant.add_argument("--data", type=Path, nargs="+", required=True, help="folders of rows")
    plant.add_argument("--out", type=Path, required=True, help="folder of table and plots; resumes")
    plant.add_argument("--variant", choices=variants)
    plant.add_argument("--seeds", type=whole, help="plantings of each share (default 3)")
    plant.add_argument("--limit", type=whole, help="rows of each target at most")
    _recipe_options(plant)
    plant.set_defaults(run=_plant)

    judge = stages.add_parser("judge", help="drop rows that an independent judge contradicts")
    judge.add_argument("--rows", type=Path, nargs="+", required=True, help="folders of rows")
    judge.add_argument("--out", type=Path, required=True, help="folder of what is kept; resumes")
    judge.add_argument(
        "--judge",
        required=True,
        metavar="WHO",
        help="'linear', the folder of a checkpoint or bundle, or the URL of an API",
    )
    judge.add_argument("--real", type=Path, help="folder of real rows that 'linear' learns from")
    judge.add_argument("--model", help="the model's name behind a URL (key: OPENAI_API_KEY)")
    judge.add_argument("--confidence", type=float, help="of a contradiction (default 0.8)")
    judge.set_defaults(run=_judge)

    hard = stages.add_parser("hard", help="keep rows that a trained classifier finds hard")
    hard.add_argument("--data", type=Path, nargs="+", required=True, help="folders of rows")
    hard.add_argument("--out", type=Path, required=True, help="folder of hard rows; resumes")
    hard.add_argument("--checkpoint", type=Path, required=True, help="of 3 epochs or more")
    hard.add_argument("--drop", type=float, help="share that is noise (default 0.2)")
    hard.add_argument("--variant", choices=variants)
    hard.add_argument("--limit", type=whole, help="only so many rows, drawn at random")
    hard.set_defaults(run=_hard)

    disagree = stages.add_parser("disagree", help="list rows whose label a classifier contradicts")
    disagree.add_argument("--data", type=Path, nargs="+", required=True, help="folders of rows")
    disagree.add_argument("--out", type=Path, required=True, help="folder of the list; resumes")
    disagree.add_argument("--checkpoint", type=Path, required=True, help="a calibrated one")
    disagree.add_argument("--count", type=whole, help="rows to list at most (default 1500)")
    disagree.add_argument("--variant", choices=variants)
    disagree.add_argument("--limit", type=whole, help="ask about so many rows, drawn at random")
    disagree.set_defaults(run=_disagree)


def _recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entropy-weight", type=float, help="of H in J = L - w H")
    parser.add_argument("--components", type=whole, help="of the mixture")
    parser.add_argument("--epochs", type=whole)
    parser.add_argument("--members", type=whole, help="networks whose losses are averaged")
    parser.add_argument("--seed", type=int)


_RECIPE = ("entropy_weight", "components", "epochs", "members", "seed")


def _clean(args: argparse.Namespace) -> int:
    from training.curation.clean import clean
    from training.curation.entropy import Recipe

    recipe = Recipe(**chosen(args, *_RECIPE))
    report = clean(args.data, args.out, recipe, **chosen(args, "variant", "by", "force"))
    for name, group in report["groups"].items():
        print(f"{name:<40} {group['dropped']:>6} of {group['rows']:<6} {group['refused'] or ''}")
    rows = report["rows"]
    print(f"{rows['kept']} of {rows['read']} rows kept")
    return 0


def _plant(args: argparse.Namespace) -> int:
    from training.curation.entropy import Recipe
    from training.curation.planted import plant, table

    recipe = Recipe(**chosen(args, *_RECIPE))
    found = plant(args.data, args.out, recipe, **chosen(args, "variant", "seeds", "limit"))
    print(table(found))
    return 0


def _judge(args: argparse.Namespace) -> int:
    from training.curation.judge import judge_of
    from training.curation.judging import judge

    if (Path(args.judge) / "manifest.json").is_file():
        who: Judge = BundleJudge(Path(args.judge))
    else:
        who = judge_of(args.judge, args.real, args.model)
    report = judge(args.rows, args.out, who, **chosen(args, "confidence"))
    for name, rates in report["by"]["label"].items():
        print(f"label {name}: disagrees {rates['disagrees']:.1%}, dropped {rates['dropped']:.1%}")
    print(f"{report['rows']['kept']} of {report['rows']['read']} rows kept")
    return 0


def _hard(args: argparse.Namespace) -> int:
    from training.curation.hard import hard

    options = chosen(args, "drop", "variant", "limit")
    report = hard(args.data, args.out, args.checkpoint, **options)
    if report["warning"]:
        print(f"warning: {report['warning']}")
    for name, target in report["targets"].items():
        cut = target["cut"]
        print(f"{name:<10} {cut['hard']:>6} hard, {cut['dropped']:>6} dropped of {target['rows']}")
    return 0


def _disagree(args: argparse.Namespace) -> int:
    from training.curation.disagree import disagree

    options = chosen(args, "count", "variant", "limit")
    report = disagree(args.data, args.out, args.checkpoint, **options)
    for name, rows in report["listed_by"]["source"].items():
        if rows["chosen"]:
            print(f"{name:<40} {rows['chosen']:>6} of {rows['rows']}")
    rows = report["rows"]
    print(f"{rows['listed']} listed, {report['contradicted']} contradicted of {rows['asked']}")
    return 0


class BundleJudge:
    """A bundle, asked through the engine that serves: without torch, by its own calibration."""

    def __init__(self, folder: Path) -> None:
        self._classifier = load_classifier(folder)
        self.name = self._classifier.bundle.name
        self.identity = self._classifier.bundle.fingerprint

    def unsafe(self, rows: "Sequence[Row]") -> "np.ndarray":
        """(n,): the overall score of each row's judged text."""
        import numpy as np

        from training.evaluation.suite import content_of

        found = (self._classifier.judge(content_of(row)) for row in rows)
        return np.array([finding.overall for finding in found])
