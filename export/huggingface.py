"""A bundle as the ecosystem loads it: ``config.json``, tokenizer files, one ONNX graph of logits.

``optimum.onnxruntime.ORTModelForSequenceClassification`` and ``pipeline("text-classification")``
serve such a folder, and whatever is built on them. A text alone is judged as a prompt (or, asked
for so, as a plain text), a pair as a prompt and the response to it. Calibration, the product that
makes a category's score, and what a refusal does to a response's are in the graph: the sigmoid of a
label's logit is the score that the service's verdict carries.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, processors

from tamis import bundle as bundles
from tamis.bundle import QUESTIONS, Bundle
from tamis.policy import Thresholds
from tamis.taxonomy import ATTACK, REFUSAL, SEVERITY, TOXICITY
from tamis.verdict import UNSAFE

Asked = Literal["prompt", "text"]

GRAPH: Final = "model.onnx"
# The logit of what is not asked of a text: of a response neither attack nor toxicity is.
NOT_ASKED: Final = -20.0
# Nearer to 0 a logarithm of a probability has no complement left in single precision.
SUREST: Final = -1e-6


def build(path: Path, out: Path, asked: Asked = "prompt") -> dict[str, Any]:
    """Write the folder of a bundle; returns its ``config.json``.

    Args:
        path: of the bundle.
        out: a folder, made where there is none.
        asked: what a text without a pair is judged as.

    Raises:
        BundleError: where the bundle cannot be used.
    """
    bundle = bundles.load(path)
    labels = _labels(bundle, asked)
    graph = onnx.load(bundle.graph)
    _Logits(graph, bundle, asked).write(labels)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, out / GRAPH)
    special = _write_tokenizer(bundle, out)
    config = {
        # A name that every loader knows; the graph is all there is of the model.
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "problem_type": "multi_label_classification",
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
        "max_position_embeddings": bundle.shape.max_tokens,
        **special,
    }
    _write(out / "config.json", config)
    _write(out / "thresholds.json", _thresholds(bundle, labels, asked))
    card = (path / "README.md").read_text(encoding="utf-8") if (path / "README.md").exists() else ""
    (out / "README.md").write_text(_card(bundle, asked) + card, encoding="utf-8")
    return config


def _labels(bundle: Bundle, asked: Asked) -> list[str]:
    names = [head.name for head in bundle.heads]
    beside: list[str] = [n for n in (TOXICITY, ATTACK, SEVERITY) if n in names]
    if asked == "prompt" and REFUSAL in names:
        beside.append(REFUSAL)
    return [UNSAFE, *(n for n in names if n not in QUESTIONS), *beside]


class _Logits:
    """Nodes behind a bundle's graph that turn its heads into the labels' logits."""

    def __init__(self, model: onnx.ModelProto, bundle: Bundle, asked: Asked) -> None:
        self._graph = model.graph
        self._bundle = bundle
        self._asked = asked
        self._column = {head.name: n for n, head in enumerate(bundle.heads)}
        self._made = 0

    def write(self, labels: list[str]) -> None:
        """Let the graph find the judged tokens, and put out ``logits`` (batch, labels) alone."""
        graph = self._graph
        front = len(graph.node)
        self._judged()
        # Nodes have to stand before those that read them.
        first = [graph.node.pop() for _ in range(len(graph.node) - front)][::-1]
        rest = list(graph.node)
        del graph.node[:]
        graph.node.extend([*first, *rest])
        heads = self._heads()
        logs = self._scores(heads, labels)
        joined = self._node("Concat", *(logs[label] for label in labels), axis=1)
        sure = self._node("Min", joined, self._constant(SUREST))
        rest_of = self._node("Sub", self._constant(1.0), self._node("Exp", sure))
        graph.node.append(
            helper.make_node("Sub", [sure, self._node("Log", rest_of)], ["label_logits"])
        )
        del graph.output[:]
        shape = ["batch", len(labels)]
        graph.output.append(helper.make_tensor_value_info("label_logits", TensorProto.FLOAT, shape))
        self._rename()

    def _judged(self) -> None:
        """1 for the tokens of the second text where there are two, else for all but special ones.

        ``pair`` is (batch, 1).
        """
        shape = self._bundle.shape
        ids, types = "input_ids", "token_type_ids"
        kind = self._node("ReduceMax", types, self._ints([1]), keepdims=1)
        self.pair = self._node("Greater", kind, self._ints(0))
        special = self._node(
            "Or",
            self._node("Equal", ids, self._ints(shape.cls)),
            self._node("Equal", ids, self._ints(shape.sep)),
        )
        text = self._node("And", self._node("Equal", types, kind), self._node("Not", special))
        mask = self._node("Cast", text, to=TensorProto.INT64)
        self._graph.node.append(helper.make_node("Mul", [mask, "attention_mask"], ["judged"]))
        inputs = [i for i in self._graph.input if i.name != "judged"]
        del self._graph.input[:]
        self._graph.input.extend(inputs)

    def _heads(self) -> str:
        """Calibrated logits (batch, heads)."""
        raw = self._node("Cast", "logits", to=TensorProto.FLOAT)
        scales = self._floats([head.scale for head in self._bundle.heads])
        biases = self._floats([head.bias for head in self._bundle.heads])
        return self._node("Add", self._node("Mul", raw, scales), biases)

    def _scores(self, heads: str, labels: list[str]) -> dict[str, str]:
        """The logarithm of each label's score, (batch, 1)."""

        def logit(name: str) -> str:
            return self._node("Gather", heads, self._ints([self._column[name]]), axis=1)

        def head(name: str) -> str:
            # log sigmoid(x) = -softplus(-x)
            return self._node("Neg", self._node("Softplus", self._node("Neg", logit(name))))

        none = self._constant(NOT_ASKED)
        if self._asked == "text":
            unsafe, kept = head(TOXICITY), None
        else:
            unsafe = self._node("Where", self.pair, head("response"), head("prompt"))
            kept = self._not_declined(logit)
        # As tamis.deciding: a response is unsafe where what it says is and it does not decline.
        if kept is not None:
            unsafe = self._node("Add", unsafe, kept)
        found = {UNSAFE: unsafe}
        for label in labels[1:]:
            log = head(label)
            if label in (TOXICITY, ATTACK):
                log = self._node("Where", self.pair, none, log)
            elif label == REFUSAL:
                log = self._node("Where", self.pair, log, none)
            elif label == SEVERITY:
                if kept is not None:
                    log = self._node("Add", log, kept)
            else:
                log = self._node("Add", unsafe, log)
            found[label] = log
        return found

    def _not_declined(self, logit: Callable[[str], str]) -> str | None:
        """The logarithm of 1 - P(refusal) of a response, 0 of a prompt; None without the head."""
        if REFUSAL not in self._column:
            return None
        # log(1 - sigmoid(x)) = -softplus(x)
        rest = self._node("Neg", self._node("Softplus", logit(REFUSAL)))
        return self._node("Where", self.pair, rest, self._constant(0.0))

    def _rename(self) -> None:
        """The graph's own ``logits`` are its heads'; the labels' take that name."""
        for node in self._graph.node:
            for names in (node.input, node.output):
                for n, name in enumerate(names):
                    names[n] = {"logits": "head_logits", "label_logits": "logits"}.get(name, name)
        self._graph.output[0].name = "logits"

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self._made += 1
        name = f"label_{self._made}"
        self._graph.node.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, value: float) -> str:
        return self._tensor(np.array(value, dtype=np.float32))

    def _floats(self, values: list[float]) -> str:
        return self._tensor(np.array(values, dtype=np.float32))

    def _ints(self, values: int | list[int]) -> str:
        return self._tensor(np.array(values, dtype=np.int64))

    def _tensor(self, values: Any) -> str:
        self._made += 1
        name = f"label_constant_{self._made}"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _write_tokenizer(bundle: Bundle, out: Path) -> dict[str, int]:
    """Tokenizer files that put the markers where windows have them; ids for the configuration."""
    tokenizer = Tokenizer.from_file(str(bundle.tokenizer))
    cls, sep = (tokenizer.id_to_token(n) for n in (bundle.shape.cls, bundle.shape.sep))
    pad = next(t for t in ("[PAD]", "<pad>") if tokenizer.token_to_id(t) is not None)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, bundle.shape.cls), (sep, bundle.shape.sep)],
    )
    tokenizer.save(str(out / "tokenizer.json"))
    special = {"cls_token": cls, "sep_token": sep, "pad_token": pad}
    unknown = next((t for t in ("[UNK]", "<unk>") if tokenizer.token_to_id(t) is not None), None)
    if unknown:
        special["unk_token"] = unknown
    _write(out / "special_tokens_map.json", special)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": bundle.shape.max_tokens,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        # What a text says is text, also where it is written like a marker.
        "split_special_tokens": True,
        **special,
    }
    _write(out / "tokenizer_config.json", config)
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "pad_token_id": tokenizer.token_to_id(pad),
    }


