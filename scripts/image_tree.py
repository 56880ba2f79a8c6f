"""Build the tree an image would hold, without a container engine, and serve from it.

    python -m scripts.image_tree [--target cpu] [--starts 5] [--rootfs FOLDER]

Runs the Dockerfile's own lines. Every stage is an overlay on the stages it comes from: RUN runs in
it with chroot, COPY copies what .dockerignore lets through. Then the target is started as the image
would be (``scripts.image_run``) and asked for verdicts.

The outside image is this machine's root, or a folder, with a bare copy of this Python at
/usr/local. Needs Linux, root and overlay mounts.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from scripts.dockerfile import Dockerfile, Instruction, expand, parse

ROOT: Final = Path(__file__).parents[1]
# Set in the mount namespace in which everything happens.
INSIDE: Final = "TAMIS_IMAGE_TREE"
# What container engines set where an image does not.
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class Image:
    """What a stage has become: its layers, the upper one first, and how to run it."""

    layers: list[Path]
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    directory: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    def on_top(self, layer: Path) -> "Image":
        """The image that a stage on this one starts from."""
        copy = Image(**asdict(self))
        copy.layers = [layer, *self.layers]
        return copy

    def find(self, path: str) -> Path:
        """A path of the image in the layer that has it.

        Raises:
            FileNotFoundError: where none has.
        """
        for layer in self.layers:
            if (found := below(layer, path)).exists():
                return found
        raise FileNotFoundError(f"{path}: not in the image")


class Ignored:
    """What .dockerignore keeps out of the build: the last pattern that matches decides."""

    def __init__(self, context: Path) -> None:
        lines = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
        self._patterns = [x.strip() for x in lines if x.strip() and not x.startswith("#")]

    def __call__(self, path: str) -> bool:
        """Whether a path of the context, or a folder above it, is kept out."""
        parts = Path(path).parts
        out = False
        for pattern in self._patterns:
            name = pattern.removeprefix("!").removeprefix("**/")
            depths = range(len(parts)) if "**/" in pattern else (0,)
            if any(_matches(parts[depth:], name) for depth in depths):
                out = not pattern.startswith("!")
        return out


class Builder:
    """Builds stages into folders under ``out``."""

    def __init__(
        self,
        file: Dockerfile,
        context: Path,
        out: Path,
        outside: Image,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        self._file = file
        self._context = context
        self._ignored = Ignored(context)
        self._out = out
        self._outside = outside
        self._given = dict(arguments or {})
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """Build a stage and whatever it needs, once."""
        if name not in self._built:
            stage = self._file.stages[name]
            lower = self.build(stage.base) if stage.base in self._file.stages else self._outside
            layer = self._out / name
            layer.mkdir(parents=True)
            image = lower.on_top(layer)
            arguments: dict[str, str] = {}
            for instruction in stage.instructions:
                print(f"[{name}] {instruction.name} {instruction.value}", flush=True)
                self._do(instruction, image, arguments)
            self._built[name] = image
        return self._built[name]

    def _do(self, found: Instruction, image: Image, arguments: dict[str, str]) -> None:
        variables = arguments | image.env
        match found.name:
            case "ARG":
                known = dict(self._file.arguments) | self._given
                for name, default in found.pairs(variables).items():
                    arguments[name] = self._given.get(name, default or known.get(name, ""))
            case "ENV":
                image.env |= found.pairs(variables)
            case "LABEL":
                image.labels |= found.pairs(variables)
            case "WORKDIR":
                image.directory = str(Path(image.directory) / expand(found.value, variables))
                below(image.layers[0], image.directory).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = expand(found.value, variables)
            case "ENTRYPOINT":
                image.entrypoint, image.command = found.words(), []
            case "CMD":
                image.command = found.words()
            case "HEALTHCHECK":
                image.health = json.loads(found.value.removeprefix("CMD"))
            case "COPY":
                *sources, target = (expand(word, variables) for word in found.words())
                for source in sources:
                    self._copy(source, target, image, found.flags.get("from"))
            case "RUN":
                self._run(found, image, variables)
            case "EXPOSE" | "STOPSIGNAL":
                pass
            case other:
                raise ValueError(f"line {found.line}: {other} is not understood here")

    def _copy(self, source: str, target: str, image: Image, stage: str | None) -> None:
        into = below(image.layers[0], str(Path(image.directory) / target))
        if target.endswith(("/", ".")):  # only files are copied into folders here
            into /= Path(source).name
        into.parent.mkdir(parents=True, exist_ok=True)
        if stage is not None:
            # A folder of an image may be spread over its layers: mount them to see it whole.
            lines = [*mounts(self.build(stage).layers, self._out / ".root")]
            lines.append(f"cp --archive --no-target-directory .{source} {into}")
            subprocess.run(["unshare", "--mount", "sh", "-ec", "\n".join(lines)], check=True)
        elif self._ignored(source):
            raise FileNotFoundError(f"{source}: kept out by .dockerignore")
        elif (found := self._context / source).is_dir():
            shutil.copytree(found, into, symlinks=True, ignore=self._skip, dirs_exist_ok=True)
        else:
            shutil.copy2(found, into)

    def _skip(self, folder: str, names: list[str]) -> set[str]:
        where = Path(folder).relative_to(self._context)
        return {name for name in names if self._ignored(str(where / name))}

    def _run(self, found: Instruction, image: Image, variables: Mapping[str, str]) -> None:
        work = self._out / ".work"
        work.mkdir(exist_ok=True)
        script = [*mounts(image.layers, self._out / ".root", work), *_caches(found.flags)]
        # What is to run travels in variables, so that nothing here has to quote it.
        script.append("""exec chroot . /bin/sh -c 'cd "$DIRECTORY"; eval "$COMMAND"'""")
        subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "\n".join(script)],
            env={**machine(), **variables, "DIRECTORY": image.directory, "COMMAND": found.value},
            check=True,
        )


def below(root: Path, path: str) -> Path:
    """An absolute path of an image under a folder."""
    return root / path.lstrip("/")


def mounts(layers: Sequence[Path], root: Path, work: Path | None = None) -> Iterator[str]:
    """Shell lines that mount layers at ``root`` and go there; writable with a ``work`` folder."""
    if work is None:
        options = f"lowerdir={':'.join(map(str, layers))}"
    else:
        lower = ":".join(map(str, layers[1:]))
        options = f"lowerdir={lower},upperdir={layers[0]},workdir={work}"
    yield f"mkdir -p {root}"
    yield f"mount -t overlay overlay -o {options} {root}"
    yield f"cd {root}"
    yield "mount --rbind /dev dev"
    yield "mount -t proc proc proc"


def machine() -> dict[str, str]:
    """Variables that say how this machine reaches its package index and finds its Python."""
    kept = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    found = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    return found | {"LD_LIBRARY_PATH": "/usr/local/lib"}


def outside(rootfs: Path, out: Path) -> Image:
    """The image a build starts from: a root file system, and a bare Python at /usr/local."""
    layer = out / ".python"
    prefix = Path(sys.base_prefix)
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    local = layer / "usr/local"
    shutil.copytree(
        prefix / library,
        local / library,
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "test", "__pycache__"),
    )
    (local / library / "site-packages").mkdir()
    (local / "bin").mkdir()
    binary = local / "bin" / Path(library).name
    shutil.copy2(os.path.realpath(sys.executable), binary)
    for name in ("python3", "python"):
        (local / "bin" / name).symlink_to(binary.name)
    for shared in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, local / "lib" / shared.name, follow_symlinks=False)
    image = Image([layer, rootfs])
    script = [*mounts(image.layers, out / ".root", _fresh(out / ".work"))]
    script.append("exec chroot . python -m ensurepip --default-pip")
    command = ["unshare", "--mount", "sh", "-ec", "\n".join(script)]
    subprocess.run(command, env=machine() | image.env, check=True, stdout=subprocess.DEVNULL)
    return image


def _fresh(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _caches(flags: Mapping[str, str]) -> Iterator[str]:
    if "mount" in flags:
        options = dict(item.split("=") for item in flags["mount"].split(","))
        if options["type"] != "cache":
            raise ValueError(f"--mount={flags['mount']}: only caches are understood here")
        # Caches live in the user's own, at the same place under the home directory.
        cache = Path.home() / Path(options["target"]).relative_to("/root")
        cache.mkdir(parents=True, exist_ok=True)
        yield f"mkdir -p .{options['target']}"
        yield f"mount --bind {cache} .{options['target']}"


def _matches(parts: Sequence[str], pattern: str) -> bool:
    wanted = Path(pattern).parts
    return len(parts) >= len(wanted) and all(map(fnmatch, parts, wanted))


def sizes(image: Image, *paths: str) -> dict[str, int]:
    """Bytes of the files under paths of an image."""
    return {
        path: sum(f.lstat().st_size for f in image.find(path).rglob("*") if not f.is_dir())
        for path in paths
    }


def installed(image: Image, environment: str) -> dict[str, str]:
    """The packages in an image's environment by name, with their versions."""
    from importlib.metadata import distributions

    (site,) = image.find(environment).glob("lib/python*/site-packages")
    return {d.name.lower().replace("_", "-"): d.version for d in distributions(path=[str(site)])}


