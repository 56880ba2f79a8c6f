"""``tamis moderate --input``: judge the rows of a file."""

import argparse
import functools

from tamis.cli.common import (
    CommandError,
    check_tier,
    given,
    multilingual_of,
    policy_of,
    settings_of,
    whole,
)

# Options that make no sense without a file.
OPTIONS = (
    *("output", "prompt_field", "response_field", "messages_field", "text_field", "id_field"),
    *("keep", "explain", "limit", "on_error", "overwrite", "threads", "quiet", "ray"),
    *("workers", "part_rows"),
)


def add_options(bulk: "argparse._ArgumentGroup") -> None:
    """Options that go with ``--input``; each is None where it was not given."""
    formats = ".jsonl, .jsonl.gz or .parquet"
    add = functools.partial(bulk.add_argument, default=None)
    add("--input", metavar="PATH", help=f"{formats}, a folder of them, or '-'")
    add("--output", metavar="PATH", help=f"{formats}; default '-': standard output")
    for name, what in (
        ("prompt", "users' requests (default 'prompt')"),
        ("response", "models' responses to them (default 'response')"),
        ("messages", "conversations (default 'messages')"),
        ("text", "posts and comments (default 'text')"),
    ):
        add(f"--{name}-field", metavar="COLUMN", help=f"column of {what}")
    add("--id-field", metavar="COLUMN", help="column of the rows' ids (default 'id')")
    add("--keep", metavar="A,B", help="columns to pass through; 'all' for all; default: none")
    add("--explain", choices=("evidence",), help="add the words that decided")
    add("--limit", type=whole, metavar="N", help="judge the first N rows")
    add(
        "--on-error",
        choices=("record", "skip", "fail"),
        help="what to do with a malformed row: put an error in its place (default), leave it out, "
        "or stop; the exit status is 2 after the first two",
    )
    add("--overwrite", action="store_true", help="begin anew instead of going on")
    add("--threads", type=whole, metavar="N", help="cores to compute on (default: all; Ray: 1)")
    add("--quiet", action="store_true", help="no progress on standard error")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster (default: RAY_ADDRESS, else one started here); --output is then "
        "a folder of parts",
    )
    add("--workers", type=whole, metavar="N", help="with --ray: workers, of --threads cores each")
    add("--part-rows", type=whole, metavar="N", help="with --ray: rows of a part (default 5000)")


def run(args: argparse.Namespace) -> int:
    """Judge the rows of a file, here or on a cluster."""
    from service.bulk.job import Job
    from service.bulk.rows import Columns

    if args.text is not None:
        raise CommandError("moderate: give a text or --input, not both")
    if not args.input:
        # A shell's variable that is not set; as a path it would be this folder with all in it.
        raise CommandError("--input: must name a file or a folder, or '-' for standard input")
    if stray := given(args, ("response", "json")):
        raise CommandError(f"{stray[0]}: goes with a text, not with --input")
    check_tier(args.tier, args.bundle, args.accurate)
    fields = ("prompt", "response", "messages", "text", "id")
    columns = {name: column for name in fields if (column := getattr(args, f"{name}_field"))}
    settings = settings_of({})
    job = Job(
        input=args.input,
        output=args.output or "-",
        policy=policy_of(args.policy, encoded=True),
        bundle_path=args.bundle,
        tier=args.tier or "fast",
        accurate_path=args.accurate,
        multilingual_path=multilingual_of(args.multilingual),
        columns=Columns(**columns, keep=_names(args.keep or "")),
        only=args.judge,
        evidence=args.explain == "evidence",
        threads=args.threads,
        limit=args.limit,
        on_error=args.on_error or "record",
        max_characters=settings.max_text_characters,
        cache_bytes=settings.cache_bytes,
        overwrite=bool(args.overwrite),
        quiet=bool(args.quiet),
    )
    if args.ray is None:
        from service.bulk import local

        if stray := given(args, ("workers", "part_rows")):
            raise CommandError(f"{stray[0]}: goes with --ray")
        return local.run(job)
    from service.bulk import cluster

    where = cluster.Cluster(args.ray or None, args.workers, args.part_rows or cluster.PART_ROWS)
    return cluster.run(job, where)


def _names(given: str) -> tuple[str, ...]:
    """Columns with a comma between them, and a blank where somebody put one."""
    return tuple(name.strip() for name in given.split(",")) if given else ()
