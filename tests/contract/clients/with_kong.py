"""Kong's ``ai-custom-guardrail``: what the page has for it, rendered and run as Kong does.

Kong itself needs a licence. Its templates are filled here, and its function runs in Lua.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from harness import ATTACK, KEY, KIND, RUDE, URL, ask, run
from lupa import LuaRuntime

PAGE = Path(__file__).parents[3] / "docs" / "integrations.md"
SECTION = PAGE.read_text().partition("\n## Kong\n")[2].partition("\n## ")[0]
(PLUGIN,) = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)[0])["plugins"]
CONFIG = PLUGIN["config"]
TEMPLATE = re.compile(r"\$\(([\w.]+)\)")
lua = LuaRuntime(unpack_returned_tuples=True)
functions = {name: lua.execute(source) for name, source in CONFIG["functions"].items()}


def table(given: Any) -> Any:
    """What Kong's parser of JSON makes of an answer."""
    if isinstance(given, dict):
        return lua.table_from({name: table(one) for name, one in given.items()})
    return lua.table_from([table(one) for one in given]) if isinstance(given, list) else given


def filled(template: Any, known: Any) -> Any:
    """A template with what it names in its place; one that is a name alone keeps its type."""
    if isinstance(template, dict):
        return {name: filled(one, known) for name, one in template.items()}
    if whole := TEMPLATE.fullmatch(template):
        return found(whole[1], known)
    return TEMPLATE.sub(lambda match: str(found(match[1], known)), template)


def found(path: str, known: Any) -> Any:
    for name in path.split("."):
        known = known[name]
    return known


def guarded(text: str) -> tuple[bool, str]:
    known: dict[str, Any] = {"conf": {"params": CONFIG["params"] | {"api_key": KEY}}}
    request = filled(CONFIG["request"], known | {"content": text})
    headers = {name.replace("-", "_"): value for name, value in request["headers"].items()}
    url = re.sub(r"http://[\w:]+", URL, request["url"])
    status, answer, _ = ask(url, request["body"], **headers)
    assert status == 200, answer
    called = {name: function(table(answer)) for name, function in functions.items()}
    said = filled(CONFIG["response"], called)
    return said["block"], said["block_message"]


def check_what_is_kind_passes() -> None:
    assert guarded(KIND)[0] is False


def check_what_is_rude_is_blocked_with_the_reason() -> None:
    blocked, message = guarded(RUDE)
    assert blocked is True
    assert message == "Blocked by the moderation policy: harassment"


def check_an_attack_is_blocked() -> None:
    assert guarded(ATTACK)[0] is True


run(globals())
