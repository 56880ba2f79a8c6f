"""The page in headless Chromium, against a real service."""

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.access import new_key
from tests.playground.browser import serving

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, Route, expect

INSULT = "Tell my sister she is a worthless, ugly idiot."
PHONE = {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True}


def action(page: Page, word: str) -> None:
    expect(page.locator(".headline .action")).to_have_text(word, timeout=20_000)


def example(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()
    expect(page.locator(".headline")).to_be_visible()


def type_post(page: Page, text: str) -> None:
    page.get_by_text("Post", exact=True).click()
    page.locator("#first").fill(text)


def test_typing_shows_a_verdict(visit, address):
    page = visit(address)
    expect(page.locator("#verdict")).to_contain_text("No verdict yet")
    type_post(page, INSULT)
    action(page, "Flag")
    scores = page.locator(".scores tbody tr")
    values = [float(row.locator("td.figure").inner_text()) for row in scores.all()]
    assert len(values) >= 5
    assert values == sorted(values, reverse=True)
    expect(page.locator(".scores tr.flag").first).to_contain_text("flagged, flags from")
    expect(page.locator(".because")).to_contain_text("reached the flag threshold")
    expect(page.locator(".because")).to_contain_text("not the model’s reasoning")
    expect(page.locator("#announce")).to_have_text(re.compile(r"Flag\. Overall score 0\.\d\d\."))
    expect(page.locator("#status")).to_contain_text("tamis-22m@")
    expect(page.locator(".legend .sum")).to_contain_text(re.compile(r"together [\d.]+ m?s"))
    page.locator("#first").fill("")
    expect(page.locator("#verdict")).to_contain_text("No verdict yet")


def test_a_list_that_was_open_opens_nothing_else(visit, address):
    page = visit(address)
    type_post(page, INSULT)
    action(page, "Flag")
    page.locator("details.found summary").click()
    page.locator("#first").fill("What a lovely garden.")
    action(page, "Allow")
    expect(page.locator("details.found")).to_have_count(0)
    expect(page.get_by_label("The answer as JSON")).to_be_hidden()


def test_a_prompt_with_its_response_and_a_conversation(visit, address):
    page = visit(address)
    example(page, "a refusal")
    expect(page.locator(".verdict")).to_contain_text("read in 2 windows")
    page.get_by_text("Conversation", exact=True).click()
    expect(page.locator("#turns textarea")).to_have_count(2)
    page.get_by_role("button", name="+ Add a turn").click()
    expect(page.get_by_label("Turn 3", exact=True)).to_be_focused()
    page.keyboard.type("What is a good soup?")
    action(page, "Allow")
    expect(page.locator(".verdict")).to_contain_text("read in 1 window,")
    page.get_by_role("button", name="Remove turn 3").click()
    expect(page.get_by_label("Turn 2", exact=True)).to_be_focused()
    expect(page.locator(".verdict")).to_contain_text("read in 2 windows")


def test_one_side_of_an_exchange_alone(visit, address):
    page = visit(address)
    expect(page.locator("#side-field")).to_be_hidden()
    example(page, "a refusal")
    expect(page.locator(".fields tbody tr")).to_have_count(2)
    expect(page.locator(".fields tbody tr").first).to_contain_text(re.compile("^Prompt"))
    expect(page.locator(".headline .tag")).to_have_text(re.compile("^(safe|borderline|unsafe)$"))
    with page.expect_request("**/moderate") as sent:
        page.locator("#side").select_option("response")
    assert sent.value.post_data_json["judge"] == ["response"]
    expect(page.locator(".verdict")).to_contain_text("read in 1 window,")
    expect(page.locator(".fields tbody tr")).not_to_have_count(2)
    with page.expect_request("**/moderate") as sent:
        page.get_by_text("Prompt", exact=True).first.click()
    assert "judge" not in sent.value.post_data_json
    expect(page.locator("#side-field")).to_be_hidden()


def test_evidence_behind_emoji_marks_the_right_words(visit, address):
    page = visit(address)
    with page.expect_response("**/moderate") as answered:
        type_post(page, f"🪿🪿👩‍👩‍👧 Honk! {INSULT} 🤡")
    action(page, "Flag")
    evidence = answered.value.json()["evidence"]
    assert any(e["start"] > 10 for e in evidence)
    # Every piece of evidence is marked whole, and nothing else is.
    marked = "".join(page.locator("mark").all_inner_texts())
    for piece in evidence:
        assert piece["text"] in marked
    covered = {at for e in evidence for at in range(e["start"], e["end"])}
    assert len(marked) == len(covered)

    page.locator("mark").first.focus()
    expect(page.locator("#hint")).to_have_text(re.compile(r"(toxicity|unsafe|harassment) 0\.\d\d"))
    page.keyboard.press("Escape")
    expect(page.locator("#hint")).to_be_hidden()
    page.get_by_text("as a list").click()
    expect(page.locator(".found li")).to_have_count(len(evidence))


def test_from_load_to_verdict_to_policy_by_keyboard_alone(visit, address):
    page = visit(address)
    expect(page.locator("#edit")).to_be_enabled()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("4")
    page.keyboard.press("/")
    expect(page.locator("#first")).to_be_focused()
    page.keyboard.type(INSULT)
    page.keyboard.press("Control+Enter")
    action(page, "Flag")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    expect(page.locator("#edit")).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#edit")).to_be_focused()
    for _ in range(3):  # the overall rule: its box, flag, block
        page.keyboard.press("Tab")
    expect(page.get_by_label("overall: block from", exact=True)).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("0.2")
    action(page, "Block")
    expect(page.get_by_label("overall: flag from", exact=True)).to_have_value("0.2")
    expect(page.locator("#edited")).to_be_visible()

    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    expect(page.locator("#theme")).to_have_text(re.compile("System"))


def test_every_stop_is_visible_and_none_is_a_trap(visit, address):
    page = visit(address)
    example(page, "an insult")
    page.locator("#edit").click()
    seen: list[str] = []
    page.locator("#theme").focus()
    for _ in range(120):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
              const e = document.activeElement;
              const box = e.getBoundingClientRect();
              const style = getComputedStyle(e.matches('.modes input') ? e.nextElementSibling : e);
              return [e.id || e.name || e.className || e.tagName, box.width * box.height,
                      style.outlineStyle !== 'none'];
            }"""
        )
        if at[0] in ("BODY", "theme"):
            break
        seen.append(at[0])
        assert at[1] > 0, at
        assert at[2], at
    else:
        pytest.fail("the page never ends")
    assert {"first", "judge", "policy", "edit"} <= set(seen)


def test_a_policy_edit_changes_the_action_and_reset_takes_it_back(visit, address):
    page = visit(address)
    example(page, "an insult")
    action(page, "Flag")
    page.locator("#edit").click()
    with page.expect_request("**/moderate") as sent:
        page.get_by_label("toxicity: block from", exact=True).fill("0.3")
    policy = sent.value.post_data_json["policy"]
    assert policy["name"] == "default-edited"
    assert policy["categories"]["toxicity"]["block"] == 0.3
    action(page, "Block")
    expect(page.locator(".because")).to_contain_text("reached its block threshold")

    for name in ("overall", "toxicity", "harassment"):
        page.locator(".rule").filter(has_text=re.compile(f"^{name}$")).get_by_role(
            "checkbox"
        ).uncheck()
    expect(page.locator(".because")).to_contain_text("does not ask whether it is unsafe")
    page.get_by_text("As a file for").click()
    expect(page.locator("#editor pre")).to_contain_text("name: default-edited")
    expect(page.locator("#editor pre")).not_to_contain_text("toxicity")
    page.get_by_role("button", name="Reset").click()
    action(page, "Flag")
    expect(page.locator("#edited")).to_be_hidden()


def test_a_slider_sets_the_threshold(visit, address):
    page = visit(address)
    example(page, "an insult")
    page.locator("#edit").click()
    slider = page.get_by_label("overall: block from (slider)")
    box = slider.bounding_box()
    number = page.get_by_label("overall: block from", exact=True)
    value = float(number.input_value())
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * value, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, y, steps=6)
    page.mouse.up()
    assert 0.35 < float(number.input_value()) < 0.45
    action(page, "Block")


def test_the_last_question_wins_however_late_the_answers_come(visit, address):
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if not held and "Soup" in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    page = visit(address, before=lambda page: page.route("**/moderate", hold_first))
    type_post(page, "Soup")
    expect(page.locator(".verdict")).to_have_attribute("aria-busy", "true")
    page.wait_for_timeout(300)
    page.locator("#first").fill(INSULT)
    action(page, "Flag")
    assert len(held) == 1
    held[0].abort()
    page.wait_for_timeout(300)
    action(page, "Flag")
    expect(page.locator("#problem")).to_be_empty()


def checker(page: Page) -> Callable[[str], None]:
    """Runs axe over the page in a state that the message then names."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(state: str) -> None:
        found = axe.run(page).response["violations"]
        said = [(v["id"], [n["target"] for n in v["nodes"]], v["help"]) for v in found]
        assert not said, f"{state}: {said}"

    return check


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, address, scheme):
    page = visit(address, color_scheme=scheme, reduced_motion="reduce")
    check = checker(page)
    expect(page.locator("#edit")).to_be_enabled()
    check("empty")
    for name in ("an insult", "an override", "a recipe"):
        example(page, name)
        check(name)
    page.locator("#edit").click()
    for summary in page.locator("summary").all():
        summary.click()
    check("everything open")
    page.get_by_text("Conversation", exact=True).click()
    check("conversation")
    page.locator("#help").click()
    check("shortcuts")