def unlocked(found: Mapping[str, str], *locks: Path) -> dict[str, str]:
    """What of the installed packages a lock does not name at that version."""
    lines = [line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines()]
    named = dict(line.split("==") for line in lines if "==" in line)
    locked = {name.lower().replace("_", "-"): version for name, version in named.items()}
    return {name: version for name, version in found.items() if locked.get(name) != version}


def main() -> int:
    """Build a target, say how large it is, and start it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", help="stage to build (default: the last)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--starts", type=int, default=5, help="times to start it; 0 only builds")
    parser.add_argument("--rootfs", type=Path, default=Path("/"), help="instead of this machine's")
    args = parser.parse_args()
    if os.environ.get(INSIDE) is None:
        os.environ[INSIDE] = "1"
        command = [sys.executable, "-m", "scripts.image_tree", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--mount", *command])  # noqa: S606
    out = Path(tempfile.mkdtemp(prefix="tamis-image-"))
    # Layers of an overlay may not lie within each other, and one of them is the whole machine.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", out], check=True)
    try:
        return _build_and_run(args, out)
    finally:
        subprocess.run(["umount", "--lazy", out], check=True)
        out.rmdir()


def _build_and_run(args: argparse.Namespace, out: Path) -> int:
    file = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    arguments = dict(item.split("=", 1) for item in args.build_arg)
    base = outside(args.rootfs, out)
    image = Builder(file, ROOT, out, base, arguments).build(args.target or file.default)
    found = installed(image, "/opt/tamis/env")
    locks = [ROOT / "requirements" / name for name in ("serve.txt", "serve-gpu.txt")]
    if stray := unlocked(found, *locks):
        print(f"not as locked: {stray}", file=sys.stderr)
        return 1
    print(f"\n{len(found)} packages, all as locked")
    encoders = ("policy-encoder", "policy-encoder-accurate")
    places = ("env", "bundle", "accurate", "multilingual", *encoders, "reasoner", "app")
    parts = sizes(image, *(f"/opt/tamis/{part}" for part in places))
    for path, size in (parts | {"on top of the base image": sum(parts.values())}).items():
        print(f"{size / 1e6:8.1f} MB  {path}")
    if not args.starts:
        return 0
    plan = out / "plan.json"
    plan.write_text(json.dumps(asdict(image), default=str), encoding="utf-8")
    command = [sys.executable, "-m", "scripts.image_run", str(plan), str(args.starts)]
    return subprocess.run(
        ["unshare", "--mount", "--net", *command], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
