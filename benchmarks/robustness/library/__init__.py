"""Word-level recipes of TextAttack (Morris et al. 2020), in an environment of its own.

    python -m benchmarks.robustness.library

installs it: 220 MB beside what development has, and WordNet, which is a package of Debian's.
"""

import json
import os
import subprocess
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

HERE: Final = Path(__file__).parent
HOME: Final = Path(__file__).parents[3] / ".peers" / "textattack"
PYTHON: Final = HOME / "bin" / "python"
CORPORA: Final = HOME / "nltk_data" / "corpora"
FINISHED: Final = HOME / ".ready"
DEBIAN: Final = ("wordnet-base", "wordnet-sense-index")
# The files that WordNet's lexicographers wrote, by number, as its manual lists them; NLTK asks.
FILES: Final = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact"),
    *("noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event"),
    *("noun.feeling", "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object"),
    *("noun.person", "noun.phenomenon", "noun.plant", "noun.possession", "noun.process"),
    *("noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance"),
    *("noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion"),
    *("verb.motion", "verb.perception", "verb.possession", "verb.social", "verb.stative"),
    *("verb.weather", "adj.ppl"),
)
PARTS: Final = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def installed() -> bool:
    """Whether the library can be asked."""
    return FINISHED.exists()


def install() -> None:
    """Make the environment, unless a finished one is there."""
    if installed():
        return
    venv.create(HOME, with_pip=True, clear=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(HOME)}))
    (site / "development.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [PYTHON, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True
    )
    _wordnet(CORPORA / "wordnet")
    stopwords = CORPORA / "stopwords"
    stopwords.mkdir(parents=True)
    (stopwords / "english").write_text("\n".join(sorted(ENGLISH_STOP_WORDS)))
    FINISHED.touch()


def rewritten(texts: Sequence[str]) -> dict[str, list[str]]:
    """Each text as each recipe writes it."""
    # Nothing is fetched while it runs.
    env = os.environ | {"NLTK_DATA": str(CORPORA.parent), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "written.json"
        subprocess.run(
            [PYTHON, HERE / "recipes.py", out],
            input=json.dumps(list(texts)),
            text=True,
            env=env,
            check=True,
            capture_output=True,
        )
        found: dict[str, list[str]] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _wordnet(folder: Path) -> None:
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", "-q", *DEBIAN], cwd=scratch, check=True)
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, scratch], check=True)
        for file in (Path(scratch) / "usr" / "share" / "wordnet").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    lines = (f"{n:02}\t{name}\t{PARTS[name.split('.')[0]]}\n" for n, name in enumerate(FILES))
    (folder / "lexnames").write_text("".join(lines))
