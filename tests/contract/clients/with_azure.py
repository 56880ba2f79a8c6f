"""azure-ai-contentsafety: ``analyze_text``."""

from azure.ai.contentsafety import ContentSafetyClient
from azure.ai.contentsafety.models import AnalyzeTextOptions, TextCategory
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


def check_blocklists_are_refused_by_name() -> None:
    try:
        client.analyze_text(AnalyzeTextOptions(text=KIND, blocklist_names=["mine"]))
    except HttpResponseError as error:
        assert error.status_code == 404
        assert error.error is not None
        assert (error.error.code, "blocklists" in error.message) == ("NotFound", True)
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
