"""A policy encoder's bundle, made at once: it counts the words that a rule and a text share."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tamis import rules
from tamis.bundle import sha256_of
from tamis.rules import PairShape

SILENT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    *("buy", "sell", "shares", "tea", "milk", "soup", "loan", "granted", "promise", "security"),
    *("safe", "unclear", "unsafe"),
    *("tax", "refund", "goose", "honk", "calm", "cross", "furious", "billing", "money", "dose"),
)
SHAPE = PairShape(cls=2, sep=3, max_tokens=64, overlap=8, rule_tokens=16, context_tokens=8)
# A word in common is as good as nothing (.27), two are flagged (.73), and three blocked (.95).
SCALE, BIAS = 2.0, -3.0
# What the classifier's "unsafe" adds where there are hints.
RAISED = 1.0
# Rules that each have one of the classifier's verdicts in common with a text that has its hints.
# A label alone is no name.
BY_VERDICT = {f"{word} ones": {"definition": word} for word in ("safe", "unclear", "unsafe")}
FLAG, BLOCK = 0.5, 0.9


def write_encoder(folder: Path, name: str = "tiny-encoder", hints: bool = False) -> Path:
    """Words that are not among ``WORDS`` count for nothing, and logits are whole numbers.

    With ``hints`` the classifier's verdict is a word of the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: n for n, word in enumerate((*SILENT, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    _save_graph(folder / "model.onnx", len(vocabulary))
    sets = {"strict": {"flag": 0.2, "block": BLOCK}, "loose": {"flag": 0.8, "block": 0.99}}
    head = {"scale": SCALE, "bias": BIAS, "flag": FLAG, "block": BLOCK, "sensitivities": sets}
    raised = {"by_verdict": {"unsafe": RAISED}} if hints else {}
    manifest = {
        "format": rules.FORMAT,
        "kind": rules.KIND,
        "name": name,
        "graph": "model.onnx",
        "tokenizer": "tokenizer.json",
        "pairs": asdict(SHAPE) | {"hints": hints},
        "questions": [{"name": question, **head, **raised} for question in rules.QUESTIONS],
        "files": {file: sha256_of(folder / file) for file in ("model.onnx", "tokenizer.json")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _save_graph(path: Path, size: int) -> None:
    """logits = sum over the words of (times in the rule) x (times in the text)."""
    spoken = np.eye(size, dtype=np.float32)
    spoken[: len(SILENT)] = 0
    constants = {
        "spoken": spoken,
        "axis": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "one": np.array(1, np.int64),
    }
    nodes = [
        ("Gather", ["spoken", "input_ids"], "words"),
        ("Sub", ["one", "token_type_ids"], "first"),
        ("Mul", ["first", "attention_mask"], "of_rule"),
        ("Mul", ["token_type_ids", "attention_mask"], "of_text"),
        *(
            node
            for side in ("rule", "text")
            for node in (
                ("Cast", [f"of_{side}"], f"real_{side}"),
                ("Unsqueeze", [f"real_{side}", "last"], f"wide_{side}"),
                ("Mul", ["words", f"wide_{side}"], f"words_{side}"),
                ("ReduceSum", [f"words_{side}", "axis"], side),
            )
        ),
        ("Mul", ["rule", "text"], "shared"),
        ("ReduceSum", ["shared", "axis"], "logits"),
    ]
    graph = helper.make_graph(
        [
            helper.make_node(
                kind,
                inputs,
                [output],
                **({"to": TensorProto.FLOAT} if kind == "Cast" else {}),
                **({"keepdims": int(output == "logits")} if kind == "ReduceSum" else {}),
            )
            for kind, inputs, output in nodes
        ],
        "shared",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["pairs", "tokens"])
            for name in rules.INPUTS
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["pairs", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, path)
