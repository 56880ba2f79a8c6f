import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.access import KeysError, new_key
from service.configuration import Configuration
from service.errors import RequestError
from service.observing.metrics import SHARED, Metrics
from service.settings import Settings
from tamis.policy import PolicyError

LAX = "name: lax\ncategories: {toxicity: {flag: 0.9}}\n"
STRICT = "name: strict\nshadow: lax\ncategories: {toxicity: {flag: 0.1}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "lax.yaml").write_text(LAX)
    (folder / "strict.yaml").write_text(STRICT)
    return folder


@pytest.fixture
def settings(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"policies": folder})


def value(metrics: Metrics, name: str) -> float:
    lines = metrics.scrape().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_policies_by_name_with_their_shadows(settings: Settings):
    configuration = Configuration(settings, Metrics())
    strict = configuration.policy("strict", None)
    shadow = configuration.shadow(strict)
    assert shadow is not None
    assert shadow.name == "lax"
    assert configuration.shadow(shadow) is None


async def test_a_change_is_put_in_force(settings: Settings, folder: Path):
    metrics = Metrics()
    configuration = Configuration(settings, metrics)
    before = configuration.policies["lax"].version
    (folder / "lax.yaml").write_text(LAX.replace("0.9", "0.8"))
    await configuration.reload()
    after = configuration.policies["lax"].version
    assert after != before
    assert value(metrics, 'tamis_config_reloads_total{result="applied"}') == 1
    assert before not in metrics.scrape().decode()
    assert value(metrics, f'tamis_policy_info{{policy="lax",version="{after}"}}') == 1


def test_the_version_that_one_of_several_processes_replaced_is_0(
    monkeypatch: pytest.MonkeyPatch,
):
    metrics = Metrics()
    metrics.offering({"lax": "v1", "strict": "v1"})
    monkeypatch.setenv(SHARED, "folder")
    metrics.offering({"lax": "v2", "strict": "v1"})
    monkeypatch.delenv(SHARED)
    found = [value(metrics, f'tamis_policy_info{{policy="lax",version="v{n}"}}') for n in (1, 2)]
    assert found == [0, 1]
    assert value(metrics, 'tamis_policy_info{policy="strict",version="v1"}') == 1


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "name: lax\n",
        "name: lax\nshadow: gone\ncategories: {hate: {}}\n",
        "name: lax\ndescription: 2026-02-30\n",
    ],
)
async def test_a_bad_file_leaves_everything_as_it_was(settings: Settings, folder: Path, text: str):
    metrics = Metrics()
    configuration = Configuration(settings, metrics)
    before = dict(configuration.policies)
    (folder / "lax.yaml").write_text(text)
    (folder / "strict.yaml").write_text(STRICT.replace("0.1", "0.2"))
    with pytest.raises(PolicyError):
        await configuration.reload()
    assert configuration.policies == before
    assert value(metrics, 'tamis_config_reloads_total{result="refused"}') == 1
    assert value(metrics, "tamis_config_last_reload_successful") == 0
    (folder / "lax.yaml").write_text(LAX)
    await configuration.reload()
    assert value(metrics, "tamis_config_last_reload_successful") == 1


OWN = "name: bank\ncategories: {NAME: {definition: TEXT}}\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("'lo{an'", "A loan.", "bank.yaml: category 'lo{an': a name is one line .*braces"),
        ("n" * 81, "A loan.", "bank.yaml: category .* the name has 81 characters, the limit is 80"),
        ("loans", "a" * 601, "bank.yaml: category 'loans': the definition has 601 characters"),
    ],
)
def test_what_the_reasoner_can_never_answer_is_refused_at_once(
    settings: Settings, folder: Path, name: str, text: str, said: str
):
    (folder / "bank.yaml").write_text(OWN.replace("NAME", name).replace("TEXT", text))
    with pytest.raises(PolicyError, match=said):
        Configuration(settings, Metrics())


def test_a_shadow_has_no_categories_of_its_own(settings: Settings, folder: Path):
    (folder / "bank.yaml").write_text(OWN.replace("NAME", "loans").replace("TEXT", "A loan."))
    Configuration(settings, Metrics())
    (folder / "strict.yaml").write_text(STRICT.replace("lax", "bank"))
    with pytest.raises(PolicyError, match=r"strict.yaml: field 'shadow': 'bank' has .* 'loans'"):
        Configuration(settings, Metrics())


async def test_a_folder_that_is_gone_leaves_everything_as_it_was(settings: Settings, folder: Path):
    configuration = Configuration(settings, Metrics())
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(PolicyError, match="no folder"):
        await configuration.reload()
    assert "strict" in configuration.policies