def _thresholds(bundle: Bundle, labels: list[str], asked: Asked) -> dict[str, Any]:
    """Flag and block by label, for a text alone and, where one may be asked so, for a pair."""
    own = bundle.thresholds
    questions = {"text": TOXICITY} if asked == "text" else {"text": "prompt", "pair": "response"}
    return {
        given: {
            label: _plain(own[question if label == UNSAFE else label])
            for label in labels
            if given == "text" or label not in (TOXICITY, ATTACK)
        }
        for given, question in questions.items()
    }


def _plain(found: Thresholds) -> Mapping[str, Any]:
    return asdict(found)


def _card(bundle: Bundle, asked: Asked) -> str:
    what = "a plain text" if asked == "text" else "a prompt"
    pair = "" if asked == "text" else ", a pair (`text`, `text_pair`) as a prompt and its response"
    licence = str(bundle.manifest["licence"])
    tag = licence.lower() if licence == "Apache-2.0" else "other"
    return f"""---
license: {tag}
library_name: optimum
pipeline_tag: text-classification
---

Written by `tamis export huggingface` from `{bundle.name}@{bundle.fingerprint[:12]}`. A text is
judged as {what}{pair}. The sigmoid of a label's logit is the service's score; where to flag and
block stands in `thresholds.json`.

    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline
    model = ORTModelForSequenceClassification.from_pretrained(FOLDER)
    judge = pipeline("text-classification", model, tokenizer=AutoTokenizer.from_pretrained(FOLDER))
    judge("…", top_k=None, truncation=True)

What the service does besides: it reads texts of more than {bundle.shape.max_tokens} tokens whole,
in windows, where this folder's tokenizer truncates; of a response's prompt it keeps the first and
last {bundle.shape.context_tokens // 2} tokens; and it runs texts one at a time, since scores of a
dynamically quantised graph move a little with what else is in a batch.

"""


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