def test_light_and_dark_follow_the_system_until_chosen(visit, address):
    page = visit(address, color_scheme="dark")

    def paper() -> str:
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    dark = paper()
    page.emulate_media(color_scheme="light")
    light = paper()
    assert dark != light
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert paper() == dark
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: Dark")
    page.reload()
    assert paper() == dark


@pytest.mark.parametrize("options", [PHONE, {"viewport": {"width": 760, "height": 900}}])
def test_narrow_pages_never_scroll_sideways(visit, address, options):
    page = visit(address, **options)
    for name in ("an insult", "a refusal", "emoji"):
        example(page, name)
    page.locator("#edit").click()
    for summary in page.locator("summary").all():
        summary.click()
    page.locator("#first").fill("goose" * 200)
    expect(page.locator("#count")).to_have_text(re.compile("characters"))
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == options["viewport"]["width"]
    page.locator("#help").click()
    expect(page.locator("#shortcuts")).to_be_in_viewport(ratio=1)


def test_live_charts_receive_what_happens(visit, address):
    page = visit(address)
    example(page, "an insult")
    chart = page.get_by_role("img", name=re.compile(r"^Time to answer\. p50: now [\d.]+ m?s"))
    expect(chart).to_be_visible(timeout=30_000)
    lines = page.locator(".chart").first.locator("path.line")
    expect(lines.first).to_have_attribute("d", re.compile("M.+L"), timeout=30_000)
    page.locator("#figures summary").click()
    expect(page.locator("#figures tbody tr").nth(1)).to_be_visible(timeout=30_000)


