"""Which stage of a request a stack belongs to: its innermost frame that a rule knows."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

OTHER: Final = "other"
LOOP: Final = "event loop, sockets"
RUN: Final = "run"


class Frame(NamedTuple):
    """A function, qualified, and its file as the profiler names it."""

    function: str
    file: str


class Rule(NamedTuple):
    """Functions of a file (all, where none is named), and their stage."""

    stage: str
    file: str
    functions: tuple[str, ...] = ()


# The first rule that fits a frame holds; a frame that no rule fits is its caller's.
RULES: Final = (
    Rule("admit", "service/access.py"),
    Rule("admit", "service/moderation/moderator.py", ("enter", "check_room")),
    Rule("admit", "service/moderation/limits.py", ("deadline_of", "refusals")),
    Rule("admit", "service/engine/scheduler.py", ("check",)),
    Rule("validate", "service/dialects/dialect.py", ("body_of",)),
    Rule("validate", "service/dialects/native.py", ("contents_of", "_shape")),
    Rule("validate", "service/configuration.py"),
    Rule("validate", "tamis/content.py"),
    Rule("validate", "service/moderation/moderator.py", ("policy", "select")),
    Rule("validate", "service/moderation/limits.py"),
    Rule("normalise", "tamis/reading/"),
    Rule("normalise", "service/engine/classifier.py", ("read", "language")),
    Rule("tokenise", "service/engine/classifier.py", ("encode", "_ids", "_strange", "_tokens")),
    Rule("tokenise", "tamis/windows.py"),
    Rule("feed", "service/engine/classifier.py", ("feed", "_masks", "score")),
    Rule(RUN, "service/engine/runtime.py"),
    Rule(RUN, "service/engine/cuda.py"),
    Rule("pool, evidence", "service/engine/classifier.py"),
    Rule("pool, evidence", "service/engine/evidence.py"),
    Rule("hand over", "service/engine/workers/"),
    Rule("hand over", "multiprocessing/connection.py"),
    Rule("queue", "service/engine/"),
    Rule("serialise", "service/dialects/native.py"),
    Rule("serialise", "starlette/responses.py", ("__init__", "render", "init_headers")),
    Rule("serialise", "json/"),
    Rule("observe", "service/observing/"),
    Rule("observe", "prometheus_client/"),
    Rule("verdict", "tamis/deciding.py"),
    Rule("verdict", "service/moderation/moderator.py", ("_judged", "decide_on")),
    Rule("verdict", "service/moderation/trials.py"),
    Rule("wait for a leaver", "service/moderation/disconnect.py"),
    Rule("write", "starlette/responses.py", ("__call__",)),
    Rule("write", "uvicorn/protocols/http/httptools_impl.py", ("send",)),
    Rule("read, route", "uvicorn/protocols/http/httptools_impl.py"),
    Rule("read, route", "starlette/"),
    Rule("read, route", "fastapi/"),
    Rule("read, route", "service/web/middleware.py"),
    Rule(LOOP, "asyncio/"),
)
STAGES: Final = (
    *(LOOP, "read, route", "admit", "validate", "normalise", "tokenise", "queue", "hand over"),
    *("feed", RUN),
    *("pool, evidence", "verdict", "serialise", "write", "wait for a leaver", "observe", OTHER),
)
"""In a request's order; *hand over* is to processes that judge, and back."""
# Where a thread waits for work: being there costs nobody anything.
IDLE: Final = (
    Rule("", "threading.py", ("wait", "_wait_for_tstate_lock")),
    Rule("", "asyncio/runners.py", ("run",)),
    Rule("", "concurrent/futures/thread.py", ("_worker",)),
    Rule("", "queue.py", ("get",)),
    Rule("", "selectors.py"),
    Rule("", "multiprocessing/connection.py"),
)
FRAME: Final = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)")


def frames_of(stack: str) -> list[Frame]:
    """The frames of py-spy's raw format, outermost first; its threads and processes are none."""
    found = (FRAME.fullmatch(part) for part in stack.split(";"))
    return [Frame(m["function"], m["file"]) for m in found if m is not None]


def fits(frame: Frame, rule: Rule) -> bool:
    """Whether a rule knows a frame."""
    if f"/{rule.file}" not in f"/{frame.file}":
        return False
    # Of a function within another, the outer one is named by rules, too.
    names = frame.function.split(".")
    return not rule.functions or any(name in rule.functions for name in names)


def stage_of(frames: Sequence[Frame]) -> str:
    """The stage of a stack."""
    for frame in reversed(frames):
        for rule in RULES:
            if fits(frame, rule):
                return rule.stage
    return OTHER


def waits(frames: Sequence[Frame]) -> bool:
    """Whether a stack's thread waits for work."""
    return bool(frames) and any(fits(frames[-1], rule) for rule in IDLE)
