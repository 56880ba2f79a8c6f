"""Series of one registry: seconds in millisecond buckets, gauges that several processes share."""

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0),
)
# What a scrape says of several processes' gauges; those of processes that ended do not count.
Over = Literal["livesum", "livemin", "livemax"]


class Series:
    """Makes series, and is the end of the families' chain of ``__init__``.

    Gauges are set where their value changes rather than asked at the scrape: whichever of several
    processes answers a scrape must know the values of the others.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Series made from here on are of this registry."""
        self.registry = registry

    def counter(self, name: str, said: str, *labels: str) -> Counter:
        """Something that only grows."""
        return Counter(name, said, labels, registry=self.registry)

    def gauge(self, name: str, said: str, *labels: str, over: Over = "livesum") -> Gauge:
        """Something that is so now."""
        return Gauge(name, said, labels, registry=self.registry, multiprocess_mode=over)

    def seconds(self, name: str, said: str, *labels: str) -> Histogram:
        """How long something took."""
        return Histogram(name, said, labels, buckets=BUCKETS, registry=self.registry)