async def test_watching_sees_a_swapped_link_and_waits_until_it_stands_still(
    settings: Settings, tmp_path: Path, folder: Path
):
    # As Kubernetes mounts a ConfigMap: the folder is a link, and an update swaps it.
    link, new = tmp_path / "mounted", tmp_path / "new"
    link.symlink_to(folder)
    new.mkdir()
    (new / "lax.yaml").write_text(LAX.replace("0.9", "0.7"))
    settings = settings.model_copy(update={"policies": link})
    configuration = Configuration(settings, Metrics())
    watch = asyncio.create_task(configuration.watch(0.02))
    (tmp_path / "next").symlink_to(new)
    (tmp_path / "next").rename(link)
    async with asyncio.timeout(10):
        while "strict" in configuration.policies:
            await asyncio.sleep(0.01)
    watch.cancel()
    assert configuration.policies["lax"].categories["toxicity"].flag == 0.7


# Watching looks before it reloads, which looks again.
@pytest.mark.parametrize(("good", "said"), [(0, "looked at"), (2, "read")])
async def test_a_look_that_fails_is_not_the_last_one(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog, good: int, said: str
):
    metrics = Metrics()
    looks = iter([None] * good + [OSError(errno.ESTALE, "Stale file handle")])
    look = Configuration._signature

    def stale(configuration: Configuration) -> Any:
        if (error := next(looks, None)) is not None:
            raise error
        return look(configuration)

    configuration = Configuration(settings, metrics)
    monkeypatch.setattr(Configuration, "_signature", stale)
    watch = asyncio.create_task(configuration.watch(0.02))
    (folder / "lax.yaml").chmod(0o640)
    async with asyncio.timeout(10):
        while not value(metrics, 'tamis_config_reloads_total{result="applied"}'):
            await asyncio.sleep(0.01)
    watch.cancel()
    assert f"policies and keys cannot be {said}: Stale file handle" in caplog.text


@pytest.mark.parametrize("name", ["keys.yaml", "lax.yaml"])
async def test_what_cannot_be_read_is_tried_again_and_told_once(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog, name: str
):
    entries = [new_key(caller)[1] for caller in ("ada", "bob")]
    settings.keys = folder / "keys.yaml"
    settings.keys.write_text(yaml.safe_dump(entries))
    failures = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
    read = Path.read_text

    def busy(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == name and (error := next(failures, None)) is not None:
            raise error
        return read(path, *args, **kwargs)

    metrics = Metrics()
    (folder / "own").mkdir()
    settings.policies = folder / "own"
    (folder / "lax.yaml").rename(folder / "own" / "lax.yaml")
    configuration = Configuration(settings, metrics)
    monkeypatch.setattr(Path, "read_text", busy)
    watch = asyncio.create_task(configuration.watch(0.02))
    # Bob may come no more.
    settings.keys.write_text(yaml.safe_dump(entries[:1]))
    async with asyncio.timeout(10):
        while len(configuration.access.keys) > 1:
            await asyncio.sleep(0.01)
    watch.cancel()
    assert caplog.text.count("policies and keys stay as they were") == 1


async def test_watching_sees_that_a_file_may_be_read_by_now(settings: Settings, folder: Path):
    metrics = Metrics()
    watch = asyncio.create_task(Configuration(settings, metrics).watch(0.02))
    await asyncio.sleep(0.05)
    (folder / "lax.yaml").chmod(0o640)
    async with asyncio.timeout(10):
        while not value(metrics, 'tamis_config_reloads_total{result="applied"}'):
            await asyncio.sleep(0.01)
    watch.cancel()


def test_a_service_that_only_scores_makes_every_policy_do_so(settings: Settings):
    configuration = Configuration(settings.model_copy(update={"mode": "score"}), Metrics())
    written = {"name": "mine", "categories": {"hate": {}}}
    for asked in (None, "strict", written):
        assert configuration.policy(asked, None).mode == "score"


def test_a_policy_written_out_has_no_shadow(settings: Settings):
    configuration = Configuration(settings, Metrics())
    written = {"name": "mine", "shadow": "lax", "categories": {"hate": {}}}
    with pytest.raises(RequestError, match="'shadow' is for policies"):
        configuration.policy(written, None)


def test_a_key_brings_its_policy(settings: Settings, tmp_path: Path):
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([new_key("app", policy="strict")[1], new_key("other")[1]]))
    configuration = Configuration(settings.model_copy(update={"keys": path}), Metrics())
    app, other = configuration.access.keys.values()
    assert configuration.policy(None, app).name == "strict"
    assert configuration.policy("lax", app).name == "lax"
    assert configuration.policy(None, other).name == "default"


async def test_keys_and_policies_change_together_or_not_at_all(
    settings: Settings, tmp_path: Path, folder: Path
):
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([new_key("app", policy="strict")[1]]))
    configuration = Configuration(settings.model_copy(update={"keys": path}), Metrics())
    (folder / "strict.yaml").unlink()
    with pytest.raises(KeysError, match="key 'app': there is no policy 'strict'"):
        await configuration.reload()
    assert "strict" in configuration.policies
    # An empty file must not open the doors.
    path.write_text("")
    with pytest.raises(KeysError):
        await configuration.reload()
    assert configuration.access.keys