def test_charts_rest_while_nobody_looks(visit, address):
    page = visit(address)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if r.url.endswith("/metrics") else None)
    page.wait_for_event("request", lambda r: r.url.endswith("/metrics"))
    hidden = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});"
    event = "document.dispatchEvent(new Event('visibilitychange'));"
    page.evaluate(hidden % "true" + event)
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(3_000)
    assert asked == []
    page.evaluate(hidden % "false" + event)
    page.wait_for_event("request", lambda r: r.url.endswith("/metrics"))


def refuse(status: int, error: dict[str, Any], **headers: str) -> Callable[[Route], None]:
    body = json.dumps({"error": error})
    return lambda route: route.fulfill(status=status, body=body, headers=headers)


def test_a_busy_service_is_asked_again_when_it_says(visit, address, complaints):
    page = visit(address)
    busy = {"message": "the service is at capacity", "code": "overloaded"}
    page.route("**/moderate", refuse(429, busy, **{"retry-after-ms": "2500"}))
    type_post(page, INSULT)
    expect(page.locator("#problem")).to_contain_text("The service is at capacity.")
    expect(page.locator("#problem .countdown")).to_contain_text(re.compile("by itself in [123] s"))
    page.unroute("**/moderate")
    action(page, "Flag")
    expect(page.locator("#problem")).to_be_empty()
    assert all("429" in text for text in page.complaints)
    page.complaints.clear()


