"""What is in force: the policies offered, and whether the last change of files was taken."""

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from service.observing.metrics.exposition import SHARED
from service.observing.metrics.series import Series


class Settled(Series):
    """Policies and reloads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing is offered yet."""
        super().__init__(registry)
        reloads = self.counter(
            "tamis_config_reloads_total",
            "Changes of policies or keys, put in force or refused.",
            "result",
        )
        self._reloads = {True: reloads.labels("applied"), False: reloads.labels("refused")}
        self._reload_successful = self.gauge(
            "tamis_config_last_reload_successful",
            "Whether what lies in the files is what is in force.",
            over="livemin",
        )
        self._policies = self.gauge(
            "tamis_policy_info",
            "The policies offered by name.",
            *("policy", "version"),
            over="livemax",
        )
        self._offered: dict[str, str] = {}

    def reloaded(self, applied: bool) -> None:
        """Files of policies or keys have changed."""
        self._reloads[applied].inc()
        if not applied:
            self._reload_successful.set(0)

    def offering(self, versions: Mapping[str, str]) -> None:
        """The policies in force, by name."""
        for policy, version in versions.items():
            self._policies.labels(policy, version).set(1)
        for policy, version in self._offered.items() - versions.items():
            if os.environ.get(SHARED):
                # What is in a file that processes share cannot be removed.
                self._policies.labels(policy, version).set(0)
            else:
                self._policies.remove(policy, version)
        self._offered = dict(versions)
        self._reload_successful.set(1)
