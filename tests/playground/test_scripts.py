"""The page's arithmetic under Node, where there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "service" / "playground" / "assets"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_scripts(tmp_path):
    # Node takes .js for modules where a package says so; browsers go by the type attribute.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for path in (*ASSETS.glob("*.js"), HERE / "scripts.test.js"):
        shutil.copy(path, tmp_path)
    command = ["node", "--test", "scripts.test.js"]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# pass 0" not in run.stdout
