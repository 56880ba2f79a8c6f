"""From which scores on to flag: by false alarms on benign rows, within reach of the best F1."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.bundle import head_of
from training.classifier import calibration
from training.classifier.calibration import calibrate
from training.classifier.thresholds import (
    PLATEAU,
    TARGETS,
    USUAL,
    Benign,
    Scored,
    Target,
    benign,
    choose,
    plain,
)
from training.datasets.batches import UNKNOWN
from training.datasets.registry import HEADS
from training.datasets.schema import Row


def scored(positive: np.ndarray, negative: np.ndarray) -> Scored:
    truth = np.repeat([1.0, 0.0], [len(positive), len(negative)])
    return Scored(np.concatenate([positive, negative]), truth, np.ones(len(truth)))


def alarming(found: Benign, flag: float) -> float:
    return float(found.weight[found.score >= flag].sum())


def f1_at(rows: Scored, flag: float) -> float:
    hits = (rows.truth * (rows.score >= flag)).sum()
    return float(2 * hits / ((rows.score >= flag).sum() + rows.truth.sum()))


def sources(sizes: dict[str, int]) -> np.ndarray:
    return np.repeat(list(sizes), list(sizes.values()))


def test_every_source_of_benign_rows_weighs_the_same():
    # Nine hundred calm requests do not hide that half of a small source alarms.
    score = np.concatenate([np.full(900, 0.01), np.full(50, 0.01), np.full(50, 0.7)])
    found = benign(score, sources({"large": 900, "small": 100}))
    assert found.weight.sum() == pytest.approx(1)
    assert alarming(found, 0.5) == pytest.approx(0.25)


def test_a_source_with_a_handful_of_benign_rows_has_no_say_where_others_have():
    score = np.concatenate([np.full(60, 0.1), np.full(3, 0.9)])
    found = benign(score, sources({"many": 60, "few": 3}))
    assert (len(found.score), alarming(found, 0.5)) == (60, 0.0)
    found = benign(score[-3:], sources({"few": 3}))
    assert alarming(found, 0.5) == pytest.approx(1)


def best_f1(rows: Scored) -> tuple[float, float]:
    """Where F1 alone would flag, and F1 there."""
    found = plain(rows)
    return found.sets["balanced"].flag, found.f1


@pytest.fixture
def mixed() -> tuple[Scored, Benign]:
    """A hard mix, half of it unsafe; and ordinary requests, six in a hundred of them alarming."""
    rng = np.random.default_rng(0)
    rows = scored(rng.beta(4, 2, 2000), rng.beta(2, 4, 2000))
    calm = np.where(rng.random(4000) < 0.06, 0.3 + 0.4 * rng.random(4000), 0.05)
    return rows, benign(calm, sources({"a": 3000, "b": 1000}))


def test_balanced_alarms_no_more_than_its_share_of_ordinary_requests(mixed):
    rows, ordinary = mixed
    best, value = best_f1(rows)
    assert alarming(ordinary, best) > 0.02
    found = choose(rows, [ordinary], USUAL)
    flag = found.sets["balanced"].flag
    assert flag > best
    assert 0.018 < alarming(ordinary, flag) < 0.02 + 1e-9
    assert found.alarms == pytest.approx(alarming(ordinary, flag))
    assert found.f1 == pytest.approx(f1_at(rows, flag))
    assert value - 0.05 <= found.f1 < value


def test_strict_and_loose_have_their_own_shares(mixed):
    rows, ordinary = mixed
    targets = {
        "strict": Target(0.05, 0.2),
        "balanced": Target(0.01, 0.2),
        "loose": Target(0.004, 0.2),
    }
    sets = choose(rows, [ordinary], targets).sets
    for name, target in targets.items():
        assert target.alarms - 0.002 < alarming(ordinary, sets[name].flag) < target.alarms + 1e-9


def test_an_early_question_spends_what_is_left_of_its_share_on_recall(mixed):
    rows, _ = mixed
    quiet = Benign(np.linspace(0, 0.05, 100), np.full(100, 0.01))
    early = {**USUAL, "balanced": replace(USUAL["balanced"], early=True)}
    usual, sooner = (choose(rows, [quiet], targets) for targets in (USUAL, early))
    assert sooner.sets["balanced"].flag < usual.sets["balanced"].flag
    assert sooner.f1 >= max(f1_at(rows, flag) for flag in rows.score) - PLATEAU
    # No more than its share, all the same.
    loud = Benign(np.linspace(0, 1, 100), np.full(100, 0.01))
    costly = {**USUAL, "balanced": Target(0.02, 1.0, early=True)}
    assert choose(rows, [loud], costly).alarms <= 0.02 + 1e-9


def test_where_f1_is_best_is_quiet_enough_it_stays(mixed):
    rows, _ = mixed
    quiet = benign(np.full(500, 0.01), sources({"a": 500}))
    best, value = best_f1(rows)
    found = choose(rows, [quiet], USUAL)
    assert found.sets["balanced"].flag == pytest.approx(best)
    assert (found.f1, found.alarms) == (pytest.approx(value), 0.0)
    # Strict goes on as long as F1 allows, since nothing alarms.
    strict = found.sets["strict"].flag
    assert strict < best
    assert f1_at(rows, strict) >= f1_at(rows, best) - 0.05 - 1e-9


@pytest.mark.parametrize("cost", [0.02, 0.05, 0.15])
def test_no_share_is_worth_more_f1_than_its_cost(mixed, cost: float):
    rows, _ = mixed
    loud = benign(np.full(500, 0.99), sources({"a": 500}))
    found = choose(rows, [loud], {name: Target(0.01, cost) for name in USUAL})
    best = max(f1_at(rows, t) for t in np.unique(rows.score))
    assert found.f1 == pytest.approx(best - cost, abs=0.01)
    assert found.f1 >= best - cost
    assert found.alarms == pytest.approx(1)
    # Strict has no share to use up, and stays where F1 is best.
    assert found.sets["strict"].flag == pytest.approx(best_f1(rows)[0])


def test_the_group_that_alarms_most_decides(mixed):
    rows, _ = mixed
    quiet = benign(np.full(900, 0.01), sources({"a": 900}))
    refusals = benign(np.repeat([0.01, 0.55], [54, 6]), sources({"b": 60}))
    deaf, found = choose(rows, [quiet], USUAL), choose(rows, [quiet, refusals], USUAL)
    assert deaf.sets["balanced"].flag < 0.55 < found.sets["balanced"].flag
    assert found.alarms == 0


def test_one_row_more_than_the_share_of_few_is_luck(mixed):
    rows, _ = mixed
    # Of 74 the share is one; of 740 it is told apart from twice as many.
    for times, quiet in ((1, False), (10, True)):
        score = np.repeat([0.01, 0.55, 0.9], [72 * times, times, times])
        found = choose(rows, [benign(score, sources({"b": 74 * times}))], USUAL)
        assert (found.sets["balanced"].flag > 0.55) is quiet


numbers = st.lists(st.floats(0.001, 1), min_size=1, max_size=30).map(np.array)


@given(numbers, numbers, numbers, st.sampled_from([*TARGETS.values()]))
def test_sets_are_in_order_whatever_the_scores(positive, negative, calm, targets):
    rows = scored(positive, negative)
    ordinary = benign(calm, sources({"a": len(calm)}))
    for found in (choose(rows, [ordinary], targets), plain(rows, 0.05)):
        strict, balanced, loose = (found.sets[name] for name in ("strict", "balanced", "loose"))
        assert 0 < strict.flag <= balanced.flag <= loose.flag <= 1
        assert strict.block <= balanced.block <= loose.block <= 1
        assert all(flag <= block for flag, block in found.sets.values())
        assert found.f1 == pytest.approx(f1_at(rows, balanced.flag))


def row(source: str, target: str, n: int, label: int = 0) -> Row:
    answer = "a" if target == "response" else None
    return Row(str(n), source, target, label, f"{source} {n}", answer, (), "permissive")  # type: ignore[arg-type]


def held_out(refusals: int) -> tuple[list[Row], np.ndarray, np.ndarray]:
    """Rows whose logits tell mostly; of one benign source every tenth looks unsafe."""
    rows: list[Row] = []
    for n in range(200):
        for source, target in (
            ("guardreasoner_train_5k", "prompt"),
            ("gptfuzz_responses_train", "response"),
            ("fox_comments", "text"),
            ("llm_warden_train", "prompt"),
        ):
            rows.append(row(source, target, n, n % 2))
        rows.append(row("lima", "prompt", n))
    labels = np.full((len(rows), len(HEADS)), UNKNOWN, dtype=np.float32)
    logits = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    taught = {"prompt": ("guard", "lima"), "response": ("gptfuzz",), "toxicity": ("fox",)}
    taught["attack"] = ("llm_warden",)
    for name, starts in taught.items():
        for at, one in enumerate(rows):
            if one.source.startswith(starts):
                labels[at, HEADS.index(name)] = one.label
                logits[at, HEADS.index(name)] += 4 * one.label - 2
    for at, one in enumerate(rows):
        if one.source == "lima" and int(one.id) % 10 == 0:
            logits[at, HEADS.index("prompt")] += 4
    answers = [at for at, one in enumerate(rows) if one.target == "response"][:refusals]
    for n, at in enumerate(answers):
        labels[at, HEADS.index("refusal")] = n % 2
        logits[at, HEADS.index("refusal")] += 6 * (n % 2) - 3
    return rows, labels, logits


def logit_of(head: calibration.Calibration) -> float:
    return float((np.log(head.flag / (1 - head.flag)) - head.bias) / head.scale)


def test_calibration_raises_the_threshold_for_benign_sources_that_alarm():
    rows, labels, logits = held_out(60)
    found = {c.name: c for c in calibrate(rows, labels, logits)}
    lima = [at for at, one in enumerate(rows) if one.source == "lima"]
    labels[lima] = UNKNOWN
    without = {c.name: c for c in calibrate(rows, labels, logits)}
    # Told as logits, since the rows that are gone took part in the scale.
    assert logit_of(found["prompt"]) > logit_of(without["prompt"]) + 0.2
    assert found["response"].flag == without["response"].flag
    assert set(found["prompt"].sensitivities) == {"strict", "loose"}
    assert found["prompt"].alarms > 0


def test_calibrated_heads_are_read_back_with_their_sets():
    rows, labels, logits = held_out(60)
    text = json.dumps(calibration.as_json(calibrate(rows, labels, logits)))
    heads = {head.name: head.thresholds for head in map(head_of, json.loads(text))}
    prompt = heads["prompt"]
    assert prompt.at("strict").flag < prompt.flag < prompt.at("loose").flag
    # Whether an answer declines is no matter of sensitivity.
    assert heads["refusal"].at("strict") == heads["refusal"].at("loose") == heads["refusal"]


def test_a_question_that_nobody_answered_is_left_out():
    rows, labels, logits = held_out(0)
    names = {c.name for c in calibrate(rows, labels, logits)}
    assert {"prompt", "response", "toxicity", "attack"} == names


def test_answers_that_decline_are_scored_in_the_light_of_that():
    rows, labels, logits = held_out(0)
    response, refusal = HEADS.index("response"), HEADS.index("refusal")
    answers = [at for at, one in enumerate(rows) if one.target == "response"]
    declining = [at for at in answers if rows[at].label == 0][:60]
    logits[declining[::6], response] += 4
    labels[answers, refusal] = 0
    labels[declining, refusal] = 1
    unknown = {c.name: c for c in calibrate(rows, labels, logits)}["response"]
    logits[answers, refusal] = -6
    logits[declining, refusal] = 6
    known = {c.name: c for c in calibrate(rows, labels, logits)}["response"]
    assert known.flag < unknown.flag
    # One of sixty, or two.
    assert known.alarms <= 0.02 + math.sqrt(0.02 * 0.98 / 60)


def test_categories_of_answers_that_decline_are_scored_in_that_light():
    rows, labels, logits = held_out(0)
    response, refusal, hate = (HEADS.index(name) for name in ("response", "refusal", "hate"))
    answers = [at for at, one in enumerate(rows) if one.target == "response"]
    unsafe = [at for at in answers if rows[at].label]
    declining = [at for at in answers if not rows[at].label][:60]
    logits[:, hate] = -4
    labels[unsafe, hate] = [n % 2 for n in range(len(unsafe))]
    labels[answers, refusal] = 0
    labels[declining, refusal] = 1
    logits[answers, refusal], logits[declining, refusal] = -6, 6
    # To the other heads a refusal that names what it declines looks like the harm itself.
    logits[declining, response], logits[declining, hate] = 3, 4
    logits[unsafe, hate] = 8 * labels[unsafe, hate] - 4
    found = {c.name: c for c in calibrate(rows, labels, logits)}["hate"]
    assert found.f1 > 0.8


def test_a_question_that_no_row_answers_is_named():
    rows, labels, logits = held_out(60)
    labels[:, HEADS.index("response")] = UNKNOWN
    with pytest.raises(ValueError, match="'response'"):
        calibrate(rows, labels, logits)
