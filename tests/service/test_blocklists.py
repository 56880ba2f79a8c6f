"""Azure's blocklists: kept in a folder, shared by processes, bounded, and found as whole words."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service import blocklists
from service.access import new_key
from service.app import create_app
from service.blocklists import Blocklist, Blocklists, Item, words_of
from service.settings import Settings
from tests.service.test_app import wait_until_ready
from tests.service.wire import KIND

LISTS = "/contentsafety/text/blocklists"
ANALYZE = "/contentsafety/text:analyze"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lists"


@pytest.fixture
def client(bundle, folder: Path) -> Iterator[TestClient]:
    settings = Settings(bundle=bundle.path, feedback="", blocklists=folder)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def ask(client: TestClient, method: str, path: str, status: int = 200, **more: Any) -> Any:
    answer = client.request(method, LISTS + path, **more)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def add(client: TestClient, name: str, *texts: str, status: int = 200) -> Any:
    items = [{"blocklistItemId": text[:9], "text": text} for text in texts]
    body = {"blocklistItems": items}
    return ask(client, "POST", f"/{name}:addOrUpdateBlocklistItems", status, json=body)


def matched(client: TestClient, text: str, *names: str, **more: Any) -> Any:
    body = {"text": text, "blocklistNames": list(names)} | more
    answer = client.post(ANALYZE, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_files_that_are_no_lists_of_ours_are_none(client, folder: Path):
    ask(client, "PATCH", "/garden", 201, json={})
    (folder / "my words.json").write_text("{}")
    assert [one["blocklistName"] for one in ask(client, "GET", "")["value"]] == ["garden"]


def test_another_method_is_told_all_that_a_path_takes(client):
    for path, methods in (
        ("", "GET"),
        ("/garden", "DELETE, GET, PATCH"),
        ("/garden:removeBlocklistItems", "POST"),
        ("/garden/blocklistItems", "GET"),
    ):
        answer = client.put(LISTS + path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_list_is_made_filled_read_and_forgotten(client):
    made = {"blocklistName": "garden", "description": "a"}
    assert ask(client, "PATCH", "/garden", 201, json={"description": "a"}) == made
    assert ask(client, "PATCH", "/garden", 200, json={}) == made
    assert ask(client, "GET", "/garden") == made
    assert ask(client, "GET", "") == {"value": [made]}
    assert add(client, "garden", "lovely garden", "tea")["blocklistItems"][1] == {
        "blocklistItemId": "tea",
        "description": None,
        "text": "tea",
    }
    add(client, "garden", "tea")
    items = ask(client, "GET", "/garden/blocklistItems")["value"]
    assert [one["text"] for one in items] == ["lovely garden", "tea"]
    paged = ask(client, "GET", "/garden/blocklistItems?skip=1&top=1&maxpagesize=9")["value"]
    assert paged == items[1:]
    assert ask(client, "GET", "/garden/blocklistItems/tea") == items[1]
    ids = {"blocklistItemIds": ["tea"]}
    ask(client, "POST", "/garden:removeBlocklistItems", 204, json=ids)
    ask(client, "POST", "/garden:removeBlocklistItems", 404, json=ids)
    ask(client, "GET", "/garden/blocklistItems/tea", 404)
    ask(client, "DELETE", "/garden", 204)
    ask(client, "DELETE", "/garden", 204)
    assert ask(client, "GET", "/garden", 404)["error"]["code"] == "NotFound"
    assert 'route="/contentsafety/text/blocklists/{name}"' in client.get("/metrics").text
    assert "garden" not in client.get("/metrics").text


def test_a_text_is_compared_with_the_lists_it_names(client, monkeypatch):
    for name in ("one", "two"):
        ask(client, "PATCH", f"/{name}", 201, json={})
    add(client, "one", "Lovely   GARDEN", "den", "roses")
    add(client, "two", "garden.")
    both = matched(client, KIND, "one", "two", "one")
    assert [one["blocklistItemText"] for one in both["blocklistsMatch"]] == [
        "Lovely   GARDEN",
        "garden.",
    ]
    assert len(both["categoriesAnalysis"]) == 4
    assert matched(client, "Nothing of it.", "one", haltOnBlocklistHit=True)["categoriesAnalysis"]
    # Nothing else is judged where it is to halt.
    monkeypatch.setattr("service.moderation.moderator.Moderator.judge", None)
    halted = matched(client, KIND, "two", haltOnBlocklistHit=True)
    assert (len(halted["blocklistsMatch"]), halted["categoriesAnalysis"]) == (1, [])
    missing = client.post(ANALYZE, json={"text": KIND, "blocklistNames": ["three"]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NotFound")


@pytest.mark.parametrize(
    ("item", "text", "found"),
    [
        ("tea", "Tea, please", True),
        ("tea", "a team", False),
        ("green tea", "GREEN\n tea", True),
        ("green tea", "green, tea", False),
        ("t.e.a", "some t.e.a here", True),
        ("\uff54\uff45\uff41", "tea", True),
        ("\u8336", "\u559d\u8336\u5427", True),
        ("", "tea", False),
        ("straße", "STRASSE", True),
        # Tomorrow, in a sentence and at its end; art.
        ("\u0915\u0932", "\u0906\u091c \u0914\u0930 \u0915\u0932\u0964", True),
        ("\u0915\u0932", "\u0915\u0932\u093e", False),
    ],
)
def test_items_are_found_as_whole_words(item, text, found):
    kept = Blocklist("a", None, {"1": Item("1", item)})
    assert bool(kept.found(words_of(text))) is found


def test_many_items_and_a_long_text_take_no_time():
    items = {f"{n}": Item(f"{n}", f"word{n} tea") for n in range(blocklists.MOST_ITEMS)}
    kept, text = Blocklist("a", None, items), "word7 word8 " * 20_000
    began = time.process_time()
    assert kept.found(words_of(text)) == []
    assert time.process_time() - began < 3


def test_many_items_that_begin_alike_take_no_time():
    items = {f"{n}": Item(f"{n}", f"tea {n}") for n in range(blocklists.MOST_ITEMS)}
    items |= {"short": Item("short", "tea"), "again": Item("again", "Tea 7")}
    kept, text = Blocklist("a", None, items), "tea " * 40_000 + "7"
    began = time.process_time()
    assert {item.id for item in kept.found(words_of(text))} == {"short", "7", "again"}
    assert time.process_time() - began < 3


def test_marks_out_of_order_take_no_time():
    began = time.process_time()
    words_of("\u0315\u0300" * 50_000)
    assert time.process_time() - began < 2
    assert words_of("Ｃａｆe\u0301\u3000ﬁne  " + "x" * 3_000) == ["café", "fine", "x" * 3_000]


def test_processes_that_share_a_folder_share_its_lists(folder):
    one, other = Blocklists(folder), Blocklists(folder)
    assert other.names() == []
    one.put("a", "first")
    one.add("a", [Item("1", "tea")])
    assert [item.text for item in other.get("a").items.values()] == ["tea"]
    other.add("a", [Item("", "soup")])
    assert [item.text for item in one.get("a").items.values()] == ["tea", "soup"]
    one.delete("a")
    with pytest.raises(blocklists.NoBlocklistError):
        other.get("a")


def test_two_changes_within_a_tick_of_the_clock_are_seen(folder):
    lists = Blocklists(folder)
    lists.put("a", None)
    assert not lists.get("a").items
    path = folder / "a.json"
    before = path.stat()
    path.write_text('{"description": null, "items": [{"id": "1", "text": "tea"}]}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [item.text for item in lists.get("a").items.values()] == ["tea"]


@pytest.mark.parametrize("damaged", ["", "[]", '{"description": null, "items": [{"id": 7}]}'])
def test_a_damaged_list_is_named_and_can_be_put_right(client, folder, damaged):
    ask(client, "PATCH", "/a", 201, json={})
    (folder / "a.json").write_text(damaged, encoding="utf-8")
    body = {"text": "tea", "blocklistNames": ["a"]}
    answer = client.post(ANALYZE, json=body)
    assert answer.status_code == 503
    assert "blocklist 'a' cannot be read" in answer.json()["error"]["message"]
    ask(client, "GET", "/a", 503)
    ask(client, "PATCH", "/b", 201, json={"description": "whole"})
    assert ask(client, "GET", "")["value"] == [
        {"blocklistName": "a", "description": None},
        {"blocklistName": "b", "description": "whole"},
    ]
    ask(client, "DELETE", "/b", 204)
    ask(client, "DELETE", "/a", 204)
    ask(client, "PATCH", "/a", 201, json={})
    assert client.post(ANALYZE, json=body).status_code == 200


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_callers(client, folder):
    ask(client, "PATCH", "/a", 201, json={})
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    for method, path in (("PATCH", "/a"), ("PATCH", "/b"), ("DELETE", "/a")):
        answer = ask(client, method, path, 503, **({"json": {}} if method == "PATCH" else {}))
        assert answer["error"]["code"] == "ServiceUnavailable"
        assert "cannot be written" in answer["error"]["message"]
    assert add(client, "a", "tea", status=503)
    assert ask(client, "GET", "")["value"] == [{"blocklistName": "a", "description": None}]


def test_lists_are_bounded(client, monkeypatch):
    ask(client, "PATCH", "/a", 201, json={})
    add(client, "a", "x" * 129, status=400)
    add(client, "a", " ", status=400)
    add(client, "a", *(f"item {n}" for n in range(101)), status=400)
    ask(client, "PATCH", "/" + "a" * 65, 400, json={})
    ask(client, "PATCH", "/a%20b", 400, json={})
    ask(client, "PATCH", "/a", 400, json={"description": "x" * 1_025})
    ask(client, "GET", "/a/blocklistItems?top=x", 400)
    monkeypatch.setattr(blocklists, "MOST_LISTS", 1)
    monkeypatch.setattr(blocklists, "MOST_ITEMS", 1)
    ask(client, "PATCH", "/b", 400, json={})
    add(client, "a", "one", "two", status=400)
    add(client, "nowhere", "one", status=404)
    assert ask(client, "GET", "/a/blocklistItems")["value"] == []


def test_what_is_refused_is_named(client, monkeypatch):
    ask(client, "PATCH", "/a", 201, json={})
    add(client, "a", "tea")
    answer = client.post(ANALYZE, json={"text": KIND, "blocklistNames": ["a", "a", "b"]})
    assert answer.json()["error"]["param"] == "blocklistNames[2]"
    assert answer.json()["error"]["message"] == "blocklistNames[2]: there is no such blocklist"

    def param(method: str, path: str, status: int, **more: Any) -> str:
        return ask(client, method, path, status, **more)["error"]["param"]

    assert param("GET", "/b", 404) == "blocklistName"
    assert param("PATCH", "/a%20b", 400, json={}) == "blocklistName"
    assert param("GET", "/a/blocklistItems/soup", 404) == "blocklistItemId"
    ids = {"blocklistItemIds": ["tea", "soup"]}
    assert param("POST", "/a:removeBlocklistItems", 404, json=ids) == "blocklistItemIds[1]"
    monkeypatch.setattr(blocklists, "MOST_ITEMS", 1)
    assert add(client, "a", "soup", status=400)["error"]["param"] == "blocklistItems"


def test_items_come_in_pages(client):
    ask(client, "PATCH", "/garden", 201, json={})
    texts = [f"tea {n}" for n in range(7)]
    add(client, "garden", *texts)

    def pages(query: str) -> list[list[str]]:
        path, found = f"/garden/blocklistItems?api-version=2024-09-01&{query}", list[list[str]]()
        while path:
            page = ask(client, "GET", path)
            found.append([one["text"] for one in page["value"]])
            path = page.get("nextLink", "").removeprefix(LISTS)
        return found

    assert pages("maxpagesize=3") == [texts[:3], texts[3:6], texts[6:]]
    assert pages("maxpagesize=2&skip=1&top=3") == [texts[1:3], texts[3:4]]
    assert pages("maxpagesize=7") == [texts]
    ask(client, "GET", "/garden/blocklistItems?maxpagesize=0", 400)


def test_items_that_would_be_lost_are_refused(client):
    ask(client, "PATCH", "/a", 201, json={})
    twice = add(client, "a", "lovely garden", "lovely gate", status=400)["error"]
    assert twice["param"] == "blocklistItems[1].blocklistItemId"
    items = [{"text": "tea", "isRegex": False}, {"text": "t.a", "isRegex": True}]
    path = "/a:addOrUpdateBlocklistItems"
    refused = ask(client, "POST", path, 400, json={"blocklistItems": items})["error"]
    assert refused["param"] == "blocklistItems[1].isRegex"
    ask(client, "POST", path, json={"blocklistItems": [{"text": "tea"}, {"text": "soup"}]})
    assert len(ask(client, "GET", "/a/blocklistItems")["value"]) == 2


def test_a_description_that_is_null_is_taken_away(client):
    ask(client, "PATCH", "/a", 201, json={"description": "words"})
    assert ask(client, "PATCH", "/a", json={})["description"] == "words"
    assert ask(client, "PATCH", "/a", json={"description": None})["description"] is None


def test_without_a_folder_there_are_none(bundle):
    settings = Settings(bundle=bundle.path, feedback="")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        assert ask(client, "GET", "") == {"value": []}
        assert "TAMIS_BLOCKLISTS" in ask(client, "PATCH", "/a", 404, json={})["error"]["message"]
        ask(client, "DELETE", "/a", 204)
        answer = client.post(ANALYZE, json={"text": KIND, "blocklistNames": ["a"]})
        assert answer.status_code == 404


def test_lists_are_the_administrators(bundle, folder, tmp_path):
    keys, entries = zip(
        *(new_key(name, scopes=[name]) for name in ("moderate", "admin")), strict=True
    )
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(list(entries)))
    settings = Settings(
        bundle=bundle.path, feedback="", blocklists=folder, keys=tmp_path / "keys.yaml"
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        user, admin = ({"ocp-apim-subscription-key": key} for key in keys)
        ask(client, "PATCH", "/a", 403, json={}, headers=user)
        ask(client, "GET", "", 403, headers=user)
        ask(client, "PATCH", "/a", 201, json={}, headers=admin)
        answer = client.post(ANALYZE, json={"text": KIND, "blocklistNames": ["a"]}, headers=user)
        assert answer.status_code == 200
