"""``tamis train synthesize | contrasts | padded | slips | similar``: rows that data lacks."""

import argparse
from pathlib import Path

from tamis.cli.common import Commands, chosen, whole


def add_to(stages: Commands) -> None:
    """Add the stages."""
    synthesize = stages.add_parser("synthesize", help="write synthetic rows from the seeds")
    synthesize.add_argument("--out", type=Path, required=True, help="folder of rows; resumes")
    synthesize.add_argument("--count", type=whole, required=True, help="rows to have in the end")
    synthesize.add_argument(
        "--generator", help="'templates' (default), a base to run here, or the URL of an API"
    )
    synthesize.add_argument("--model", help="the model's name behind a URL (key: OPENAI_API_KEY)")
    synthesize.add_argument("--seeds", type=Path, help="seed file (default: the project's)")
    synthesize.add_argument("--categories", nargs="+", default=[], help="only these")
    synthesize.add_argument("--exclude", type=Path, help="folder of rows that none may repeat")
    synthesize.add_argument("--responses", type=float, help="share of answers (default 0.2)")
    synthesize.add_argument("--batch", type=whole, help="prompts written to at the same time")
    synthesize.add_argument("--max-new-tokens", type=whole)
    synthesize.add_argument("--temperature", type=float)
    synthesize.add_argument("--seed", type=int)
    synthesize.set_defaults(run=_synthesize)

    contrasts = stages.add_parser("contrasts", help="write out the rows that were written by hand")
    contrasts.add_argument("--out", type=Path, required=True, help="folder of rows")
    contrasts.add_argument("--exclude", type=Path, help="folder of rows that none may repeat")
    contrasts.set_defaults(run=_contrasts)

    padded = stages.add_parser("padded", help="put short rows that were read among calm sentences")
    padded.add_argument("--data", type=Path, nargs="+", required=True, help="folders of rows")
    padded.add_argument("--out", type=Path, required=True, help="folder of rows")
    padded.add_argument("--count", type=whole, default=6000, help="rows at most (6000)")
    padded.add_argument("--seed", type=int)
    padded.set_defaults(run=_padded)

    slips = stages.add_parser("slips", help="misspell rows that were read, of both labels alike")
    slips.add_argument("--data", type=Path, nargs="+", required=True, help="folders of rows")
    slips.add_argument("--out", type=Path, required=True, help="folder of rows")
    slips.add_argument("--count", type=whole, default=4000, help="rows at most (4000)")
    slips.add_argument("--seed", type=int)
    slips.set_defaults(run=_slips)

    similar = stages.add_parser("similar", help="keep synthetic rows that look like real ones")
    similar.add_argument("--real", type=Path, required=True, help="folder of real rows")
    similar.add_argument("--synthetic", type=Path, required=True, help="folder of synthetic rows")
    similar.add_argument("--out", type=Path, required=True, help="folder of what is kept; resumes")
    similar.add_argument("--tau", type=float, help="least cosine to the nearest (default 0.6)")
    similar.add_argument("--near", type=float, help="cosine of a repetition (default 0.95)")
    similar.add_argument("--variant", choices=("permissive", "all"), help="of the real rows")
    similar.set_defaults(run=_similar)


def _synthesize(args: argparse.Namespace) -> int:
    from training.synthesis.synthesize import Settings, synthesize

    names = ("generator", "model", "responses", "batch", "max_new_tokens", "temperature", "seed")
    settings = Settings(args.count, categories=tuple(args.categories), **chosen(args, *names))
    report = synthesize(args.out, settings, args.seeds, args.exclude)
    print(f"{report['rows']} rows in {report['seconds']} s; kept of what was made:")
    for task, share in report["kept_share"].items():
        print(f"  {task:<12} {share:.2f} of {report['candidates'][task]}")
    return 0


def _contrasts(args: argparse.Namespace) -> int:
    from training.synthesis.contrasts import write

    written, dropped = write(args.out, args.exclude)
    print(f"{written} rows; {dropped} repeat what is excluded")
    return 0


def _padded(args: argparse.Namespace) -> int:
    from training.synthesis.padded import write

    print(f"{write(args.data, args.out, args.count, **chosen(args, 'seed'))} rows")
    return 0


def _slips(args: argparse.Namespace) -> int:
    from training.synthesis.slips import write

    print(f"{write(args.data, args.out, args.count, **chosen(args, 'seed'))} rows")
    return 0


def _similar(args: argparse.Namespace) -> int:
    from training.curation.similarity import similar

    report = similar(args.real, args.synthetic, args.out, **chosen(args, "tau", "near", "variant"))
    for reason, count in report["reasons"].items():
        print(f"{reason:<24} {count}")
    return 0
