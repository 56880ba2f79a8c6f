"""The page's arithmetic under Node, where there is one."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from service.dialects.catalogue import policy_json
from tamis import rules
from tamis.bundle import Bundle
from tamis.policies.parsing import parse_policy
from tamis.policy import Rule
from tests.encoders import write_encoder
from tests.policies import FULL

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "service" / "playground" / "assets"


# An edit of one threshold, and what is sent and copied then.
EDIT = """
import { draftOf, filed, isEdited, setLimit, written, yaml } from "./policy.js";
const policy = JSON.parse(process.argv[1]);
const draft = draftOf(policy, [policy], "prompt");
setLimit(draft.categories.toxicity, "flag", 0.5);
const [sent, file] = [written(draft), yaml(filed(draft))];
console.log(JSON.stringify({ edited: isEdited(draft), sent, file }));
"""

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Node takes .js for modules where a package says so; browsers go by the type attribute.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for path in (*ASSETS.glob("*.js"), ASSETS / "index.html", *HERE.glob("*.js")):
        shutil.copy(path, tmp_path)
    return tmp_path


def node(folder: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["node", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("tests", ["scripts.test.js", "page.test.js"])
def test_scripts(folder: Path, tests: str):
    said = node(folder, "--test", tests)
    assert re.search(r"\bpass [1-9]", said), said


@pytest.mark.parametrize("about", [FULL.description, "for\x7f the\x85 shop\u2028, \uffff: #1 🪿"])
def test_a_policy_that_was_edited_is_otherwise_what_it_was(
    folder: Path, bundle: Bundle, about: str
):
    encoder = rules.load(write_encoder(folder / "encoder"))
    given = replace(FULL, description=about)
    offered = json.dumps(policy_json(given, bundle, encoder))
    said = json.loads(node(folder, "--input-type=module", "--eval", EDIT, offered))
    toxicity = Rule(0.5, 0.75, FULL.categories["toxicity"].definition)
    wanted = replace(given, name="full-edited", categories=FULL.categories | {"toxicity": toxicity})
    assert said["edited"]
    # Only policies that the service offers have others on trial.
    assert parse_policy(said["sent"]) == replace(wanted, shadow=None)
    assert parse_policy(yaml.safe_load(said["file"])) == wanted
