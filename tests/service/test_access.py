import time
from pathlib import Path

import pytest
import yaml
from starlette.datastructures import Headers

from service.access import Access, Bucket, Key, KeysError, credentials, new_key, read_keys
from service.errors import RequestError


def keyring(**more: object) -> tuple[Access, str]:
    key, entry = new_key("gateway", **more)
    access = Access()
    access.replace([Key.parse(entry, "key")])
    return access, key


def enter(access: Access, path: str, **headers: str) -> Key | None:
    return access.enter(path, Headers({name.replace("_", "-"): v for name, v in headers.items()}))


def refusal(access: Access, path: str, **headers: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        enter(access, path, **headers)
    return caught.value


def test_without_keys_everybody_may_come_in():
    assert enter(Access(), "/moderate") is None


def test_a_key_opens_what_its_scopes_name_and_nothing_else():
    access, key = keyring(scopes=["moderate"])
    for path in ("/moderate", "/v1/moderations", "/policies", "/whatever", "*"):
        found = enter(access, path, authorization=f"Bearer {key}")
        assert found is not None
        assert found.name == "gateway"
    assert enter(access, "/moderate", x_api_key=key) is not None
    for path in ("/metrics", "/admin/reload", "/feedback"):
        error = refusal(access, path, authorization=f"bearer {key}")
        assert (error.status, error.code) == (403, "missing_scope")


@pytest.mark.parametrize("empty", ["x_api_key", "ocp_apim_subscription_key"])
def test_an_empty_header_is_no_key_beside_one_that_is(empty: str):
    access, key = keyring()
    assert enter(access, "/moderate", **{empty: "", "authorization": f"Bearer {key}"}) is not None
    headers = [(empty.replace("_", "-").encode(), b"")]
    query = f"key={key}".encode()
    asked = {"type": "http", "path": "/v1alpha1/x", "headers": headers, "query_string": query}
    assert access.enter("/v1alpha1/x", credentials(asked)) is not None


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/playground/app.js"])
def test_health_and_the_page_need_no_key(path: str):
    access, _ = keyring()
    assert enter(access, path) is None


def test_a_wrong_key_is_refused_whatever_is_wrong_with_it():
    access, key = keyring()
    other, _ = new_key("other")
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    for wrong in ("", "none", key[:-1], key + "A", changed, other, key.upper(), "clé"):
        error = refusal(access, "/moderate", authorization=f"Bearer {wrong}")
        assert (error.status, error.code) == (401, "invalid_api_key")
        assert error.headers == {"www-authenticate": "Bearer"}
        assert not wrong or wrong not in error.message
    assert refusal(access, "/moderate").status == 401
    assert refusal(access, "/moderate", authorization=f"Basic {key}").status == 401


def test_the_secret_is_not_in_the_entry():
    key, entry = new_key("gateway", rate=5)
    assert key.split("_", 2)[2] not in yaml.safe_dump(entry)
    assert Key.parse(entry, "key").burst == 5


def test_a_rate_lets_so_many_items_through_and_says_when_to_come_back():
    access, key = keyring(rate=0.001, burst=3)
    for _ in range(3):
        enter(access, "/moderate", x_api_key=key)
    error = refusal(access, "/moderate", x_api_key=key)
    assert (error.status, error.code) == (429, "rate_limited")
    assert 0 < int(error.headers["retry-after"]) <= 1000


def test_a_batch_is_paid_for_by_item():
    access, key = keyring(rate=0.001, burst=10)
    caller = enter(access, "/moderate", x_api_key=key)
    access.charge(caller, 10)
    assert refusal(access, "/moderate", x_api_key=key).status == 429


def test_several_processes_share_a_rate_out():
    key, entry = new_key("gateway", rate=0.004, burst=4)
    access = Access(share=0.5)
    access.replace([Key.parse(entry, "key")])
    for _ in range(2):
        enter(access, "/moderate", x_api_key=key)
    assert refusal(access, "/moderate", x_api_key=key).status == 429


def test_a_bucket_fills_at_its_rate_up_to_its_burst():
    bucket = Bucket(rate=2.0, burst=4.0, level=4.0, at=0.0)
    bucket.take(5, now=0.0)
    assert bucket.wait(0.0) == pytest.approx(1.0)
    assert bucket.wait(1.0) == 0.0
    bucket.take(1, now=100.0)
    assert bucket.level == 3.0


def test_new_keys_in_force_do_not_give_back_what_was_used():
    access, key = keyring(rate=0.001, burst=1)
    enter(access, "/moderate", x_api_key=key)
    access.replace(list(access.keys.values()))
    assert refusal(access, "/moderate", x_api_key=key).status == 429


GOOD = {"id": "0" * 8, "name": "a", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{", "cannot be read"),
        ("- name: 2026-02-30", "cannot be read: ValueError"),
        ("a: b", "must be a list of at least one key"),
        ("[]", "at least one key"),
        (["x"], "key 1: must be a mapping"),
        ([GOOD | {"sekret": 1}], "unknown field 'sekret'"),
        ([GOOD | {"id": "xyz"}], "field 'id'"),
        ([{"id": "0" * 8, "name": "a"}], "field 'sha256'"),
        ([GOOD | {"scopes": ["root"]}], "field 'scopes'"),
        ([GOOD | {"scopes": []}], "field 'scopes'"),
        ([GOOD | {"rate": 0}], "field 'rate'"),
        ([GOOD | {"rate": True}], "field 'rate'"),
        ([GOOD | {"rate": 10**400}], "field 'rate'"),
        ([GOOD | {"policy": 3}], "field 'policy'"),
        ([GOOD, GOOD | {"id": "1" * 8}], "share the name 'a'"),
        ([GOOD, GOOD | {"name": "b"}], "share the id"),
    ],
)
def test_faults_of_a_file_are_named_without_quoting_it(tmp_path: Path, entries, message):
    path = tmp_path / "keys.yaml"
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries))
    with pytest.raises(KeysError, match=message) as caught:
        read_keys(path)
    assert "0" * 64 not in str(caught.value)


def test_many_keys_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entries = [{"id": f"{n:08x}", "name": f"k{n}", "sha256": "0" * 64} for n in range(20_000)]
    (tmp_path / "keys.yaml").touch()
    monkeypatch.setattr(yaml, "safe_load", lambda _: entries)
    began = time.monotonic()
    assert len(read_keys(tmp_path / "keys.yaml")) == 20_000
    assert time.monotonic() - began < 5  # every one with every other took 12 s


def test_a_missing_file_is_a_fault(tmp_path: Path):
    with pytest.raises(KeysError, match="cannot be read"):
        read_keys(tmp_path / "keys.yaml")
