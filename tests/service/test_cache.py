import tracemalloc
from dataclasses import replace

from service.engine.cache import Cache
from tamis.content import plain, prompt, response
from tamis.verdict import Evidence, Finding


def finding(n: float = 0.5, evidence: tuple[Evidence, ...] = ()) -> Finding:
    scores = {f"category{i}": n + i * 1e-3 for i in range(11)}
    more = {"evidence": evidence, "severity": n, "field": "prompt"}
    return Finding("prompt", n, scores, n / 2, windows=1, tokens=12, **more)


def test_a_finding_comes_back_for_the_same_content_only():
    cache = Cache(1 << 20)
    said = prompt("hello goose")
    cache.put(cache.key(said, False), finding())
    assert cache.get(cache.key(said, False), said) == finding()
    others = [plain("hello goose"), prompt("hello geese"), response("hello goose", to="")]
    others += [response("goose", to="hello ")]
    keys = {cache.key(other, False) for other in others} | {cache.key(said, True)}
    assert len(keys) == 5
    assert all(cache.get(key, said) is None for key in keys)


def test_where_a_text_stood_does_not_matter_and_evidence_quotes_it_again():
    cache = Cache(1 << 20)
    first, second = (
        prompt("a stupid goose", "text"),
        prompt("a stupid goose", "messages[3].content"),
    )
    assert cache.key(first, True) == cache.key(second, True)
    evidence = Evidence(2, 8, "stupid", "unsafe", 0.9, "text")
    both = replace(finding(evidence=(evidence,)), other=finding(0.2, (evidence,)))
    cache.put(cache.key(first, True), both)
    found = cache.get(cache.key(second, True), second)
    assert found is not None
    assert found.other is not None
    for one in (found, found.other):
        (again,) = one.evidence
        assert (again.text, again.field) == ("stupid", "messages[3].content")
        assert one.field == "messages[3].content"


def test_no_text_is_kept_and_keys_differ_between_processes():
    said = prompt("zebra canary")
    one, other = Cache(1 << 20), Cache(1 << 20)
    evidence = Evidence(0, 5, "zebra", "unsafe", 0.9, "text")
    both = replace(finding(evidence=(evidence,)), other=finding(0.2, (evidence,)))
    one.put(one.key(said, True), both)
    assert "zebra" not in repr(one.__dict__)
    assert one.key(said, True) != other.key(said, True)


def test_the_least_recently_used_makes_room():
    cache = Cache(4_000)  # two entries
    a, b, c = (prompt(name) for name in "abc")
    for content in (a, b):
        cache.put(cache.key(content, False), finding())
    assert cache.get(cache.key(a, False), a)
    cache.put(cache.key(c, False), finding())
    assert cache.get(cache.key(b, False), b) is None
    assert cache.get(cache.key(a, False), a)
    assert len(cache) == 2
    assert cache.size <= 4_000


def test_the_bound_holds_in_real_bytes():
    evidence = [Evidence(n, n + 5, "words", "unsafe", 0.5 + n / 100, "text") for n in range(3)]
    tracemalloc.start()
    cache = Cache(2 << 20)
    before = tracemalloc.get_traced_memory()[0]
    for n in range(3_000):
        content = prompt(f"text {n}")
        said = finding(n / 3_000, tuple(evidence) if n % 4 == 0 else ())
        if n % 3 == 0:
            said = replace(said, other=finding(n / 3_000))
        cache.put(cache.key(content, False), said)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.5 * cache.size < used < (2 << 20)
