"""The house in order: where a new thing goes, and that it is registered there (CONTRIBUTING.md)."""

import ast
import importlib
import inspect
import pkgutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import service.dialects
import tamis.reading
from scripts import house
from service.dialects.dialect import Dialect
from service.dialects.registry import DIALECTS
from service.observing.audit.counters import AuditCounters
from service.observing.metrics import Metrics
from service.settings import PREFIX, Settings
from tamis import tiers
from tamis.policies.parsing import default_policy
from tamis.reading import TRANSFORMS
from tamis.reading.escapes import ESCAPES
from tamis.reading.reader import LAST, SPELLING, UNICODE, WORDS
from tamis.reasoner.bundle import NAME
from tamis.taxonomy import ATTACK, taxonomy
from training.datasets.registry import CATEGORIES, HEADS, TOXICITY, sources

ROOT = Path(__file__).parents[1]
# Rooms are entered by their root; what is more than a screen of names wants a room of its own.
MOST_AT_THE_ROOT = 10


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def modules_of(room: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(room.__path__):
        yield importlib.import_module(f"{room.__name__}.{found.name}")


@pytest.fixture(scope="module")
def imports() -> house.Imports:
    return house.imports()


def test_no_module_imports_one_that_imports_it(imports):
    assert house.circles(imports) == []


def test_the_services_root_is_small(imports):
    assert len(house.at_the_root(imports)["service"]) <= MOST_AT_THE_ROOT


def test_what_counts_the_house_sees_circles_and_near_names():
    found = {
        "service": set[str](),
        "service.observation": {"service.tracing"},
        "service.tracing": {"service.otel"},
        "service.otel": {"service.observation"},
        "service.observability": {"service.observation"},
        "tamis": set[str](),
        "tamis.reading": {"tamis.reading.reader"},
        "tamis.reading.reader": set[str](),
    }
    assert house.circles(found) == [["service.observation", "service.otel", "service.tracing"]]
    assert house.near_names(found) == [["service.observability", "service.observation"]]
    assert len(house.at_the_root(found)["service"]) == 4


def test_every_dialect_is_registered():
    """A module of ``service/dialects`` with its router, and a line in ``registry.py``."""
    made = {
        id(value): module.__name__
        for module in modules_of(service.dialects)
        for value in vars(module).values()
        if isinstance(value, Dialect)
    }
    registered = [id(dialect) for dialect in DIALECTS]
    assert {name for key, name in made.items() if key not in registered} == set()
    assert len(registered) == len(set(registered)) == len(made)


def test_every_category_is_judged_by_the_default_policy_and_taught():
    """A definition in ``tamis/taxonomy.yaml``, and a line in ``tamis/policies/default.yaml``."""
    own = set(taxonomy().categories)
    assert set(default_policy().categories) == own | {ATTACK}
    assert {*CATEGORIES, TOXICITY} == own
    assert own <= set(HEADS)


def test_every_tier_and_every_bundle_that_ships_is_registered():
    """A folder of ``models/``, a line of the wheel's list, a companion in ``tamis/tiers.py``."""
    companions = [c for c in vars(tiers).values() if isinstance(c, tiers.Companion)]
    # What is made of a delta or an adapter may lie beside it, and does not ship.
    made = {c.name for c in companions} | {NAME}
    shipped = {path.parent.name for path in (ROOT / "models").glob("*/README.md")} - made
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {f"models/{name}": f"tamis/models/{name}" for name in shipped} == wheel
    assert {c.delta.name for c in companions} == {
        name for name in shipped if name.endswith("-delta")
    }
    operations = page("operations.md")
    assert [tier for tier in tiers.TIERS if f"`{tier}`" not in operations] == []


def test_every_transformation_is_read_and_explained():
    """A function of a module of ``tamis/reading``, and a line in a table of ``reader.py``."""
    read_by = (UNICODE, WORDS, ESCAPES, SPELLING, LAST)
    tables: list[Callable[..., Any]] = [found for table in read_by for found in table.values()]
    # A line may put two together: what its function calls is registered by it.
    called = {name for found in tables for name in found.__code__.co_names}
    registered = {found.__name__ for found in tables} | called
    stray = [
        f"{module.__name__}.{name}"
        for module in modules_of(tamis.reading)
        for name, found in inspect.getmembers(module, inspect.isfunction)
        if found.__module__ == module.__name__ and _transforms(found) and name not in registered
    ]
    assert stray == []
    robustness = page("robustness.md")
    assert [name for name in TRANSFORMS if name not in robustness] == []


def _transforms(found: Callable[..., Any]) -> bool:
    """Whether a function finds edits in a text and needs nothing else."""
    signature = inspect.signature(found)
    own = not found.__name__.startswith("_") and list(signature.parameters) == ["text"]
    return own and signature.return_annotation == list[tamis.reading.Edit]


def test_every_metric_is_explained():
    """A line in a module of ``service/observing/metrics/``, and a row of the page."""
    registry = Metrics().registry
    AuditCounters(registry)
    assert isinstance(registry, CollectorRegistry)
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
        if family.name.startswith("tamis_")
    }
    assert len(names) > 30
    said = page("operations.md") + page("observability.md")
    assert [name for name in sorted(names) if f"`{name}`" not in said] == []


def test_every_setting_is_explained():
    """A field of ``service/settings.py``, and a row of the page."""
    said = page("operations.md")
    names = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    assert [name for name in names if f"`{name}`" not in said] == []


def test_every_source_of_rows_that_is_made_here_says_what_its_labels_mean():
    """A maker of rows, and an entry of ``training/datasets/sources.yaml``."""
    made = {
        node.value.value: path.name
        for path in sorted((ROOT / "training").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == "SOURCE"
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    assert len(made) >= 3
    assert {name: where for name, where in made.items() if name not in sources()} == {}


def test_contributing_says_where_each_of_them_goes():
    said = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = (
        *("service/dialects/registry.py", "tamis/taxonomy.yaml", "tamis/policies/default.yaml"),
        *("tamis/tiers.py", "tamis/reading/reader.py", "service/observing/metrics/__init__.py"),
        *("service/observing/observers.py", "service/settings.py", "tamis/cli/bench.py"),
        "training/datasets/sources.yaml",
    )
    for place in places:
        assert place in said, place
        assert (ROOT / place).is_file(), place
