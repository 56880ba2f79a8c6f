"""What a policy encoder says of texts and rules: a checkpoint's logits, or a bundle's."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch

from tamis import rules
from tamis.content import Content
from tamis.reasoner.protocol import Guideline
from tamis.rules import Encode, PairShape, PolicyEncoder
from tamis.tokens import plain_tokenizer
from training.classifier import bases
from training.classifier.inference import autocast, device, shape_of
from training.rules.forms import CROSS, HALVES, Feed, Form, Parts, cut, form_of, tensors, up_to
from training.rules.hints import KEPT, Hinted, no_hints
from training.rules.model import RuleEncoder
from training.rules.split import rule_encoder

# (pairs, 1) logits of a batch.
Run = Callable[[Feed], np.ndarray]
Asked = Sequence[tuple[Content, Sequence[Guideline]]]
BATCH_TOKENS: Final = 4096
# Of a split encoder's rules; each some 50 KB.
RULES: Final = 1024


class Judge:
    """Logits of rules over texts: of every rule alone, whatever stands beside it."""

    def __init__(
        self,
        ids: Encode,
        shape: PairShape,
        run: Run,
        form: Form[Any] = CROSS,
        hinted: Hinted = no_hints,
    ) -> None:
        self.shape = shape
        self.form = form
        self._ids = ids
        self._run = run
        self.hints = lru_cache(KEPT)(hinted)
        self._rules: dict[Guideline, list[int]] = {}

    @classmethod
    def of_model(
        cls,
        model: RuleEncoder,
        ids: Encode,
        shape: PairShape,
        fast: bool,
        hinted: Hinted = no_hints,
    ) -> "Judge":
        """A model as it is; ``fast`` computes in bf16 where the hardware does."""
        return cls(ids, shape, torch_run(model, fast), form_of(model.split), hinted)

    @classmethod
    def of_bundle(cls, bundle: PolicyEncoder, threads: int, hinted: Hinted = no_hints) -> "Judge":
        """A bundle's graph on the CPU, as it is served."""
        ids = rules.encoder(plain_tokenizer(bundle.tokenizer))
        session = _session(bundle.graph, threads)
        if bundle.joint is not None:
            run = Halves(session, _session(bundle.joint, threads))
            return cls(ids, bundle.shape, run, HALVES, hinted)
        return cls(ids, bundle.shape, graph_run(session), CROSS, hinted)

    def pairs(self, content: Content, policy: Sequence[Guideline]) -> list[list[Any]]:
        """The pairs of each rule with the windows of a text."""
        text = rules.read_text(content, self._ids, self.shape, self.hints(content))
        return [self.form.pairs(self._rule(rule), text, self.shape) for rule in policy]

    def logits(self, asked: Asked, batch_tokens: int = BATCH_TOKENS) -> list[np.ndarray]:
        """Logits (rules,) of each text, the highest over its windows."""
        picks = [
            (pair, text, rule)
            for text, (content, policy) in enumerate(asked)
            for rule, pairs in enumerate(self.pairs(content, policy))
            for pair in pairs
        ]
        picks.sort(key=lambda pick: self.form.order(pick[0]), reverse=True)
        found = [np.full(len(policy), -np.inf, np.float32) for _, policy in asked]
        sizes = [up_to(self.form.size(pair)) for pair, _, _ in picks]
        for first, last in cut(sizes, batch_tokens):
            some = picks[first:last]
            said = self._run(self.form.feed([pair for pair, _, _ in some]))[:, 0]
            for (_, text, rule), logit in zip(some, said.tolist(), strict=True):
                found[text][rule] = max(found[text][rule], logit)
        return found

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._ids(text))

    def forget(self) -> None:
        """Forget what was read of rules, as before any policy was seen."""
        self._rules.clear()
        if isinstance(self._run, Halves):
            self._run.forget()

    def _rule(self, rule: Guideline) -> list[int]:
        if rule not in self._rules:
            self._rules[rule] = rules.read_rule(rule, self._ids, self.shape)
        return self._rules[rule]


