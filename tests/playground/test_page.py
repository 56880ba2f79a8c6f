"""The page as a server gives it: no browser needed."""

import re
from importlib import resources
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.playground.page import CONTENT_SECURITY_POLICY, TYPES
from service.settings import Settings

ROOT = Path(__file__).parents[2]
ASSETS = sorted(
    (path for path in (ROOT / "service" / "playground" / "assets").iterdir()),
    key=lambda path: path.name,
)
SCRIPTS = [path for path in ASSETS if path.suffix == ".js"]


def url(path: Path) -> str:
    return "/" if path.name == "index.html" else f"/playground/{path.name}"


@pytest.fixture(scope="module")
def client(bundle) -> TestClient:
    # Not entered: the page needs no model.
    return TestClient(create_app(Settings(bundle=bundle.path)))


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_every_asset_is_served_as_what_it_is(client, path):
    answer = client.get(url(path))
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == TYPES[path.suffix[1:]]


@pytest.mark.parametrize("path", ["/", "/playground/app.js", "/playground/style.css"])
def test_headers_let_nothing_in_or_out(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy == CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]


def test_a_browser_asks_each_time_and_is_told_that_nothing_changed(client):
    answer = client.get("/playground/app.js")
    etag = answer.headers["etag"]
    assert answer.headers["cache-control"] == "no-cache"
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get("/playground/app.js", headers={"if-none-match": given})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == etag
        assert again.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert client.get("/", headers={"if-none-match": etag}).status_code == 200


def test_head_is_answered_and_everything_else_is_refused(client):
    head = client.head("/")
    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) > 1000
    assert client.post("/").status_code == 405
    for path in ("/playground/", "/playground/nope.js", "/playground/../page.py"):
        assert client.get(path).status_code == 404


def test_the_page_can_be_switched_off(bundle, monkeypatch):
    monkeypatch.setenv("TAMIS_PLAYGROUND", "false")
    client = TestClient(create_app(Settings(bundle=bundle.path)))
    assert client.get("/").status_code == 404
    assert client.get("/playground/app.js").status_code == 404
    assert client.get("/health/live").status_code == 200


def test_the_page_is_no_part_of_the_api(client):
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "play" in path]


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_no_asset_names_another_place(path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]|@import|\burl\(", text)


def test_nothing_is_written_inline_that_the_policy_would_refuse():
    page = (ROOT / "service/playground/assets/index.html").read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", page)
    assert re.findall(r"<script[^>]*>(?!</script>)", page) == []
    for path in SCRIPTS:
        # What would parse text as HTML or as a script.
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", text)


def test_everything_that_is_referred_to_exists():
    names = {path.name for path in ASSETS}
    page = (ROOT / "service/playground/assets/index.html").read_text(encoding="utf-8")
    referred = set(re.findall(r'(?:src|href)="playground/([^"]+)"', page))
    for path in SCRIPTS:
        referred |= set(re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8")))
    assert referred == names - {"index.html"}


def test_ids_that_scripts_ask_for_are_in_the_page():
    page = (ROOT / "service/playground/assets/index.html").read_text(encoding="utf-8")
    asked = {
        name for path in SCRIPTS for name in re.findall(r'byId\("([\w-]+)"\)', path.read_text())
    }
    assert len(asked) > 20
    assert asked <= set(re.findall(r'id="([\w-]+)"', page))


def test_the_wheel_carries_every_asset():
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    carried = {included.distribution_path for included in builder.recurse_included_files()}
    assert {f"service/playground/assets/{path.name}" for path in ASSETS} <= carried
    found = {
        asset.name for asset in resources.files("service.playground").joinpath("assets").iterdir()
    }
    assert found == {path.name for path in ASSETS}


def test_examples_are_judged_as_the_page_shows_them(bundle):
    """The page's first impression: an insult is flagged, a recipe is not."""
    from service.engine.classifier import load_classifier
    from tamis.content import plain, prompt
    from tamis.deciding import decide
    from tamis.policies.parsing import default_policy
    from tamis.verdict import Provenance

    script = (ROOT / "service/playground/assets/examples.js").read_text(encoding="utf-8")
    texts = dict(re.findall(r'name: "([^"]+)".*?first:\s*"([^"]+)"', script, flags=re.DOTALL))
    classifier = load_classifier(bundle)
    provenance = Provenance("", "", "", "")

    def action(content) -> str:
        found = [classifier.judge(content)]
        return decide(found, default_policy(), bundle.thresholds, provenance).action.value

    assert action(plain(texts["an insult"])) == "flag"
    assert action(prompt(texts["a recipe"])) == "allow"
    assert action(prompt(texts["an override"])) == "block"
