"""Install peers: an environment for each requirements file, the model folder, and one answer.

TAMIS_PEERS=/somewhere python -m benchmarks.peers.install [NAME ...]
"""

import subprocess
import sys
import venv

from benchmarks.peers import HERE, HOME, LARGE, MODEL, PEERS, Peer, Running
from training.classifier import bases

BASES = {MODEL: bases.DEFAULT, LARGE: "sentence-transformers/all-mpnet-base-v2"}


def install(peer: Peer) -> None:
    """Make the peer's environment, unless a finished one is there."""
    finished = peer.environment / ".ready"
    if finished.exists():
        return
    venv.create(peer.environment, with_pip=True, clear=True)
    file = HERE / f"{peer.requirements}.txt"
    subprocess.run([peer.environment / "bin" / "pip", "install", "-q", "-r", file], check=True)
    finished.touch()


def make_models() -> None:
    """Make the folders that infinity and transformers read, with optimum, which infinity brings."""
    maker = PEERS["infinity-optimum"]
    install(maker)
    python = maker.environment / "bin" / "python"
    for folder, name in BASES.items():
        if not folder.exists():
            _, base = bases.resolve(name)
            subprocess.run([python, HERE / "model.py", base, folder], check=True)


def main(names: list[str]) -> None:
    """Install the named peers, or all; each must answer a request."""
    HOME.mkdir(parents=True, exist_ok=True)
    make_models()
    for peer in [PEERS[name] for name in names or PEERS]:
        install(peer)
        with Running(peer, threads=1) as server:
            print(f"{peer.name}: answers, {server.memory_mb():.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
