"""Run the real clients of other projects against a running service: ``make contract``.

    python -m scripts.contract [NAME …]

Each client has an environment of its own in ``.contract/``, since their dependencies exclude each
other, and a script in ``tests/contract/clients`` that runs in it and asserts what it sees. Clients
that are servers are started by their scripts. Needs package registries the first time.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.server import Server
from service.access import new_key
from tamis.bundle import default_bundle

ROOT: Final = Path(__file__).parents[1]
ENVIRONMENTS: Final = ROOT / ".contract"
SCRIPTS: Final = ROOT / "tests" / "contract" / "clients"
# What clients may name: one that masks, and those that say what a text without a side is.
POLICIES: Final = {
    "hiding": "overall: {flag: 0.99, block: 0.99}, mask: {pii: [email]}",
    "answers": "overall: {}, categories: {attack: {}}, judge: [response]",
    "documents": "overall: {}, categories: {attack: {}}, judge: [document]",
}


@dataclass(frozen=True)
class Real:
    """A client: what is installed for it, and its script. npm's packages run beside Python's.

    ``reasoner``: it asks for decisions, so the reasoner's bundle is made where there is none.
    """

    script: str
    packages: tuple[str, ...]
    kind: Literal["pip", "npm"] = "pip"
    reasoner: bool = False


CLIENTS: Final = {
    "mistralai": Real("with_mistral.py", ("mistralai==3.7.0",)),
    "azure-ai-contentsafety": Real("with_azure.py", ("azure-ai-contentsafety==1.0.0",)),
    "google": Real("with_google.py", ("google-api-python-client==2.202.0",)),
    "litellm": Real("with_litellm.py", ("litellm[proxy]==1.106.2",), reasoner=True),
    "portkey": Real("with_portkey.py", ("@portkey-ai/gateway@1.15.2",), "npm"),
    "nemoguardrails": Real(
        "with_nemo.py", ("nemoguardrails[server]==0.24.1", "langchain-openai==1.7.4")
    ),
    "huggingface": Real(
        "with_huggingface.py", ("-r", str(ROOT / "benchmarks" / "peers" / "infinity.txt"))
    ),
    "kong": Real("with_kong.py", ("lupa==2.8", "pyyaml==6.0.3")),
    "langchain": Real("with_langchain.py", ("langchain==1.5.2", "langchain-openai==1.7.4")),
}


def prepare(name: str, client: Real) -> Path:
    """The interpreter of a client's environment, which is made where it is missing or old."""
    folder = ENVIRONMENTS / name
    wanted, ready = "\n".join(client.packages), folder / ".ready"
    if not ready.is_file() or ready.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        if client.kind == "npm":
            _run("npm", "install", "--silent", "--no-audit", "--prefix", folder, *client.packages)
        else:
            _run(sys.executable, "-m", "venv", folder)
            _run(folder / "bin" / "pip", "install", "-q", *client.packages)
        ready.write_text(wanted)
    return Path(sys.executable) if client.kind == "npm" else folder / "bin" / "python"


def main(names: list[str]) -> int:
    """Run the named clients, or all; the number of those that failed."""
    if unknown := set(names) - set(CLIENTS):
        sys.exit(f"no client {min(unknown)!r}; known: {', '.join(CLIENTS)}")
    chosen = {name: CLIENTS[name] for name in names or CLIENTS}
    if any(client.reasoner for client in chosen.values()):
        _run(sys.executable, "-m", "tamis", "export", "reasoner", "--if-needed")
    failed = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key, entry = new_key("contract", rate=0.001, burst=1)
        (folder / "keys.yml").write_text(f"[{entry}]")
        bundle, exported = default_bundle(), folder / "exported"
        if "huggingface" in chosen:
            _run(sys.executable, "-m", "tamis", "export", "huggingface", exported)
        (folder / "policies").mkdir()
        for name, policy in POLICIES.items():
            (folder / "policies" / f"{name}.yaml").write_text(f"{{name: {name}, {policy}}}")
        # The same verdicts whether or not the accurate bundle was made here, and those of what is
        # exported.
        tier = {"tier": "fast"}
        limited = {"keys": folder / "keys.yml", "reasoner": "", **tier}
        # One that answers, and two without room: to the right and to the wrong way of saying so.
        servers = {
            "TAMIS_URL": Server(
                bundle,
                feedback=folder / "feedback.sqlite",
                blocklists=folder / "blocklists",
                policies=folder / "policies",
                **tier,
            ),
            "TAMIS_FULL": Server(bundle, feedback="", **limited),
            "TAMIS_FULL_429": Server(bundle, feedback="", hook_overload_status=429, **limited),
        }
        urls = {
            name: f"http://127.0.0.1:{stack.enter_context(server).port}"
            for name, server in servers.items()
        }
        for name, client in chosen.items():
            python = prepare(name, client)
            began = time.perf_counter()
            own = {"CLIENT": str(ENVIRONMENTS / name), "TAMIS_KEY": key, "PYTHONPATH": ""}
            own["EXPORTED"] = str(exported)
            script = [str(python), str(SCRIPTS / client.script)]
            print(f"{name} ({', '.join(client.packages)})", flush=True)
            done = subprocess.run(script, env=os.environ | urls | own, check=False, cwd=folder)
            failed += done.returncode != 0
            said = "failed" if done.returncode else "ok"
            print(f"{name}: {said} in {time.perf_counter() - began:.0f} s", flush=True)
    return failed


def _run(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
