"""``GET /policies`` says all that a policy does, so that it can be written out, edited and sent."""

import json
from dataclasses import fields
from pathlib import Path

from service.dialects.catalogue import policy_json
from tamis import rules
from tamis.bundle import Bundle
from tamis.policies.parsing import FIELDS, default_policy, parse_policy
from tamis.policy import Policy
from tests.encoders import write_encoder
from tests.policies import FULL, unset


def test_no_field_of_a_policy_is_missing(bundle: Bundle, tmp_path: Path):
    # A new field must be set here, or this test could not tell that it is lost.
    assert list(unset(FULL)) == [".overall.definition"]
    assert {field.name for field in fields(Policy)} == FIELDS
    encoder = rules.load(write_encoder(tmp_path / "encoder"))
    said = json.loads(json.dumps(policy_json(FULL, bundle, encoder)))
    raw = {name: said[name] for name in FIELDS}
    # Its thresholds are told by question, and here hold for all of them.
    raw["overall"] = said["overall"]["prompt"]
    given = {name: rule.pop("given") for name, rule in raw["categories"].items()}
    assert parse_policy(raw) == FULL
    assert given["toxicity"] == {
        "flag": FULL.categories["toxicity"].flag,
        "block": FULL.categories["toxicity"].block,
    }
    assert said["own"] == ["loan promises"]
    assert said["defined"] == list(FULL.categories)


def test_definitions_of_the_taxonomy_are_not_the_policys(bundle: Bundle):
    said = policy_json(default_policy(), bundle)
    assert all(rule["definition"] for rule in said["categories"].values())
    assert said["defined"] == []
    assert not any(rule["given"] for rule in said["categories"].values())
    assert said["mask"] is None
