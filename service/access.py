"""Who may ask what, and how often: API keys, their scopes, their rates.

A key reads ``tamis_<id>_<secret>``. The file of keys holds the id and a SHA-256 of the whole key: a
secret of 256 random bits cannot be guessed from it, so a slow hash would only slow the service.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml
from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope as Asked

from service.errors import RequestError, retry_after

Scope = Literal["moderate", "feedback", "metrics", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
USUAL: Final[tuple[Scope, ...]] = ("moderate", "feedback")
FORM: Final = re.compile(r"tamis_([0-9a-f]{8})_[\w-]{43}")
BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE)
AZURE_KEY: Final = "ocp-apim-subscription-key"
PUBLIC: Final = frozenset({"/", "/health", "/health/live", "/health/ready", "/openapi.json"})
PUBLIC_FOLDER: Final = "/playground/"
NAMED: Final[Mapping[str, Scope]] = {
    "feedback": "feedback",
    "metrics": "metrics",
    "admin": "admin",
    "/v1alpha1/comments:suggestscore": "feedback",
}
# Of a rate or a burst; what is more is no limit, and YAML's numbers may be too long for a float.
MOST: Final = 1e12
# What changes verdicts for all who name it.
BLOCKLISTS: Final = "/contentsafety/text/blocklists"


# Google's clients put the key into the address, or into a header of their own.
GOOGLE: Final = "/v1alpha1/"


class KeysError(ValueError):
    """A file of keys that cannot be used; the message names the entry and the field."""


class UnreadKeysError(KeysError):
    """A file of keys that cannot be read now, whatever is in it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One caller: what it may do, the policy it gets where it names none, items a second."""

    id: str
    name: str
    sha256: str
    scopes: frozenset[Scope]
    policy: str | None = None
    rate: float | None = None
    burst: float = 1.0

    @classmethod
    def parse(cls, raw: Any, where: str) -> "Key":
        """Build a key from plain data.

        Raises:
            KeysError: naming ``where`` and the field.
        """
        if not isinstance(raw, dict):
            raise KeysError(f"{where}: must be a mapping")
        if stray := sorted(set(map(str, raw)) - set(cls.__dataclass_fields__)):
            raise KeysError(f"{where}: unknown field {stray[0]!r}")
        texts = {"id": r"[0-9a-f]{8}", "name": r".{1,64}", "sha256": r"[0-9a-f]{64}"}
        for name, form in texts.items():
            value = raw.get(name)
            if not isinstance(value, str) or not re.fullmatch(form, value):
                raise KeysError(f"{where}: field {name!r} must be a text like {form}")
        scopes = raw.get("scopes", list(USUAL))
        if not isinstance(scopes, list) or not scopes or any(s not in SCOPES for s in scopes):
            raise KeysError(f"{where}: field 'scopes' must be a list of {', '.join(SCOPES)}")
        policy = raw.get("policy")
        if policy is not None and not isinstance(policy, str):
            raise KeysError(f"{where}: field 'policy' must be the name of a policy")
        rate = _positive(raw, "rate", where)
        burst = _positive(raw, "burst", where) or rate or 1.0
        return cls(
            id=raw["id"],
            name=raw["name"],
            sha256=raw["sha256"],
            scopes=frozenset(scopes),
            policy=policy,
            rate=rate,
            burst=max(1.0, burst),
        )


def read_keys(path: Path) -> list[Key]:
    """The keys of a YAML file, a list of entries as ``tamis keys new`` prints them.

    Raises:
        KeysError: where the file is not such a list, or two keys share an id or a name.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadKeysError(f"{path.name}: cannot be read: {type(error).__name__}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A parser's message may quote the file, which holds hashes; of days that are none
        # (2026-02-30) it is a ValueError.
        raise KeysError(f"{path.name}: cannot be read: {type(error).__name__}") from None
    if not isinstance(raw, list) or not raw:
        raise KeysError(f"{path.name}: must be a list of at least one key")
    keys = [Key.parse(entry, f"{path.name}: key {n}") for n, entry in enumerate(raw, 1)]
    for name in ("id", "name"):
        counts = Counter(getattr(key, name) for key in keys)
        if twice := [value for value, count in counts.items() if count > 1]:
            raise KeysError(f"{path.name}: two keys share the {name} {min(twice)!r}")
    return keys


def new_key(name: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """A fresh key, to hand to its holder once, and its entry for the file.

    Raises:
        KeysError: where a field does not fit.
    """
    key_id = secrets.token_hex(4)
    key = f"tamis_{key_id}_{secrets.token_urlsafe(32)}"
    entry = {"id": key_id, "name": name, "sha256": _digest(key)}
    entry |= {field: value for field, value in more.items() if value is not None}
    Key.parse(entry, "key")
    return key, entry


@dataclass(slots=True)
class Bucket:
    """A token bucket in items. It may fall below zero: a batch is paid for after it was let in."""

    rate: float
    burst: float
    level: float
    at: float

    def take(self, items: float, now: float) -> None:
        """Pay for items."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate) - items
        self.at = now

    def wait(self, now: float) -> float:
        """Seconds until one item may pass; 0 where it may now."""
        level = min(self.burst, self.level + (now - self.at) * self.rate)
        return max(0.0, (1.0 - level) / self.rate)


@dataclass(slots=True)
class Access:
    """The keys in force, and what each has used. No keys: everybody may do everything."""

    keys: Mapping[str, Key] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    share: float = 1.0
    """The part of a rate that is this process's: one over the number of processes."""

    def replace(self, keys: list[Key]) -> None:
        """Put other keys in force; what a key has used of an unchanged rate stays used."""
        now = time.monotonic()
        self.keys = {key.id: key for key in keys}
        before, self.buckets = self.buckets, {}
        for key in keys:
            if key.rate is None:
                continue
            rate, burst = key.rate * self.share, max(1.0, key.burst * self.share)
            bucket = before.get(key.id)
            if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
                bucket = Bucket(rate, burst, level=burst, at=now)
            self.buckets[key.id] = bucket

    def enter(self, path: str, headers: Headers) -> Key | None:
        """The caller of a request, before its body is read; None where no keys are in force.

        Raises:
            RequestError: 401 without a valid key, 403 without the scope, 429 over the rate.
        """
        if not self.keys or path in PUBLIC or path.startswith(PUBLIC_FOLDER):
            return None
        key = self._caller(headers)
        scope = scope_of(path)
        if scope not in key.scopes:
            raise RequestError(
                f"this key lacks the scope {scope!r}", code="missing_scope", status=403
            )
        bucket = self.buckets.get(key.id)
        if bucket is not None and scope in USUAL:
            now = time.monotonic()
            if wait := bucket.wait(now):
                raise RequestError(
                    f"over this key's rate of {key.rate:g} items a second",
                    code="rate_limited",
                    status=429,
                    headers=retry_after(wait),
                )
            bucket.take(1, now)
        return key

    def charge(self, key: Key | None, items: int) -> None:
        """Note the items of a request beyond the one that ``enter`` counted."""
        if key is not None and (bucket := self.buckets.get(key.id)) is not None:
            bucket.take(items - 1, time.monotonic())

    def _caller(self, headers: Headers) -> Key:
        given = headers.get("x-api-key") or headers.get(AZURE_KEY)
        if not given and (bearer := BEARER.fullmatch(headers.get("authorization", ""))):
            given = bearer[1]
        form = FORM.fullmatch(given or "")
        key = self.keys.get(form[1]) if form else None
        # Hashes are compared in constant time, and one is compared whether the id exists or not.
        right = hmac.compare_digest(_digest(given or ""), key.sha256 if key else "0" * 64)
        if key is None or not right:
            raise RequestError(
                "a valid API key is needed: 'Authorization: Bearer …' or 'x-api-key: …'",
                code="invalid_api_key",
                status=401,
                headers={"www-authenticate": "Bearer"},
            )
        return key


def scope_of(path: str) -> Scope:
    """What a key must be allowed to ask for a path."""
    if path.startswith(BLOCKLISTS):
        return "admin"
    # "OPTIONS *" asks for no path.
    return NAMED.get(path) or NAMED.get(path.removeprefix("/").partition("/")[0], "moderate")


def credentials(asked: Asked) -> Headers:
    """A request's headers, in which its key stands wherever the request had it."""
    headers = Headers(scope=asked)
    if not asked["path"].startswith(GOOGLE) or headers.get("x-api-key"):
        return headers
    key = headers.get("x-goog-api-key") or QueryParams(asked["query_string"]).get("key")
    # No key of ours is anything but ASCII, and no header could hold it.
    return Headers({**headers, "x-api-key": key}) if key and key.isascii() else headers


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _positive(raw: Mapping[str, Any], name: str, where: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MOST:
        raise KeysError(f"{where}: field {name!r} must be a number above 0 and below {MOST:g}")
    return float(value)
