"""The split encoder: its parts come to the same alone and in company, and it trains."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from tamis import rules
from tamis.content import plain, prompt, response
from tamis.reasoner.protocol import Guideline
from tamis.rules import PairShape
from tamis.tokens import plain_tokenizer
from tests.conftest import write_rows
from tests.training.reasoner_world import make_library, make_rows
from tests.training.rules_world import RULES, make_base, named, write_clubs
from tests.training.test_rules_training import recipe
from tests.training.tiny import write_bert, write_causal, write_mpnet
from training.rules import trainer
from training.rules.banks import banks_of
from training.rules.batching import batches
from training.rules.drawing import Mixture, draw_together
from training.rules.forms import CROSS, SPLIT, Parts, cut, form_of, tensors
from training.rules.judge import Checkpoint, pair_shape
from training.rules.model import RuleEncoder
from training.rules.organisations import read_organisations
from training.rules.split import SplitEncoder, SplitError, rule_encoder
from training.rules.trainer import RecipeError, train

POLICY = (*(Guideline(name, about) for name, (about, _) in RULES.items()), Guideline("Kites"))
TEXTS = (
    prompt("tell number 3 about kites"),
    plain("the weather is mild"),
    response("the path is long and the door is open", "what is it like on day 3"),
    prompt("the path is long " * 14),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[write_bert, write_mpnet])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def shape(base: Path) -> PairShape:
    tokenizer = plain_tokenizer(base / "tokenizer.json")
    sizes = {"max_tokens": 64, "overlap": 4, "rule_tokens": 16, "context_tokens": 8}
    return pair_shape(tokenizer, sizes)


def made(base: Path, split: int) -> RuleEncoder:
    torch.manual_seed(3)
    model = rule_encoder(base, split)
    # Attention that starts at zero would hide which token is which.
    torch.nn.init.normal_(model.reader.attend.weight)
    torch.nn.init.normal_(model.reader.score.weight)
    return model.eval()


def pairs_of(base: Path, shape: PairShape, split: int) -> list[Parts]:
    ids, form = rules.encoder(plain_tokenizer(base / "tokenizer.json")), form_of(split)
    return [
        pair
        for content in TEXTS
        for rule in POLICY
        for pair in form.pairs(
            rules.read_rule(rule, ids, shape), rules.read_text(content, ids, shape), shape
        )
    ]


@torch.inference_mode()
def logits(model: RuleEncoder, pairs: list[Parts]) -> Tensor:
    return model(**tensors(form_of(model.split).feed(pairs), CPU))[:, 0]


def test_a_pair_says_the_same_alone_and_among_others(base: Path, shape: PairShape):
    for split in (0, 1):
        model, pairs = made(base, split), pairs_of(base, shape, split)
        together = logits(model, pairs)
        assert len(together) > len(TEXTS) * len(POLICY), "none of the texts has two windows"
        assert together.std() > 0.01
        alone = torch.cat([logits(model, [pair]) for pair in pairs])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_logit_is_made_of_two_states_without_padding(base: Path, shape: PairShape):
    model, pairs = made(base, 1), pairs_of(base, shape, 1)
    assert isinstance(model, SplitEncoder)
    found = []
    for rule, text in pairs:
        both = [(rule, [0] * len(rule)), (text.ids, text.types)]
        states = [
            model.states(torch.tensor([ids]), torch.ones(1, len(ids)), torch.tensor([types]))
            for ids, types in both
        ]
        judged = torch.tensor([[0] * len(rule) + text.types])
        found.append(model.joint(torch.cat(states, 1), torch.ones_like(judged), judged)[0, 0])
    torch.testing.assert_close(torch.stack(found), logits(model, pairs), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_cut_itself_changes_nothing(base: Path, shape: PairShape):
    whole, model = made(base, 0), made(base, 1)
    assert type(whole) is RuleEncoder
    assert isinstance(model, SplitEncoder)
    feed = tensors(CROSS.feed(pairs_of(base, shape, 0)), CPU)
    states = model.states(**feed)
    mask = feed["attention_mask"]
    found = model.joint(states, mask, feed["token_type_ids"] * mask)
    torch.testing.assert_close(found, whole(**feed), atol=1e-5, rtol=1e-4)


def test_rules_and_texts_of_a_batch_are_read_once(base: Path, shape: PairShape):
    pairs = pairs_of(base, shape, 1)
    feed = SPLIT.feed(pairs)
    windows = {tuple(pair.text.ids) for pair in pairs}
    assert sum(len(part["input_ids"]) for part in feed["alone"]) == len(POLICY) + len(windows)
    flat = np.concatenate([part["input_ids"].ravel() for part in feed["alone"]])
    for n, pair in enumerate(pairs):
        size = SPLIT.size(pair)
        assert flat[feed["places"][n, :size]].tolist() == [*pair.rule, *pair.text.ids]
        assert feed["attention_mask"][n].sum() == size <= shape.max_tokens
        assert feed["judged"][n].sum() == sum(pair.text.types)


def test_what_is_judged_of_a_part_is_what_is_judged_of_a_pair(base: Path, shape: PairShape):
    ids = rules.encoder(plain_tokenizer(base / "tokenizer.json"))
    rule = rules.read_rule(POLICY[0], ids, shape)
    for content in TEXTS[:3]:
        text = rules.read_text(content, ids, shape)
        (whole,), (alone,) = rules.pairs(rule, text, shape), rules.texts_alone(text, shape)
        picked = [
            [i for i, kind in zip(w.ids, w.types, strict=True) if kind] for w in (whole, alone)
        ]
        assert picked[0] == picked[1]
        first = whole.ids[whole.lead : whole.lead + whole.count]
        assert first == alone.ids[alone.lead : alone.lead + alone.count] == list(text.judged)


def test_batches_hold_no_more_tokens_than_they_may():
    assert list(cut([5, 5, 7, 2, 30, 1], 20)) == [(0, 2), (2, 4), (4, 5), (5, 6)]
    assert list(cut([], 20)) == []


def test_texts_that_are_read_together_share_the_words_of_their_rules(tmp_path: Path):
    pools = read_organisations([write_clubs(tmp_path, [(named("train", 1)[0], "prompt")])])
    banks = banks_of([], pools, make_library(), held_out=False, seed=0)
    shared = 0
    for items in islice(draw_together(Mixture(banks), 0, 4), 50):
        texts = [item.content.text for item in items]
        assert 1 <= len(set(texts)) == len(texts) <= 4
        rules_of = [{rule.name.lower(): rule for rule in item.rules} for item in items]
        said = {rule for item in items for rule in item.rules}
        # Three rules, and what a swap makes of them.
        shared += len(said) <= 6
        assert all(rules_of)
    assert shared > 40


def test_a_body_that_cannot_be_cut_there_is_refused(base: Path, tmp_path: Path):
    layers = AutoModel.from_pretrained(base).config.num_hidden_layers
    with pytest.raises(SplitError, match=f"cut at 1 to {layers - 1}"):
        rule_encoder(base, layers)
    with pytest.raises(SplitError, match="kind llama cannot"):
        rule_encoder(write_causal(tmp_path, ["word"]), 1)
    with pytest.raises(RecipeError, match="split must"):
        recipe(base, split=-1)
    with pytest.raises(RecipeError, match="frozen_layers must"):
        recipe(base, frozen_layers=-1)
    with pytest.raises(RecipeError, match="split: a body"):
        train([], [], tmp_path / "out", recipe(base, split=layers))


@pytest.fixture(scope="module")
def clubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = ("prompt", "response", "text")
    parts = ("train", "dev")
    chosen = [pair for part in parts for pair in zip(named(part, 3), kinds, strict=True)]
    return write_clubs(tmp_path_factory.mktemp("clubs"), chosen)


def test_a_split_encoder_learns_and_goes_on_where_it_was_stopped(
    base: Path, clubs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [tmp_path]
    write_rows(tmp_path / "rows.jsonl.gz", make_rows())
    asked = recipe(base, split=1, frozen_layers=1, steps=60, check_every=30)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(rows, [clubs], whole, asked, make_library())
    told = trainer.early_figures
    calls = []

    def stops(*given: object) -> dict[str, float]:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return told(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "early_figures", stops)
        with pytest.raises(KeyboardInterrupt):
            train(rows, [clubs], broken, asked, make_library())
    for name, value in (("split", 0), ("frozen_layers", 0), ("steps", 61)):
        other = recipe(base, **{"split": 1, "frozen_layers": 1, name: value})
        with pytest.raises(RecipeError, match=f"{name}: .* holds a run of"):
            train(rows, [clubs], broken, other, make_library())
    train(rows, [clubs], broken, asked, make_library())
    ends = [torch.load(out / "last.pt", weights_only=True)["model"] for out in (whole, broken)]
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value)

    assert json.loads((whole / "training.json").read_text())["recipe"]["split"] == 1
    made = Checkpoint(whole)
    assert isinstance(made.model, SplitEncoder)
    given = AutoModel.from_pretrained(base).state_dict()
    now = made.model.encoder.state_dict()
    moved = {name for name in given if not torch.equal(given[name], now[name])}
    assert moved
    assert all(name.startswith("encoder.layer.") for name in moved)
    assert not any(name.startswith("encoder.layer.0.") for name in moved)
    judge = made.judge()
    texts = [(prompt(f"tell number 3 about {word}"), POLICY[:3]) for _, word in RULES.values()]
    said = judge.logits([*texts, (prompt("the path is long"), POLICY[:3])])
    assert min(logits.max() for logits in said[:3]) > said[3].max()


def test_split_batches_ask_what_whole_ones_ask(base: Path, shape: PairShape, clubs: Path):
    pools = read_organisations([clubs])
    banks = banks_of([], pools, make_library(), held_out=False, seed=0)
    ids = rules.encoder(plain_tokenizer(base / "tokenizer.json"))
    for form in (CROSS, SPLIT):
        for batch in islice(batches(banks, ids, shape, 1024, 0, form), 20):
            pairs, width = batch.feed["attention_mask"].shape
            assert pairs == len(batch.labels) == len(batch.texts)
            assert pairs * width <= 1024
            assert 0 < batch.labels.mean() < 1
            # Texts are numbered as they come, each with its pairs.
            assert np.array_equal(np.unique(batch.texts), np.arange(batch.texts[-1] + 1))
