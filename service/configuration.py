"""What an operator may change while the service runs: policies and keys, replaced as a whole."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from service.access import Access, Key, KeysError, UnreadKeysError, read_keys
from service.errors import RequestError
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.bundle import MANIFEST
from tamis.policies.parsing import default_policy, load_policies, parse_policy
from tamis.policy import Mode, Policy, PolicyError

logger = logging.getLogger("tamis.service")

# Name, number, time of the last change (of rights, too) and length of every file. ``stat`` follows
# links, so the swap of a link by which Kubernetes updates a mounted ConfigMap is a change like any
# other.
Signature = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True, slots=True)
class Offered:
    """Policies by name, and keys; consistent with each other."""

    policies: Mapping[str, Policy]
    keys: list[Key]


class UnreadPoliciesError(PolicyError):
    """A folder of policies that cannot be read now, whatever is in it."""


# What may be better at the next look, though no file has changed.
UNREAD: Final = (UnreadKeysError, UnreadPoliciesError)


class Configuration:
    """The policies and keys in force. A change that cannot be used leaves them as they were.

    ``patience`` is how many seconds a request without a deadline of its own might wait by an
    offered policy, where that is longer than ``max_wait_ms``.
    """

    patience: float | None

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Read everything once.

        Raises:
            PolicyError, KeysError: where a file cannot be used.
        """
        self._settings = settings
        self._metrics = metrics
        self.access = Access(share=1 / settings.processes)
        self._reloading = asyncio.Lock()
        self._unread: str | None = None
        self._seen = self._applied = self._signature()
        self._apply(self._read())

    @property
    def policies(self) -> Mapping[str, Policy]:
        """The policies offered by name."""
        return self._offered.policies

    def policy(self, asked: str | Mapping[str, Any] | None, caller: Key | None) -> Policy:
        """The policy of a request: by name, written out, its key's, or the default.

        Raises:
            RequestError: where there is none of that name, or it is not a policy.
        """
        if asked is None:
            asked = (caller and caller.policy) or "default"
        if isinstance(asked, str):
            try:
                return self.policies[asked]
            except KeyError:
                known = ", ".join(sorted(self.policies))
                raise RequestError(
                    f"policy: there is no policy of that name; known: {known}",
                    param="policy",
                    code="unknown_policy",
                ) from None
        try:
            policy = parse_policy(asked)
        except PolicyError as error:
            raise RequestError(str(error), param="policy", code="invalid_policy") from None
        if policy.shadow is not None:
            raise RequestError(
                "policy: 'shadow' is for policies that the service offers by name",
                param="policy",
                code="invalid_policy",
            )
        return _in_mode(policy, self._settings.mode)

    def shadow(self, policy: Policy) -> Policy | None:
        """The policy on trial beside this one."""
        return None if policy.shadow is None else self.policies.get(policy.shadow)

    async def reload(self) -> None:
        """Read the files anew, and put them in force if all of them can be used.

        Raises:
            PolicyError, KeysError: where one cannot; everything stays as it was.
        """
        async with self._reloading:
            try:
                offered = await asyncio.to_thread(self._look)
            except (PolicyError, KeysError) as error:
                self._metrics.reloaded(applied=False)
                unread = str(error) if isinstance(error, UNREAD) else None
                if unread is None or unread != self._unread:
                    logger.error("policies and keys stay as they were: %s", error)
                self._unread = unread
                raise
            self._unread = None
            self._apply(offered)
            self._metrics.reloaded(applied=True)
        names = ", ".join(f"{p.name}@{p.version}" for p in self.policies.values())
        logger.info("policies and keys reloaded: %s", names)

    async def watch(self, seconds: float) -> None:
        """Reload when files have changed and stand still; by looking, since links are swapped."""
        while True:
            await asyncio.sleep(seconds)
            try:
                found = await asyncio.to_thread(self._signature)
            except OSError as error:
                # Of a folder that is being swapped, or over a network: the next look may succeed.
                logger.warning("policies and keys cannot be looked at: %s", error.strerror)
                continue
            still, self._seen = found == self._seen, found
            if still and (found != self._applied or self._unread is not None):
                with suppress(PolicyError, KeysError):  # logged and counted
                    await self.reload()

    def _look(self) -> Offered:
        try:
            # Taken before reading: a file written meanwhile is a change again.
            self._applied = self._signature()
            return self._read()
        except OSError as error:
            raise UnreadPoliciesError(
                f"policies and keys cannot be read: {error.strerror}"
            ) from None

    def _read(self) -> Offered:
        settings = self._settings
        shipped = default_policy()
        encoders = settings.policy_encoder, settings.policy_encoder_accurate
        encoded = any(path is not None and (path / MANIFEST).is_file() for path in encoders)
        own = {} if settings.policies is None else _folder(settings.policies, encoded)
        policies = {
            name: _in_mode(policy, settings.mode)
            for name, policy in ({shipped.name: shipped} | own).items()
        }
        for policy in policies.values():
            if policy.shadow is not None and policy.shadow not in policies:
                raise PolicyError(f"policy {policy.name!r}: no policy {policy.shadow!r} to shadow")
        keys = [] if settings.keys is None else read_keys(settings.keys)
        for key in keys:
            if key.policy is not None and key.policy not in policies:
                raise KeysError(f"key {key.name!r}: there is no policy {key.policy!r}")
        return Offered(policies, keys)

    def _apply(self, offered: Offered) -> None:
        self._offered = offered
        longest = max((p.deadline_ms or 0 for p in offered.policies.values()), default=0)
        self.patience = longest / 1e3 if longest > self._settings.max_wait_ms else None
        self.access.replace(offered.keys)
        self._metrics.offering({p.name: p.version for p in offered.policies.values()})

    def _signature(self) -> Signature:
        settings = self._settings
        paths = [] if settings.policies is None else list(settings.policies.glob("*.yaml"))
        paths += [] if settings.keys is None else [settings.keys]
        found = set()
        for path in paths:
            try:
                stat = path.stat()
            except OSError:
                continue
            found.add((str(path), stat.st_ino, stat.st_ctime_ns, stat.st_size))
        return frozenset(found)


def _folder(path: Path, encoded: bool) -> dict[str, Policy]:
    if not path.is_dir():
        raise UnreadPoliciesError(f"policies: there is no folder {path}")
    try:
        return load_policies(path, encoded)
    except OSError as error:
        raise UnreadPoliciesError(f"policies: {error.strerror}") from None


def _in_mode(policy: Policy, mode: Mode) -> Policy:
    return replace(policy, mode="score") if mode == "score" else policy
