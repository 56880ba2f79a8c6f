"""``POST /contentsafety/text:analyze``: Azure's content safety, in its four categories.

Severities follow the policy's thresholds: 2 and above is flagged, 4 and above is blocked.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import JSONResponse

from service.blocklists import MOST_LISTS
from service.dialects.answers import ANALYSIS
from service.dialects.blocklists import matches
from service.dialects.crosswalk import require, standing_in, told
from service.dialects.dialect import Dialect, Loose, body_of
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.policy import Policy, Rule, Thresholds
from tamis.taxonomy import taxonomy
from tamis.verdict import CategoryScore, Verdict

router = Dialect()

Category = Literal["Hate", "SelfHarm", "Sexual", "Violence"]
FLAGGED: Final = 2
BLOCKED: Final = 4
MOST: Final = 7


class AnalyzeRequest(Loose):
    """The body of ``text:analyze``."""

    text: str
    categories: list[Category] | None = None
    blocklists: list[str] | None = Field(None, alias="blocklistNames", max_length=MOST_LISTS)
    halt: bool | None = Field(None, alias="haltOnBlocklistHit")
    output: Literal["FourSeverityLevels", "EightSeverityLevels"] | None = Field(
        None, alias="outputType"
    )


BODY: Final = TypeAdapter(AnalyzeRequest)


@router.judges("/contentsafety/text:analyze", BODY, ANALYSIS)
async def analyze(request: Request) -> JSONResponse:
    """Judge a text as a prompt, and look for what blocklists have."""
    moderator = moderator_of(request)
    body = await body_of(request, BODY)
    policy = moderator.policy(request)
    own = moderator.loaded().bundle.thresholds
    require(policy, own, "azure")
    items = [("text", (content.prompt(body.text, "text"),))]
    moderator.check_lengths(items)
    found = await matches(request, body.blocklists, body.text) if body.blocklists else []
    if found and body.halt:
        return JSONResponse({"blocklistsMatch": found, "categoriesAnalysis": []})
    judged = await moderator.judge(request, items, policy)
    ((finding,),) = judged.findings
    limits = [one.limits(own) for one in finding.opinions]
    levels = severities(judged.verdicts[0], policy, *limits)
    step = 1 if body.output == "EightSeverityLevels" else 2
    wanted = dict.fromkeys(body.categories or get_args(Category))
    return JSONResponse(
        {
            "blocklistsMatch": found,
            "categoriesAnalysis": [
                {"category": name, "severity": levels[name] // step * step} for name in wanted
            ],
        }
    )


def severities(verdict: Verdict, policy: Policy, *own: Mapping[str, Thresholds]) -> dict[str, int]:
    """0 to 7 by category. A harmful text of no certain kind has its likeliest category at 2.

    ``own`` are the thresholds of those who judged.
    """
    found = {}
    for name, category in verdict.categories.items():
        rule = policy.categories.get(name, Rule())
        # A policy's own category is none of Azure's, and has no such thresholds.
        limits = [rule.resolve(one[name].at(policy.sensitivity)) for one in own if name in one]
        # Whose score it is has that threshold.
        limits.sort(key=lambda one: one.flag != category.threshold)
        if limits:
            found[name] = severity_of(category, limits[0])
    rules = taxonomy().crosswalk["azure"]
    levels = {name: int(rule.score(found) or 0) for name, rule in rules.items() if rule is not None}
    if (spoken := standing_in(verdict, told(verdict, "azure"))) is not None:
        levels[spoken] = max(levels[spoken], FLAGGED)
    return levels


def severity_of(category: CategoryScore, limits: Thresholds) -> int:
    """Levels in equal steps: 0 and 1 below the flag, 2 and 3 up to the block, from there 4 to 7."""
    score, flag, block = category.score, limits.flag, limits.block
    if score < flag or not category.flagged:
        return 0 if score < flag / 2 else 1
    if score < block:
        return FLAGGED + int(2 * (score - flag) / (block - flag))
    return min(MOST, BLOCKED + int(4 * (score - block) / (1 - block))) if block < 1 else MOST
