"""What several commands need."""

import argparse
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args

from tamis import bundle as bundles
from tamis import rules
from tamis.bundle import MANIFEST
from tamis.content import Side
from tamis.policies.parsing import default_policy, load_policy
from tamis.policy import Policy, PolicyError
from tamis.reasoner import bundle as reasoners
from tamis.reasoner.protocol import GuidelineError
from tamis.rules import WHERE as ENCODER
from tamis.rules import policy_encoder_there
from tamis.tiers import ACCURATE, MULTILINGUAL, NONE, TIERS, Tier, load_bands
from tamis.verdict import Provenance

if TYPE_CHECKING:
    from pydantic import ValidationError

    from service.engine.classifier import Classifier
    from service.engine.reasoner.reasoner import Reasoner
    from service.engine.ruled import Judging, WithRules
    from service.settings import Settings

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
# Of policies that come one after the other only the last is asked for again.
REASONER_CACHE: Final = 1 << 26


class CommandError(RuntimeError):
    """Something the user can put right; printed without a traceback."""


def one_a_line(about: Mapping[str, str]) -> str:
    """Names and what they are for, below a command's help."""
    width = max(map(len, about)) + 2
    return "\n".join(f"  {name:{width}}{said}" for name, said in about.items())


def whole(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def sides(text: str) -> tuple[Side, ...]:
    """Sides of an exchange ("response", "prompt,response"), for argparse."""
    names = text.split(",")
    found = tuple(side for side in get_args(Side) if side in names)
    if len(found) != len(names):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(get_args(Side))}")
    return found


def moment(text: str) -> datetime:
    """A time, for argparse; UTC where it does not say."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        example = "2026-11-22 or 2026-11-22T13:00:00Z"
        raise argparse.ArgumentTypeError(f"must be a time of ISO 8601, as {example}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def given(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Options among these that were given."""
    return [
        f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, False)
    ]


def chosen(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given, so that the stage's own defaults hold for the others."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def load_classifier(path: Path | None, threads: int | None = None) -> "Classifier":
    """The classifier of a bundle (default: the shipped one) on the CPU."""
    from service.engine import classifier
    from service.engine.runtime import CpuRuntime

    bundle = bundles.load(path or bundles.default_bundle())
    return classifier.load_classifier(bundle, CpuRuntime(bundle.graph, threads))


def settings_of(given: Mapping[str, Any]) -> "Settings":
    """The service's settings: options that were given, and the environment.

    Raises:
        CommandError: naming those that are at fault as they were given.
    """
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        raise CommandError(_faults(error, given)) from None


def _faults(error: "ValidationError", options: Collection[str]) -> str:
    """Each by the name under which it was given, and without a value: some are secret."""
    found: dict[str, list[str]] = {}
    for one in error.errors():
        # Several settings together have no place, and say themselves which they are.
        name = str(one["loc"][0]) if one["loc"] else ""
        found.setdefault(name, []).append(one["msg"].removeprefix("Value error, "))
    return "; ".join(f"{_named(n, options)}{' or '.join(said)}" for n, said in found.items())


def _named(name: str, options: Collection[str]) -> str:
    if not name:
        return ""
    return f"--{name.replace('_', '-')}: " if name in options else f"TAMIS_{name.upper()}: "


def add_tier(parser: argparse.ArgumentParser) -> None:
    """Options that say who judges; commands are run to measure, so the fast bundle by default."""
    parser.add_argument(
        "--tier", choices=TIERS, help="who judges (default: fast, the bundle of --bundle)"
    )
    parser.add_argument("--accurate", type=Path, help="bundle of the accurate tier")
    parser.add_argument(
        "--multilingual",
        metavar="DIR|off",
        help="bundle that judges other languages than English (default: the one that is there)",
    )


def multilingual_of(given: str | None) -> Path | None:
    """The bundle for other languages: the one that is named, else the one that is there, if any."""
    if given is not None:
        return None if given in NONE else Path(given)
    there = MULTILINGUAL.wanted and (MULTILINGUAL.folder / MANIFEST).is_file()
    return MULTILINGUAL.folder if there else None


def check_tier(tier: Tier | None, bundle: Path | None, accurate: Path | None) -> None:
    """Whether the bundle that was named is asked at all.

    Raises:
        CommandError: where another one would judge in its place without a word.
    """
    if tier == "accurate" and bundle is not None and accurate is None:
        raise CommandError("--bundle: the accurate tier's bundle is named with --accurate")


def load_tier(
    tier: Tier | None,
    bundle: Path | None,
    accurate: Path | None,
    threads: int | None = None,
    multilingual: Path | None = None,
) -> "Judging":
    """Who judges in a tier, on the CPU.

    Raises:
        BundleError: where a bundle or the bands of the cascade cannot be used.
        CommandError: as ``check_tier``.
    """
    check_tier(tier, bundle, accurate)
    from service.engine.cascade import Cascade
    from service.engine.languages import Languages

    accurate = accurate or ACCURATE.folder
    first = load_classifier(accurate if tier == "accurate" else bundle, threads)
    reader: Classifier | Languages = first
    if multilingual is not None:
        reader = Languages(first, load_classifier(multilingual, threads))
    if tier != "cascade":
        return reader
    return Cascade(reader, load_classifier(accurate, threads), load_bands(accurate))


def load_reasoner(path: Path) -> "Reasoner":
    """The reasoner of a bundle, on all cores."""
    from service.engine.reasoner.reasoner import Reasoner
    from service.engine.runtime import available_threads

    return Reasoner(reasoners.load(path), available_threads(), REASONER_CACHE)


def policy_of(path: Path | None, encoded: bool = False) -> Policy:
    """The policy of a file, or the default; ``encoded``: the policy encoder is asked where it is.

    Raises:
        CommandError: where it has categories of its own that nobody judges: the classifier would
            let through all that they are to stop.
    """
    policy = load_policy(path) if path else default_policy()
    if path is None or not policy.own:
        return policy
    if not encoded or policy_encoder_there() is None:
        asked = f", without the policy encoder's bundle ({ENCODER})," if encoded else ""
        raise CommandError(
            f"{path.name}: category {policy.own[0]!r} is the policy's own:{asked} the reasoner "
            "alone judges it, in `tamis serve`"
        )
    try:
        _ = policy.rules
    except GuidelineError as error:
        raise PolicyError(f"{path.name}: {error}") from None
    return policy


def with_rules(classifier: "Judging", policy: Policy) -> "Judging | WithRules":
    """The same, and the policy encoder for what is the policy's own."""
    folder = policy_encoder_there()
    if folder is None or not policy.own:
        return classifier
    from service.engine.ruled import WithRules
    from service.engine.split import KEPT_BYTES, encoder_of

    return WithRules(classifier, encoder_of(rules.load(folder), 0, KEPT_BYTES), policy.rules)


def provenance_of(classifier: "Judging | WithRules", policy: Policy) -> Provenance:
    """Who says so."""
    bundle = classifier.bundle
    return Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
