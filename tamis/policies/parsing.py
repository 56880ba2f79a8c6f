"""Policies as people write them, in YAML or JSON: every slip is named with its field."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import yaml

from tamis.content import Side
from tamis.policy import (
    MAX_DEADLINE_MS,
    MODES,
    NATIONAL_IDS,
    OVERALL,
    Act,
    MaskRule,
    Personal,
    Policy,
    PolicyError,
    Rule,
    Sensitivity,
    SeverityRule,
)
from tamis.reasoner.protocol import GuidelineError
from tamis.taxonomy import UnknownCategoryError, taxonomy
from tamis.verdict import Severity

FIELDS: Final = {
    *("name", "description", "categories", "deadline_ms", "mode", "shadow", "sensitivity"),
    *("severity", "judge", "mask", OVERALL),
}
# Labels of /classify, /predict, detectors and evidence, which must not mean two things.
LABELS: Final = tuple(severity.value for severity in Severity)


def parse_policy(raw: Any, where: str = "policy") -> Policy:
    """Build a policy from plain data, as YAML or JSON give it.

    Raises:
        PolicyError: naming ``where`` and the field that is unknown, missing or out of range.
    """
    data = _mapping(raw, where)
    _only(data, FIELDS, where)
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise PolicyError(f"{where}: field 'name' must be a non-empty text")
    shadow = data.get("shadow")
    if shadow is not None and (not isinstance(shadow, str) or shadow in ("", name)):
        raise PolicyError(f"{where}: field 'shadow' must be the name of another policy")
    categories = _mapping(data.get("categories", {}), f"{where}: field 'categories'")
    rules = {c: _rule(r, f"{where}: category {c!r}") for c, r in categories.items()}
    _check_categories(rules, where)
    # Null says what leaving it out says: it is how JSON writes what is not there.
    overall = data.get(OVERALL)
    if not categories and overall is None:
        raise PolicyError(f"{where}: a policy needs at least one category or 'overall'")
    deadline = data.get("deadline_ms")
    known = range(1, MAX_DEADLINE_MS + 1)
    if deadline is not None and (type(deadline) is not int or deadline not in known):
        raise PolicyError(
            f"{where}: field 'deadline_ms' must be a whole number from 1 to {MAX_DEADLINE_MS}"
        )
    return Policy(
        name=name,
        mode=MODES[_one_of(data, "mode", MODES, "enforce", where)],
        sensitivity=_one_of(data, "sensitivity", get_args(Sensitivity), "balanced", where),
        severity=_severity(data, where),
        judge=_sides(data, where),
        mask=_mask(data, where),
        deadline_ms=deadline,
        shadow=shadow,
        description=str(data.get("description") or ""),
        categories=rules,
        overall=None if overall is None else _rule(overall, f"{where}: 'overall'"),
    )


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        PolicyError: where the file is not YAML or not a policy, or 'overall' has nothing behind it.
    """
    try:
        raw = _Unique(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A ValueError are bytes that are no text, and a day that is none (2026-02-30).
        raise PolicyError(f"{path.name}: not YAML: {error}") from None
    if isinstance(raw, dict) and raw.get(OVERALL, ...) is None:
        # A category is asked so (``hate:``), null means not asked: nothing tells which was meant.
        raise PolicyError(
            f"{path.name}: field 'overall' has nothing behind it: write 'overall: {{}}' to ask it "
            "at the bundle's own thresholds, or leave it out"
        )
    return parse_policy(raw, path.name)


def load_policies(directory: Path, encoded: bool = False) -> dict[str, Policy]:
    """Every ``*.yaml`` policy of a directory by its name.

    ``encoded``: a policy encoder judges categories of their own.

    Raises:
        PolicyError: where one cannot be read, two share a name, or one has categories of its own
            that nobody can read, or that nobody judges where they want it: for a shadow, and by
            thresholds.
    """
    policies: dict[str, Policy] = {}
    files: dict[str, str] = {}
    for path in sorted(directory.glob("*.yaml")):
        policy = load_policy(path)
        if policy.name in policies:
            raise PolicyError(f"{path.name}: a policy named {policy.name!r} exists already")
        _check_own(policy, path.name)
        if not encoded:
            check_unscored(policy, path.name)
        policies[policy.name], files[policy.name] = policy, path.name
    for name, policy in policies.items():
        shadow = policies.get(policy.shadow or "")
        if shadow is not None and shadow.own and not encoded:
            raise PolicyError(
                f"{files[name]}: field 'shadow': {shadow.name!r} has the category "
                f"{shadow.own[0]!r} of its own, for which the classifier has no score"
            )
    return policies


def check_unscored(policy: Policy, where: str) -> None:
    """Refuse thresholds for what nobody scores: categories of its own without a policy encoder.

    Raises:
        PolicyError: naming the category.
    """
    for name in policy.own:
        rule = policy.categories[name]
        if rule.flag is not None or rule.block is not None:
            raise PolicyError(
                f"{where}: category {name!r} is your own: without the policy encoder nobody gives "
                "it a score that 'flag' or 'block' could apply to"
            )


def default_policy() -> Policy:
    """The policy that ships: every category, at the bundle's own thresholds."""
    return load_policy(Path(__file__).parent / "default.yaml")


class _Unique(yaml.SafeLoader):
    """YAML that has every name of a mapping once: PyYAML keeps the last of several, unasked."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for name in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{name.value!r} stands twice", problem_mark=name.start_mark
                )
            seen.add(name.value)
        return node


def _mapping(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise PolicyError(f"{where} must be a mapping of names")
    return raw


def _check_categories(rules: Mapping[str, Rule], where: str) -> None:
    """A name of one's own needs a definition, which tells it from a misspelt one."""
    for name, rule in rules.items():
        try:
            taxonomy().check([name])
        except UnknownCategoryError as error:
            if not (rule.definition or "").strip():
                raise PolicyError(
                    f"{where}: {error}; a category of your own needs a 'definition'"
                ) from None
            if name in LABELS:
                raise PolicyError(
                    f"{where}: category {name!r}: {', '.join(LABELS)} are labels of whole texts; a "
                    "category of your own needs another name"
                ) from None


def _check_own(policy: Policy, where: str) -> None:
    """Categories of one's own have to be such that encoder and reasoner can read them."""
    if not policy.own:
        return
    try:
        _ = policy.guidelines
    except GuidelineError as error:
        raise PolicyError(f"{where}: {error}") from None


def _only(data: Mapping[str, Any], known: set[str], where: str) -> None:
    if stray := sorted(set(data) - known):
        allowed = ", ".join(sorted(known))
        raise PolicyError(f"{where}: unknown field {stray[0]!r}; known: {allowed}")


def _one_of(
    data: Mapping[str, Any], field: str, names: Iterable[str], default: str, where: str
) -> Any:
    value, known = data.get(field, default), tuple(names)
    if value not in known:
        raise PolicyError(f"{where}: field {field!r} must be one of {', '.join(known)}")
    return value


def _severity(data: Mapping[str, Any], where: str) -> SeverityRule:
    raw = _mapping(data.get("severity", {}), f"{where}: field 'severity'")
    where = f"{where}: 'severity'"
    _only(raw, {"borderline"}, where)
    return SeverityRule(borderline=_one_of(raw, "borderline", get_args(Act), "allow", where))


def _mask(data: Mapping[str, Any], where: str) -> MaskRule | None:
    if data.get("mask") is None:
        return None
    raw = _mapping(data["mask"], f"{where}: field 'mask'")
    where = f"{where}: 'mask'"
    _only(raw, {"pii", "evidence", "countries"}, where)
    evidence = raw.get("evidence", False)
    if not isinstance(evidence, bool):
        raise PolicyError(f"{where}: field 'evidence' must be true or false")
    pii = _some_of(raw, "pii", get_args(Personal), where)
    countries = _some_of(raw, "countries", tuple(NATIONAL_IDS), where)
    if not pii and not evidence:
        raise PolicyError(f"{where}: needs 'pii' or 'evidence'")
    if "national_id" in pii and not countries:
        raise PolicyError(f"{where}: 'national_id' needs 'countries'")
    return MaskRule(pii, evidence, countries)


def _some_of(
    data: Mapping[str, Any], field: str, known: tuple[Any, ...], where: str
) -> tuple[Any, ...]:
    raw = data.get(field, [])
    if not isinstance(raw, list) or any(name not in known for name in raw):
        raise PolicyError(f"{where}: field {field!r} must be a list of {', '.join(known)}")
    # Versions do not depend on the order.
    return tuple(name for name in known if name in raw)


def _sides(data: Mapping[str, Any], where: str) -> tuple[Side, ...] | None:
    raw, known = data.get("judge"), get_args(Side)
    if raw is None:
        return None
    if not isinstance(raw, list) or not raw or any(side not in known for side in raw):
        raise PolicyError(f"{where}: field 'judge' must be a list of {', '.join(known)}")
    # Versions do not depend on the order.
    return tuple(side for side in known if side in raw)


def _rule(raw: Any, where: str) -> Rule:
    data = _mapping({} if raw is None else raw, where)
    _only(data, {"flag", "block", "definition"}, where)
    for name in ("flag", "block"):
        value = data.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise PolicyError(f"{where}: {name!r} must be a number above 0 and at most 1")
    flag, block = data.get("flag"), data.get("block")
    if flag is not None and block is not None and flag > block:
        raise PolicyError(f"{where}: 'flag' ({flag}) must not be above 'block' ({block})")
    definition = data.get("definition")
    if definition is not None and not isinstance(definition, str):
        raise PolicyError(f"{where}: 'definition' must be a text")
    return Rule(flag, block, definition)