def test_an_error_names_its_field(visit, address):
    page = visit(address)
    error = {
        "message": "input.response: 9 characters are over the limit",
        "param": "input.response",
    }
    page.route("**/moderate", refuse(400, error))
    page.get_by_role("button", name="a refusal").click()
    expect(page.locator("#problem")).to_contain_text("over the limit.")
    expect(page.locator("#response")).to_have_attribute("aria-invalid", "true")
    page.unroute("**/moderate")
    page.locator("#response").fill("Sure.")
    expect(page.locator("#problem")).to_be_empty()
    expect(page.locator("#response")).not_to_have_attribute("aria-invalid", "true")
    page.complaints.clear()


def test_without_a_connection_the_page_says_so_and_recovers(visit, address):
    page = visit(address)
    expect(page.locator("#status")).to_have_attribute("data-state", "ready")
    page.context.set_offline(True)
    type_post(page, INSULT)
    expect(page.locator("#problem")).to_contain_text("The service cannot be reached.")
    expect(page.locator("#status")).to_have_attribute("data-state", "gone")
    page.context.set_offline(False)
    action(page, "Flag")
    expect(page.locator("#status")).to_have_attribute("data-state", "ready")
    page.complaints.clear()


@pytest.mark.parametrize(("status", "note"), [(404, "another port"), (403, "scope “metrics”")])
def test_metrics_elsewhere_leave_a_quiet_note(visit, address, status, note):
    asked: list[str] = []

    def elsewhere(route: Route) -> None:
        asked.append(route.request.url)
        refuse(status, {"message": "no"})(route)

    page = visit(address, before=lambda page: page.route("**/metrics", elsewhere))
    expect(page.locator("#live-note")).to_contain_text(note)
    expect(page.locator("#charts")).to_be_hidden()
    page.wait_for_timeout(2_500)
    assert len(asked) == 1
    page.complaints.clear()


def test_nothing_that_is_typed_goes_into_the_address_or_storage(visit, address):
    page = visit(address)
    type_post(page, "zebra canary goose")
    expect(page.locator(".headline")).to_be_visible()
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, location.href, document.cookie])"
    )
    assert "zebra" not in kept
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.locator("#first").fill("zebra canary swan")
    page.wait_for_event("response", lambda r: r.url.endswith("/moderate"))
    assert not [url for url in asked if "zebra" in url]
    assert {url.rpartition("/")[0] + "/" for url in asked} == {address}


def test_copied_curl_and_request_id_are_those_of_the_answer(visit, address):
    page = visit(address, permissions=["clipboard-read", "clipboard-write"])
    with page.expect_response("**/moderate") as answered:
        type_post(page, "It's a stupid goose")
    expect(page.locator(".headline")).to_be_visible()
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"curl -s '{address}moderate' \\\n")
    assert "It'\\''s a stupid goose" in copied
    page.get_by_role("button", name="Copy the request id").click()
    expect(page.locator(".facts")).to_contain_text("Copied")
    request_id = answered.value.headers["x-request-id"]
    assert page.evaluate("navigator.clipboard.readText()") == request_id


