"""``tamis keys new``: make an API key."""

import argparse
import sys

from tamis.cli.common import Commands


def add_to(commands: Commands) -> None:
    """Add the command."""
    keys = commands.add_parser("keys", help="make API keys").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    new = keys.add_parser(
        "new", help="print a new key (on standard error, once) and its entry for the file of keys"
    )
    new.add_argument("name", help="of its holder; appears in logs and audit records")
    new.add_argument(
        "--scope",
        action="append",
        dest="scopes",
        help="moderate, feedback, metrics or admin; once for each",
    )
    new.add_argument("--policy", help="the policy it gets where it names none")
    new.add_argument("--rate", type=float, help="items a second")
    new.add_argument("--burst", type=float, help="items at once (default: a second's)")
    new.set_defaults(run=_keys_new)


def _keys_new(args: argparse.Namespace) -> int:
    import yaml

    from service.access import new_key

    more = {name: getattr(args, name) for name in ("scopes", "policy", "rate", "burst")}
    key, entry = new_key(args.name, **more)
    print(yaml.safe_dump([entry], sort_keys=False), end="")
    print(f"the key, which is shown this once:\n{key}", file=sys.stderr)
    return 0
