"""The small interpreter of Dockerfiles behind ``make image-tree``."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.dockerfile import expand, parse
from scripts.image_tree import Ignored

ROOT = Path(__file__).parents[2]

TEXT = """
ARG BASE=somewhere
# a comment
FROM ${BASE} AS first
ARG WHO=world
ENV GREETING="hello ${WHO}" \\
    # a comment within
    PATH=/opt/bin:${PATH}
WORKDIR /src
COPY . given/
RUN --mount=type=cache,target=/root/.cache/pip echo one \\
    && echo two
FROM first AS second
ENTRYPOINT ["a", "b c"]
HEALTHCHECK --interval=1s CMD ["x", "y"]
"""


def test_instructions_are_joined_and_flags_taken_off():
    file = parse(TEXT)
    assert file.arguments == {"BASE": "somewhere"}
    assert [stage.name for stage in file.lineage("second")] == ["first", "second"]
    assert file.default == "second"
    names = [found.name for found in file.stages["first"].instructions]
    assert names == ["ARG", "ENV", "WORKDIR", "COPY", "RUN"]
    run = file.stages["first"].instructions[-1]
    assert run.flags == {"mount": "type=cache,target=/root/.cache/pip"}
    assert run.value.split() == ["echo", "one", "&&", "echo", "two"]
    env = file.stages["first"].instructions[1].pairs({"WHO": "you", "PATH": "/bin"})
    assert env == {"GREETING": "hello you", "PATH": "/opt/bin:/bin"}
    entry, health = file.stages["second"].instructions
    assert entry.words() == ["a", "b c"]
    assert health.flags == {"interval": "1s"}


@pytest.mark.parametrize("text", ["RUN true", "FROM somewhere", "FROM a b c d"])
def test_what_cannot_be_followed_is_refused(text):
    with pytest.raises(ValueError, match="line 1"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A/${A}", "x/x"),
        ("${B}", ""),
        ("a$A.b", "ax.b"),
    ],
)
def test_variables(text, expected):
    assert expand(text, {"A": "x"}) == expected


def test_the_last_pattern_that_matches_decides(tmp_path):
    (tmp_path / ".dockerignore").write_text("*\n!kept\n**/__pycache__\n!kept/deep/__pycache__\n")
    ignored = Ignored(tmp_path)
    assert ignored("other")
    assert not ignored("kept/module.py")
    assert ignored("kept/__pycache__")
    assert ignored("kept/more/__pycache__/module.pyc")
    assert not ignored("kept/deep/__pycache__")


BUILD = """
import json, pathlib, subprocess, sys
from scripts.dockerfile import parse
from scripts.image_tree import Builder, Image
context, out = map(pathlib.Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", out], check=True)
file = parse((context / "Dockerfile").read_text())
image = Builder(file, context, out, Image([pathlib.Path("/")]), {"WORD": "given"}).build("last")
here = image.find("/opt/here")
print(json.dumps({
    "files": {str(p.relative_to(here)): p.read_text() for p in here.rglob("*") if p.is_file()},
    "left": [str(p.relative_to(out)) for p in out.rglob("left")],
    "in last": sorted(p.name for p in (out / "last").iterdir()),
    "command": image.command, "here": image.env["HERE"], "user": image.user,
}))
"""


def may_mount() -> bool:
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(mount, capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not may_mount(), reason="needs Linux, root and mount namespaces")
def test_stages_are_built_on_each_other_and_copied_between(tmp_path):
    context, out = tmp_path / "context", tmp_path / "out"
    out.mkdir()
    (context / "given").mkdir(parents=True)
    (context / "given" / "text").write_text("from the context")
    (context / "given" / "left").write_text("not to be copied")
    (context / ".dockerignore").write_text("given/left\n")
    (context / "Dockerfile").write_text(
        "FROM outside AS one\nWORKDIR /src\nCOPY given given\nARG WORD=none\n"
        "RUN mkdir -p out/deep && echo ${WORD} > out/word\n"
        "FROM one AS two\nRUN cp given/text out/deep/text && rm given/text\n"
        "FROM outside AS last\nUSER 7:8\nENV HERE=/opt/here\n"
        'COPY --from=two /src/out ${HERE}\nCMD ["go"]\n'
    )
    command = ["unshare", "--mount", sys.executable, "-c", BUILD, str(context), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout.splitlines()[-1])
    # Seen whole, though spread over the layers of two stages; and nothing else of them.
    assert built["files"] == {"word": "given\n", "deep/text": "from the context"}
    assert built["in last"] == ["opt"]
    assert built["left"] == []
    assert (built["command"], built["here"], built["user"]) == (["go"], "/opt/here", "7:8")
