"""The image, as far as it can be checked without building it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.dependencies import dependencies
from scripts.dockerfile import Dockerfile, expand, parse
from scripts.image_tree import Ignored, unlocked
from tests.encoders import write_encoder
from tests.service.tiers import write_second

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {str(part) for name in listed for part in (Path(name), *Path(name).parents)}


def copies(dockerfile: Dockerfile) -> list[tuple[str, str | None]]:
    """What is copied, and from which stage."""
    found = []
    for stage in dockerfile.stages.values():
        arguments = dict(dockerfile.arguments)
        for instruction in stage.instructions:
            if instruction.name == "ARG":
                arguments |= instruction.pairs(arguments)
            if instruction.name == "COPY":
                sources = instruction.words()[:-1]
                origin = instruction.flags.get("from")
                found += [(expand(source, arguments), origin) for source in sources]
    return found


def test_everything_copied_is_tracked_and_let_through(dockerfile):
    known, ignored = tracked(), Ignored(ROOT)
    local = {source for source, origin in copies(dockerfile) if origin is None}
    # The bundle for GPUs is built by whoever builds that image; the repository ships int8.
    assert {source for source in local if source not in known} == {"models/tamis-22m-fp16"}
    assert not [source for source in local if ignored(source)]
    assert {"tamis", "service", "pyproject.toml"} <= local


def test_stages_copy_only_from_stages_before_them(dockerfile):
    names = list(dockerfile.stages)
    for name, stage in dockerfile.stages.items():
        for instruction in stage.instructions:
            if origin := instruction.flags.get("from"):
                assert names.index(origin) < names.index(name)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_final_stages_run_nothing_and_as_nobody(dockerfile, target):
    lineage = dockerfile.lineage(target)
    instructions = [found for stage in lineage for found in stage.instructions]
    last = {found.name: found for found in instructions}
    assert "RUN" not in last
    assert last["USER"].value == "65532:65532"
    assert last["STOPSIGNAL"].value == "SIGTERM"
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(last[name].value), list)
    health = json.loads(last["HEALTHCHECK"].value.removeprefix("CMD"))
    assert health[0] == "python"
    labels = {k for found in instructions if found.name == "LABEL" for k in found.pairs({})}
    assert {f"org.opencontainers.image.{k}" for k in ("title", "version", "licenses")} <= labels
    # Every file in it has passed the stage that checks it.
    origins = {found.flags.get("from") for found in instructions if found.name == "COPY"}
    assert origins == {f"checked-{target}"}


def test_the_default_is_the_image_for_cpus(dockerfile):
    assert dockerfile.default == "cpu"


def test_git_and_secrets_stay_out():
    ignored = Ignored(ROOT)
    for name in (".git", ".env", "tests", "keys.yaml", "tamis/__pycache__", ".venv/bin/python"):
        assert ignored(name), name
    assert not ignored("tamis/policies/default.yaml")


def test_bundles_built_here_stay_out():
    """An image is made of what is committed, whatever this checkout has built for itself."""
    ignored = Ignored(ROOT)
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    built = [line.strip("/") for line in lines if line.startswith("/models/")]
    assert "models/tamis-multilingual" in built
    for name in (line.replace("*", "x") for line in built):
        assert ignored(f"{name}/manifest.json"), name


def test_hadolint_finds_no_fault():
    beside = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [beside, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_dependencies_of_an_extra_follow_the_extras_it_names(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["a"]\n[project.optional-dependencies]\n'
        'x = ["b>=1", "c"]\ny = ["tamis[x]", "d; platform_system != \'Windows\'"]\n'
    )
    assert dependencies(project, []) == ["a"]
    wanted = ["a", "b>=1", "c", "d; platform_system != 'Windows'"]
    assert dependencies(project, ["y", "x"]) == wanted
    with pytest.raises(KeyError):
        dependencies(project, ["z"])


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_what_the_image_installs_is_locked(extra):
    wanted = dependencies(ROOT / "pyproject.toml", [extra])
    names = {line.partition(">")[0].partition("[")[0].strip() for line in wanted}
    locks = [ROOT / "requirements" / name for name in ("serve.txt", "serve-gpu.txt")]
    floating = unlocked(dict.fromkeys((n.lower().replace("_", "-") for n in names), ""), *locks)
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for lock in locks
        for line in lock.read_text().splitlines()
        if "==" in line
    }
    assert set(floating) <= pinned


def test_a_package_off_its_lock_is_noticed(tmp_path):
    lock = tmp_path / "serve.txt"
    lock.write_text("# about\nPyYAML==6.0.3\npydantic_core==2.50.4\n")
    assert unlocked({"pyyaml": "6.0.3", "pydantic-core": "2.50.4"}, lock) == {}
    found = unlocked({"pyyaml": "6.0.2", "torch": "2.13.0"}, lock)
    assert found == {"pyyaml": "6.0.2", "torch": "2.13.0"}


def test_the_check_asks_all_who_judge(dockerfile, bundle, tiny_reasoner, tmp_path):
    (run,) = (i for i in dockerfile.stages["checked-cpu"].instructions if i.name == "RUN")
    command = run.value
    for ours, there in (
        (sys.executable, "/opt/tamis/env/bin/python"),
        (bundle.path, "/opt/tamis/bundle"),
        (write_second(bundle, tmp_path / "second").path, "/opt/tamis/accurate"),
        (write_second(bundle, tmp_path / "other").path, "/opt/tamis/multilingual"),
        (write_encoder(tmp_path / "larger", "larger"), "/opt/tamis/policy-encoder-accurate"),
        (write_encoder(tmp_path / "encoder"), "/opt/tamis/policy-encoder"),
        (tiny_reasoner, "/opt/tamis/reasoner"),
    ):
        assert there in command
        command = command.replace(there, str(ours))
    asked = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"policy_encoder": "tiny-encoder@' in asked.stdout
    assert '"policy_encoder": "larger@' in asked.stdout
    assert "Reading(unsafe=" in asked.stdout
