"""Rows in, judged rows out: in order, on all cores, with a bounded number under way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self

from service.bulk.rows import Row
from service.engine.cache import Cache, quoting
from service.engine.cascade import Cascade
from service.engine.classifier import Classifier
from service.engine.languages import Languages
from service.engine.ruled import WithRules
from tamis.content import Content
from tamis.deciding import decide, withhold
from tamis.policy import Policy
from tamis.verdict import Finding, Provenance, Verdict

# Rows under way for each thread: enough that a long text at the head, which all verdicts behind it
# wait for, rarely leaves the other threads without work; and the same in characters.
ROWS_PER_THREAD: Final = 256
CHARACTERS_PER_THREAD: Final = 1 << 20

# A finding that is known, or on its way.
Found = Finding | Future[Finding]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A row under way; findings in the order of its contents, each with its cache key."""

    row: Row
    found: tuple[tuple[bytes, Found], ...]

    @property
    def futures(self) -> list[Future[Finding]]:
        return [found for _, found in self.found if isinstance(found, Future)]


class Judge:
    """A classifier and a policy for rows: one text per core, equal texts once.

    One text per core gives the best throughput, and scores are those of the service to the bit: no
    score depends on the number of threads or on company (``tests/service/test_engine.py``).
    """

    def __init__(
        self,
        classifier: Classifier | Languages | Cascade | WithRules,
        policy: Policy,
        *,
        threads: int,
        evidence: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        """Start the threads; ``cache_bytes`` bounds the memory of texts seen before."""
        bundle = classifier.bundle
        self.policy = policy
        self.bundle = bundle
        self.evidence = evidence
        self.max_rows = ROWS_PER_THREAD * threads
        self.max_characters = CHARACTERS_PER_THREAD * threads
        self._provenance = Provenance(bundle.name, bundle.fingerprint, policy.name, policy.version)
        self._classifier = classifier
        self._own = bundle.thresholds
        self._cache = Cache(cache_bytes)
        self._flights: dict[bytes, Future[Finding]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what has not started, and stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    def run(
        self, rows: Iterable[Row | None], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Row, Verdict | None]]:
        """Verdicts in the order of the rows; None where a row has an error.

        Rows are taken no faster than they are judged. ``None`` among them ("no row yet") is the
        time to hand on what is done. Once ``stopped``, no further row is taken, and what follows
        the first row that no thread has begun is dropped.
        """
        window: deque[_Pending] = deque()
        characters = 0
        for row in rows:
            if row is not None:
                window.append(self._submit(row))
                characters += row.characters
            while window and (
                len(window) >= self.max_rows
                or characters >= self.max_characters
                or all(future.done() for future in window[0].futures)
            ):
                if stopped():
                    break
                characters -= window[0].row.characters
                yield self._collect(window.popleft())
            if stopped():
                break
        while window:
            if stopped():
                # All at once, or the threads would take up the next ones meanwhile.
                for future in [future for pending in window for future in pending.futures]:
                    future.cancel()
                if any(future.cancelled() for future in window[0].futures):
                    return
            yield self._collect(window.popleft())

    def _submit(self, row: Row) -> _Pending:
        found: list[tuple[bytes, Found]] = []
        for content in row.contents:
            key = self._cache.key(content, self.evidence)
            known: Found | None = self._cache.get(key, content) or self._flights.get(key)
            if known is None:
                known = self._flights[key] = self._pool.submit(self._judge, content)
            found.append((key, known))
        return _Pending(row, tuple(found))

    def _judge(self, content: Content) -> Finding:
        return self._classifier.judge(content, self.evidence)

    def _collect(self, pending: _Pending) -> tuple[Row, Verdict | None]:
        row = pending.row
        if row.error is not None:
            return row, None
        findings = []
        for content, (key, found) in zip(row.contents, pending.found, strict=True):
            if isinstance(found, Future):
                finding = found.result()
                # The first row to ask is the first to be collected: from here on it is remembered.
                self._cache.put(key, finding)
                self._flights.pop(key, None)
                found = quoting(finding, content)
            findings.append(found)
        verdict = decide(findings, self.policy, self._own, self._provenance)
        return row, withhold(verdict) if self.policy.mode == "score" else verdict
