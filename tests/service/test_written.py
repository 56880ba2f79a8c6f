"""Names that stand twice in a policy that a request writes out."""

import pytest

from service.dialects.written import check_written
from service.errors import RequestError
from tests.service.test_gateways import client
from tests.service.wire import LITELLM

__all__ = ["client"]

STRICT, LOOSE = '{"flag": 0.00001, "block": 0.00001}', '{"flag": 0.9, "block": 0.95}'
TWICE = f'{{"name": "n", "categories": {{"toxicity": {STRICT}, "toxicity": {LOOSE}}}}}'
ONCE = TWICE.replace(f'"toxicity": {LOOSE}', f'"hate": {LOOSE}')
PARAMS = "additional_provider_specific_params"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/moderate", '{"input": "tea", "policy": %s}'),
        ("/moderate/stream", '{"kind": "text", "policy": %s}\n{"text": "tea"}\n'),
        ("/moderate/stream/a", '{"text": "tea", "policy": %s}'),
        (LITELLM, f'{{"input_type": "request", "texts": ["tea"], "{PARAMS}": {{"policy": %s}}}}'),
    ],
)
def test_a_policy_of_a_request_has_every_name_once(client, path, body):
    answer = client.post(path, content=body % TWICE)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == "policy: 'toxicity' stands twice"
    assert (error["param"], error["code"]) == ("policy", "invalid_policy")
    assert client.post(path, content=body % ONCE).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"policy": {}, "policy": {"mask": {}}}',
        '{"policy": {"judge": [{"policy": 1, "policy": NaN}]}}',
        '{"policy": {"\\ud83d": {}, "policy": {"policy": 1, "p\\u006flicy": 2}}}',
    ],
)
def test_twice_at_any_depth_is_twice(body):
    with pytest.raises(RequestError, match="'policy' stands twice"):
        check_written(body.encode(), {})


def test_what_stands_twice_elsewhere_and_long_numbers_are_no_concern_of_it():
    check_written(b'{"input": {"text": 1, "text": 2}, "policy": {"n": %s}}' % (b"9" * 9_999), {})
    check_written(b'{"policy": "strict", "policy": "loose"}', "loose")


def test_many_names_that_stand_twice_are_found_in_one_pass():
    names = ", ".join(f'"{n}": 1' for n in range(50_000))
    with pytest.raises(RequestError):
        check_written(f'{{"policy": {{{names}, {names}}}}}'.encode(), {})
