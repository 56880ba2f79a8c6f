"""The adapter that is committed, on the base that is pinned, as it is served."""

from importlib.resources import files
from pathlib import Path
from subprocess import CalledProcessError

import pytest
import yaml

from export import reasoner as export
from service.engine.reasoner.explanation import Explanation
from service.engine.reasoner.reasoner import Reasoner, go_on
from tamis import content
from tamis.reasoner import bundle as bundles
from tamis.reasoner import protocol
from tamis.reasoner.protocol import END, START

BANK = yaml.safe_load(files("training.reasoner").joinpath("bank.yaml").read_text("utf-8"))
POLICY = protocol.guidelines(BANK["categories"])


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Reasoner:
    adapter = export.shipped_adapter()
    assert adapter is not None
    out: Path = tmp_path_factory.mktemp("shipped") / "bundle"
    try:
        manifest = export.build(out, adapter=adapter, progress=False)
    except CalledProcessError:
        pytest.skip("the base cannot be fetched")
    assert manifest["parity"]["argmax_agreement"] > 0.9
    return Reasoner(bundles.load(out), threads=2, cache_bytes=1 << 26)


@pytest.fixture(scope="module")
def said(shipped: Reasoner) -> list[tuple[str | None, Explanation]]:
    """Of every request to the invented bank: what is right, and what is said."""
    return [
        (
            example["category"],
            shipped.explain(POLICY, [content.prompt(example["prompt"])], go_on, 64)[1],
        )
        for example in BANK["examples"]
    ]


def test_turns_end_where_the_bases_do(shipped: Reasoner):
    # Conversions of tokenizers have lost it before: then no answer would ever end.
    assert [shipped._controls[token] for token in (START, END)] == [1, 2]


def test_it_is_calibrated(shipped: Reasoner):
    assert shipped.bundle.calibration.fitted


def test_it_answers_in_the_agreed_form_and_in_few_words(said):
    whole = [found for _, found in said if found.status == "ok"]
    assert len(whole) >= 38
    assert all(len(found.reason.split()) <= 40 for found in whole)


def test_it_reads_a_policy_that_no_data_has(said):
    """A margin below the 34 and 25 of 40 that were measured: machines round differently."""
    safety = [(right is None) == (found.reading.category is None) for right, found in said]
    named = [right == found.reading.category for right, found in said]
    assert sum(safety) >= 30
    assert sum(named) >= 21
