"""Findings of texts seen before: exact, bounded in bytes, and without the texts."""

import dataclasses
import hashlib
import secrets
from typing import Final

from service.engine.recent import Recent
from tamis.content import Content
from tamis.verdict import Finding

# Measured with tracemalloc (tests/service/test_cache.py): a finding with a dozen categories, its
# key and its place in the order; and one evidence of it.
ENTRY_BYTES: Final = 1_650
EVIDENCE_BYTES: Final = 320
# Of a rule, the probability and its place: the rules themselves are the policy's.
RULE_BYTES: Final = 130


class Cache:
    """The most recently used findings, by content.

    What is kept is what the classifier said, before any policy: one text under ten policies is
    one entry, and a changed policy never meets an old verdict. Scores do not depend on load or
    company, so a hit is the very finding that a run would give.

    Keys are BLAKE2b under a secret of this process, and evidence is kept as offsets: memory or a
    core dump tells nothing of a text, not even to somebody who guesses it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._secret = secrets.token_bytes(32)
        self._found: Recent[bytes, Finding] = Recent(max_bytes, lambda _, found: _size(found))

    @property
    def size(self) -> int:
        """Estimated bytes of what is kept."""
        return self._found.size

    def __len__(self) -> int:
        return len(self._found)

    def key(self, content: Content, evidence: bool, bundle: str = "") -> bytes:
        """What makes two contents the same question to a bundle, by its fingerprint."""
        digest = hashlib.blake2b(key=self._secret, digest_size=16)
        context = content.context
        lead = f"{content.question} {evidence} {len(content.text)} {context is not None} "
        lead += f"{bundle} "
        digest.update(lead.encode())
        digest.update(content.text.encode("utf-8", "surrogatepass"))
        digest.update((context or "").encode("utf-8", "surrogatepass"))
        return digest.digest()

    def get(self, key: bytes, content: Content) -> Finding | None:
        """The finding for a content, its evidence quoting the content again."""
        found = self._found.get(key)
        return None if found is None else quoting(found, content)

    def put(self, key: bytes, finding: Finding) -> None:
        """Keep a finding, at the cost of the least recently used ones."""
        self._found.keep(key, _bare(finding))


def quoting(finding: Finding, content: Content) -> Finding:
    """The finding as one of a content: for one found for an equal content, of another field."""
    evidence = tuple(
        dataclasses.replace(e, text=content.text[e.start : e.end], field=content.field)
        for e in finding.evidence
    )
    other = finding.other and quoting(finding.other, content)
    return dataclasses.replace(finding, evidence=evidence, field=content.field, other=other)


def _bare(finding: Finding) -> Finding:
    """Without any text."""
    bare = tuple(dataclasses.replace(e, text="", field="") for e in finding.evidence)
    other = finding.other and _bare(finding.other)
    return dataclasses.replace(finding, evidence=bare, field="", other=other)


def _size(finding: Finding) -> int:
    rules = 0 if finding.ruled is None else len(finding.ruled.scores)
    other = 0 if finding.other is None else _size(finding.other)
    return ENTRY_BYTES + EVIDENCE_BYTES * len(finding.evidence) + RULE_BYTES * rules + other
