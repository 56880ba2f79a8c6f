"""azure-ai-contentsafety: ``analyze_text``, and blocklists."""

from azure.ai.contentsafety import BlocklistClient, ContentSafetyClient
from azure.ai.contentsafety.models import (
    AddOrUpdateTextBlocklistItemsOptions,
    AnalyzeTextOptions,
    RemoveTextBlocklistItemsOptions,
    TextBlocklist,
    TextBlocklistItem,
    TextCategory,
)
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from harness import FULL, KEY, KIND, RUDE, URL, run


def connect(url: str, key: str = "any") -> ContentSafetyClient:
    return ContentSafetyClient(url, AzureKeyCredential(key), retry_total=0)


client = connect(URL)


def check_severities_by_category() -> None:
    rude = client.analyze_text(AnalyzeTextOptions(text=RUDE)).categories_analysis
    assert {one.category for one in rude} == {"Hate", "SelfHarm", "Sexual", "Violence"}
    assert max(one.severity or 0 for one in rude) >= 2
    kind = client.analyze_text(
        AnalyzeTextOptions(
            text=KIND, categories=[TextCategory.HATE], output_type="EightSeverityLevels"
        )
    )
    assert [(one.category, one.severity) for one in kind.categories_analysis] == [("Hate", 0)]
    assert kind.blocklists_match == []


def check_blocklists() -> None:
    lists = BlocklistClient(URL, AzureKeyCredential("any"), retry_total=0)
    made = lists.create_or_update_text_blocklist(
        blocklist_name="garden", options=TextBlocklist(blocklist_name="garden", description="a")
    )
    assert (made.blocklist_name, made.description) == ("garden", "a")
    assert lists.get_text_blocklist("garden").description == "a"
    assert [one.blocklist_name for one in lists.list_text_blocklists()] == ["garden"]
    given = [TextBlocklistItem(text="lovely  Garden", description="b"), TextBlocklistItem(text="x")]
    options = AddOrUpdateTextBlocklistItemsOptions(blocklist_items=given)
    kept = lists.add_or_update_blocklist_items("garden", options).blocklist_items
    found = lists.get_text_blocklist_item("garden", kept[0].blocklist_item_id)
    assert (found.text, found.description) == ("lovely  Garden", "b")
    for halt in (True, False):
        answer = client.analyze_text(
            AnalyzeTextOptions(text=KIND, blocklist_names=["garden"], halt_on_blocklist_hit=halt)
        )
        (match,) = answer.blocklists_match or ()
        assert match.blocklist_name == "garden"
        assert match.blocklist_item_id == kept[0].blocklist_item_id
        assert match.blocklist_item_text == "lovely  Garden"
        assert bool(answer.categories_analysis) is not halt
    gone = RemoveTextBlocklistItemsOptions(blocklist_item_ids=[kept[0].blocklist_item_id])
    lists.remove_blocklist_items("garden", gone)
    assert [one.text for one in lists.list_text_blocklist_items("garden")] == ["x"]
    lists.delete_text_blocklist("garden")
    assert list(lists.list_text_blocklists()) == []


def check_a_blocklist_that_is_not_there_is_refused() -> None:
    try:
        client.analyze_text(AnalyzeTextOptions(text=KIND, blocklist_names=["mine"]))
    except HttpResponseError as error:
        assert error.status_code == 404
        assert error.error is not None
        assert (error.error.code, "blocklist" in error.message) == ("NotFound", True)
    else:
        raise AssertionError("not refused")


def check_the_clients_own_header_brings_the_key() -> None:
    limited = connect(FULL, KEY)
    statuses = []
    for wanted in (limited, limited, connect(FULL, "wrong")):
        try:
            wanted.analyze_text(AnalyzeTextOptions(text=KIND))
        except HttpResponseError as error:
            statuses.append(error.status_code)
    assert 401 in statuses
    assert 429 in statuses


run(globals())