def test_a_service_with_keys_asks_for_one_and_offers_its_policies(visit, tmp_path):
    key, entry = new_key("page", policy="strict")
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump([entry]))
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "strict.yaml").write_text("name: strict\noverall: {flag: 0.02, block: 0.05}\n")
    (folder / "quiet.yaml").write_text("name: quiet\nmode: score\noverall: {}\n")
    with serving(keys=tmp_path / "keys.yaml", policies=folder) as address:
        page = visit(address)
        expect(page.locator("#key-dialog")).to_be_visible()
        page.get_by_label("API key").fill("tamis_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_contain_text("does not know")
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#policy")).to_have_value("strict")
        expect(page.locator("#live-note")).to_contain_text("scope “metrics”")
        page.complaints.clear()

        type_post(page, INSULT)
        action(page, "Block")
        page.locator("#policy").select_option("quiet")
        action(page, "Flag withheld")
        expect(page.locator(".because")).to_contain_text("only scores, so nothing was done")
        kept = page.evaluate("JSON.stringify([{...localStorage}, location.href, document.cookie])")
        assert key not in kept
        page.get_by_role("button", name="Copy as curl").wait_for()
        assert key not in page.content()
        page.reload()
        expect(page.locator("#policy")).to_have_value("strict")
        # Chromium reports the refused request for metrics.
        assert all("status of 403" in text for text in page.complaints)
        page.complaints.clear()


def test_without_judging_as_typed_an_old_verdict_is_called_old(visit, address):
    page = visit(address)
    page.locator("#live-typing").uncheck()
    type_post(page, INSULT)
    page.wait_for_timeout(600)
    expect(page.locator("#verdict")).to_contain_text("No verdict yet")
    page.locator("#judge").click()
    action(page, "Flag")
    page.locator("#first").fill("A calm garden.")
    expect(page.locator("#stale")).to_be_visible()
    page.keyboard.press("Control+Enter")
    action(page, "Allow")
    expect(page.locator("#stale")).to_be_hidden()


def test_a_correction_says_what_was_meant(visit, address):
    page = visit(address)
    example(page, "an override")
    page.get_by_text("This is wrong").click()
    page.get_by_label("unsafe", exact=True).check()
    page.locator(".feedback").get_by_label("cyber", exact=True).check()
    page.get_by_label("an attack on the model").check()
    page.get_by_label("Comment").fill("As the classic goes.")
    with page.expect_request("**/feedback") as sent:
        page.get_by_role("button", name="Send correction").click()
    correction = sent.value.post_data_json
    assert correction.pop("id").startswith("mod-")
    assert correction == {
        "input": {"prompt": page.locator("#first").input_value()},
        "label": "unsafe",
        "categories": ["cyber"],
        "attack": True,
        "comment": "As the classic goes.",
        "policy": "default",
    }
    expect(page.locator(".feedback")).to_contain_text("The correction is kept.")

    example(page, "a refusal")
    page.get_by_text("This is wrong").click()
    page.get_by_label("safe", exact=True).check()
    expect(page.locator(".feedback").get_by_label("cyber", exact=True)).to_be_hidden()
    with page.expect_request("**/feedback") as sent:
        page.get_by_role("button", name="Send correction").click()
    assert sent.value.post_data_json["field"] == "response"
    assert "categories" not in sent.value.post_data_json
    expect(page.locator(".feedback")).to_contain_text("The correction is kept.")


def test_corrections_are_offered_though_it_could_not_be_asked_at_first(visit, address):
    page = visit(address)
    page.route("**/openapi.json", refuse(502, {"message": "no upstream"}), times=1)
    with page.expect_response("**/openapi.json"):
        example(page, "an insult")
    expect(page.locator(".feedback")).to_have_count(0)
    page.locator("#first").fill(INSULT + " Honk.")
    expect(page.locator(".feedback")).to_have_count(1)
    page.complaints.clear()


def test_the_prompt_is_meant_where_nothing_was_answered(visit, address):
    page = visit(address)
    page.get_by_text("Conversation", exact=True).click()
    page.get_by_label("Turn 1", exact=True).fill("What is a good soup?")
    action(page, "Allow")
    page.get_by_text("This is wrong").click()
    expect(page.get_by_label("the prompt", exact=True)).to_be_checked()
    page.get_by_label("unsafe", exact=True).check()
    page.get_by_role("button", name="Send correction").click()
    expect(page.locator(".feedback")).to_contain_text("The correction is kept.")


def test_where_corrections_are_not_kept_the_form_goes_away(visit, address):
    page = visit(address)
    page.route("**/feedback", refuse(404, {"message": "feedback is turned off"}))
    example(page, "an insult")
    page.get_by_text("This is wrong").click()
    page.get_by_label("safe", exact=True).check()
    page.get_by_role("button", name="Send correction").click()
    expect(page.locator(".feedback")).to_contain_text("keeps no corrections")
    page.complaints.clear()
    page.locator("#first").fill(INSULT + " Honk.")
    expect(page.locator(".feedback")).to_have_count(0)


def events(*told: tuple[str, Any]) -> str:
    """A stream as the service writes it."""
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in told)


