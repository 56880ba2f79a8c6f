"""``tamis serve``: answer HTTP requests."""

import argparse
from pathlib import Path

from tamis.cli.common import Commands, settings_of
from tamis.tiers import TIERS


def add_to(commands: Commands) -> None:
    """Add the command."""
    serve = commands.add_parser("serve", help="answer HTTP requests")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 8000)")
    serve.add_argument("--bundle", type=Path, help="bundle to serve (default: the shipped one)")
    serve.add_argument("--tier", choices=TIERS, help="who judges (default cascade)")
    # Not paths yet: empty or "off" means none, and an empty path the current folder.
    serve.add_argument("--accurate", metavar="DIR|off", help="bundle of the accurate tier")
    serve.add_argument(
        "--multilingual", metavar="DIR|off", help="bundle for other languages than English"
    )
    serve.add_argument("--policies", metavar="DIR", help="folder of *.yaml policies")
    serve.add_argument("--keys", metavar="FILE", help="file of API keys (see 'tamis keys new')")
    serve.add_argument("--mode", choices=("enforce", "score"), help="score: no policy acts")
    serve.add_argument("--admin-port", type=int, help="port of its own for metrics and reload")
    serve.add_argument("--provider", choices=("cpu", "cuda"), help="execution provider")
    serve.add_argument("--threads", type=int, help="cores to compute on (default: the CPU quota)")
    serve.add_argument(
        "--workers", metavar="N|auto", help="processes to judge in; 0: the server's own"
    )
    serve.add_argument("--processes", type=int, help="server processes (default 1)")
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from service.server import serve
    from service.settings import Settings

    given = {k: v for k, v in vars(args).items() if k in Settings.model_fields and v is not None}
    serve(settings_of(given))
    return 0
