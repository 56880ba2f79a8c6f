"""What a policy encoder says of texts and rules: a checkpoint's logits, or a bundle's."""

import json
from collections.abc import Callable, Mapping, Sequence
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
from tamis.windows import Window
from training.classifier import bases
from training.classifier.inference import autocast, device, shape_of
from training.rules.model import RuleEncoder

Feed = Mapping[str, np.ndarray]
# (pairs, 1) logits of a batch.
Run = Callable[[Feed], np.ndarray]
Asked = Sequence[tuple[Content, Sequence[Guideline]]]
# As the classifier's batches: few distinct widths (``batches.WIDTH_STEP``).
WIDTH_STEP: Final = 16
BATCH_TOKENS: Final = 4096


def feed_of(windows: Sequence[Window], step: int = WIDTH_STEP) -> dict[str, np.ndarray]:
    """The graph's arrays (pairs, tokens) of some windows, padded to a multiple of ``step``."""
    width = -(-max(len(window.ids) for window in windows) // step) * step
    feed = {name: np.zeros((len(windows), width), np.int64) for name in rules.INPUTS}
    for n, window in enumerate(windows):
        size = len(window.ids)
        feed["input_ids"][n, :size] = window.ids
        feed["attention_mask"][n, :size] = 1
        feed["token_type_ids"][n, :size] = window.types
    return feed


class Judge:
    """Logits of rules over texts: of every rule alone, whatever stands beside it."""

    def __init__(self, ids: Encode, shape: PairShape, run: Run) -> None:
        self.shape = shape
        self._ids = ids
        self._run = run
        self._rules: dict[Guideline, list[int]] = {}

    @classmethod
    def of_model(cls, model: RuleEncoder, ids: Encode, shape: PairShape, fast: bool) -> "Judge":
        """A model as it is; ``fast`` computes in bf16 where the hardware does."""
        return cls(ids, shape, torch_run(model, fast))

    @classmethod
    def of_bundle(cls, bundle: PolicyEncoder, threads: int) -> "Judge":
        """A bundle's graph on the CPU, as it is served."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(
            str(bundle.graph), options, providers=["CPUExecutionProvider"]
        )

        def run(feed: Feed) -> np.ndarray:
            return np.asarray(session.run([rules.OUTPUT], dict(feed))[0])

        return cls(rules.encoder(plain_tokenizer(bundle.tokenizer)), bundle.shape, run)

    def pairs(self, content: Content, policy: Sequence[Guideline]) -> list[list[Window]]:
        """The windows of a text under each rule."""
        text = rules.read_text(content, self._ids, self.shape)
        return [rules.pairs(self._rule(rule), text, self.shape) for rule in policy]

    def logits(self, asked: Asked, batch_tokens: int = BATCH_TOKENS) -> list[np.ndarray]:
        """Logits (rules,) of each text, the highest over its windows."""
        picks = [
            (window, text, rule)
            for text, (content, policy) in enumerate(asked)
            for rule, windows in enumerate(self.pairs(content, policy))
            for window in windows
        ]
        picks.sort(key=lambda pick: -len(pick[0].ids))
        found = [np.full(len(policy), -np.inf, np.float32) for _, policy in asked]
        at = 0
        while at < len(picks):
            height = max(1, batch_tokens // (len(picks[at][0].ids) + WIDTH_STEP))
            some = picks[at : at + height]
            at += height
            said = self._run(feed_of([window for window, _, _ in some]))[:, 0]
            for (_, text, rule), logit in zip(some, said.tolist(), strict=True):
                found[text][rule] = max(found[text][rule], logit)
        return found

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._ids(text))

    def forget(self) -> None:
        """Forget the tokens of rules, as before any policy was seen."""
        self._rules.clear()

    def _rule(self, rule: Guideline) -> list[int]:
        if rule not in self._rules:
            self._rules[rule] = rules.read_rule(rule, self._ids, self.shape)
        return self._rules[rule]


def torch_run(model: RuleEncoder, fast: bool) -> Run:
    """A model's logits of a batch, without gradients."""
    on = next(model.parameters()).device

    @torch.inference_mode()
    def run(feed: Feed) -> np.ndarray:
        model.eval()
        arguments = {name: torch.from_numpy(value).to(on) for name, value in feed.items()}
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
        model = RuleEncoder.from_base(path, **base.load_arguments())
        state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
        model.reader.load_state_dict(state)
        self.model = model.to(on or device()).eval()
        self.tokenizer = plain_tokenizer(folder / "tokenizer.json")
        self.ids = rules.encoder(self.tokenizer)
        self.shape = PairShape(**self.training["pairs"])

    def judge(self, fast: bool = True) -> Judge:
        """What it says of texts."""
        return Judge.of_model(self.model, self.ids, self.shape, fast)