REASONED = {
    "status": "ok",
    "safety": "unsafe",
    "category": "toxicity",
    "reason": "“stupid goose” is an insult.",
    "agrees": True,
    "probability": 0.93,
    "fault": None,
}
WRITTEN = events(
    ("verdict", {}), ("reason", {"text": "“stupid "}), ("reason", {"text": "goose” is an insult."})
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_reasoner_says_why(visit, address, scheme):
    held: list[Route] = []

    def hold_streams(route: Route) -> None:
        if route.request.post_data_json.get("stream"):
            held.append(route)
        else:
            route.continue_()

    def answer(body: str) -> None:
        held.pop().fulfill(body=body, content_type="text/event-stream")

    width = 320
    page = visit(
        address,
        color_scheme=scheme,
        reduced_motion="reduce",
        viewport={"width": width, "height": 640},
        before=lambda page: page.route("**/moderate", hold_streams),
    )
    check = checker(page)
    page.locator("#live-typing").uncheck()
    type_post(page, INSULT)
    page.keyboard.press("Control+Enter")
    action(page, "Flag")
    why, button = page.locator(".why"), page.locator(".why button")
    expect(button).to_have_text("Ask the reasoner why")
    button.focus()
    page.keyboard.press("Enter")
    expect(why).to_contain_text("The reasoner is reading…")
    expect(button).to_have_text("Stop")
    expect(why.locator("[aria-live=polite]")).to_have_attribute("aria-busy", "true")
    check("reading")
    assert held[0].request.post_data_json == {
        "input": {"text": INSULT},
        "policy": "default",
        "explain": "reason",
        "stream": True,
    }
    answer(WRITTEN + events(("explanation", REASONED)))
    expect(why.locator(".reason")).to_have_text("“stupid goose” is an insult.")
    expect(why.locator(".facts dd")).to_have_text(
        ["unsafe", "toxicity", "0.93 that it is unsafe", "says the same"]
    )
    expect(why.locator("[aria-live=polite]")).to_have_attribute("aria-busy", "false")
    expect(button).to_have_text("Ask again")
    expect(button).to_be_focused()
    check("explained")
    assert page.evaluate("document.documentElement.scrollWidth") == width

    page.keyboard.press("Enter")
    expect(button).to_have_text("Stop")
    busy = {"message": "the service is at capacity", "code": "overloaded"}
    answer(WRITTEN + events(("error", {"error": busy})))
    expect(why).to_contain_text("There is no explanation. The service is at capacity.")
    expect(why.locator(".reason")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(button).to_have_text("Stop")
    answer(WRITTEN)
    expect(why).to_contain_text("The answer broke off.")

    # A text that changes ends the question: nothing is said of what is no longer there.
    page.keyboard.press("Enter")
    expect(button).to_have_text("Stop")
    with page.expect_event("requestfailed", lambda r: "stream" in (r.post_data or "")):
        page.locator("#first").fill("A calm garden.")
    expect(button).to_have_text("Ask the reasoner why")
    expect(why.locator("[aria-live=polite]")).to_be_empty()


def test_a_reasoner_that_is_not_there_is_said_to_be_so(visit, address):
    page = visit(address)
    example(page, "an insult")
    page.get_by_role("button", name="Ask the reasoner why").click()
    expect(page.locator(".why")).to_contain_text(
        "The reasoner is not ready. This service has no reasoner (TAMIS_REASONER is empty)."
    )
    expect(page.locator("#problem")).to_be_empty()
    assert all("status of 503" in text for text in page.complaints)
    page.complaints.clear()


def test_what_a_reasoner_says_out_of_form_is_not_shown(visit, tiny_reasoner: Path):
    with serving(reasoner=tiny_reasoner) as address:
        for _ in range(600):
            with urllib.request.urlopen(f"{address}health/ready") as answer:
                if json.load(answer)["reasoner"] == "ready":
                    break
            time.sleep(0.05)
        page = visit(address)
        example(page, "an insult")
        page.get_by_role("button", name="Ask the reasoner why").click()
        expect(page.locator(".why")).to_contain_text(
            "did not answer in the form that was asked for (layout), so nothing is taken from it."
        )
        expect(page.locator(".why dl")).to_have_count(0)