class Halves:
    """Both graphs of a split encoder as a ``Run``: rules are read once, and texts once in a row."""

    def __init__(self, states: ort.InferenceSession, joint: ort.InferenceSession) -> None:
        self._states, self._joint = states, joint
        self._typed = any(one.name == rules.TYPES for one in states.get_inputs())
        self.rule = lru_cache(RULES)(self.states)
        self.text = lru_cache(1)(self.states)

    def __call__(self, feed: Feed) -> np.ndarray:
        """Logits (pairs, 1). A text is read for each batch, as it is for each request."""
        self.text.cache_clear()
        found = [self._joint.run([rules.OUTPUT], self.parts(pair))[0] for pair in feed["pairs"]]
        return np.concatenate([np.asarray(one) for one in found])

    def parts(self, pair: Parts) -> dict[str, np.ndarray]:
        """What the upper layers read of a pair."""
        text = pair.text
        read = self.rule(tuple(pair.rule), (0,) * len(pair.rule))
        said = self.text(tuple(text.ids), tuple(text.types))
        return dict(zip(rules.PARTS, (read, said, np.array([text.types])), strict=True))

    def forget(self) -> None:
        """Forget what rules were read to."""
        self.rule.cache_clear()

    def states(self, ids: tuple[int, ...], types: tuple[int, ...]) -> np.ndarray:
        """States (1, tokens, width) of a rule or a text alone."""
        feed = alone(ids, types, self._typed)
        return np.asarray(self._states.run([rules.STATES], feed)[0])


def alone(ids: Sequence[int], types: Sequence[int], typed: bool) -> dict[str, np.ndarray]:
    """What the lower layers of a split encoder read of a rule or a text."""
    feed = {rules.IDS: np.array([ids])}
    return feed | {rules.TYPES: np.array([types])} if typed else feed


def graph_run(session: ort.InferenceSession) -> Run:
    """A cross-encoder's graph."""
    return lambda feed: np.asarray(session.run([rules.OUTPUT], dict(feed))[0])


def _session(graph: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def torch_run(model: RuleEncoder, fast: bool) -> Run:
    """A model's logits of a batch, without gradients."""
    on = next(model.parameters()).device

    @torch.inference_mode()
    def run(feed: Feed) -> np.ndarray:
        model.eval()
        arguments = tensors(feed, on)
        with autocast(on) if fast else torch.autocast(on.type, enabled=False):
            said = model(**arguments)
        return np.asarray(said.float().cpu().numpy())

    return run


def pair_shape(tokenizer: Any, sizes: Mapping[str, int]) -> PairShape:
    """How pairs are cut, with the tokenizer's own special tokens; raises as ``shape_of``."""
    special = shape_of(tokenizer, max_tokens=256, overlap=0, context_tokens=0)
    return PairShape(special.cls, special.sep, **sizes)


class Checkpoint:
    """A finished checkpoint, in evaluation mode."""

    def __init__(self, folder: Path, on: torch.device | None = None) -> None:
        self.training: dict[str, Any] = json.loads((folder / "training.json").read_text())
        base, path = bases.resolve(self.training["recipe"]["base"])
        split = self.training["recipe"].get("split", 0)
        model = rule_encoder(path, split, **base.load_arguments())
        state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
        model.reader.load_state_dict(state)
        self.model = model.to(on or device()).eval()
        self.tokenizer = plain_tokenizer(folder / "tokenizer.json")
        self.ids = rules.encoder(self.tokenizer)
        self.shape = PairShape(**self.training["pairs"])

    def judge(self, fast: bool = True, hinted: Hinted = no_hints) -> Judge:
        """What it says of texts."""
        return Judge.of_model(self.model, self.ids, self.shape, fast, hinted)
