"""Policy encoder's checkpoint → bundle folder: int8 graph, tokenizer, manifest, parity, card."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch

from export import parity
from export.bundle import CALIBRATION_ROWS, GRAPH, TABLES, TOKENIZER, licence_of, save_graph
from export.graph import to_onnx
from export.products import session
from export.quantize import best_int8
from tamis import rules
from tamis.bundle import MANIFEST, Head, head_of, sha256_of
from training.classifier import calibration
from training.reasoner.policies import Library
from training.rules.data import Data, held_out_trials
from training.rules.drawing import Mixture, draw
from training.rules.forms import Feed, feed_of
from training.rules.judge import Checkpoint, Judge, Run, torch_run
from training.rules.trainer import Recipe
from training.rules.trials import Trial

# Texts under all rules of their policy: some eight pairs each.
PARITY_TEXTS: Final = 200


def build(
    checkpoint: Path,
    data: Sequence[Path],
    policies: Sequence[Path],
    out: Path,
    name: str,
    given: Library | None = None,
) -> dict[str, Any]:
    """Write the bundle and return its parity report; ``data`` and ``policies`` as in training."""
    made = Checkpoint(checkpoint, torch.device("cpu"))
    training = made.training
    questions = calibration.read(checkpoint)
    recipe = Recipe(**training["recipe"])
    found = Data.read(data, policies, recipe.variant, recipe.seed, given)

    rng = np.random.default_rng(recipe.seed)
    judge = made.judge(fast=False)
    drawn = islice(draw(Mixture(found.train), recipe.seed + 1), CALIBRATION_ROWS)
    feeds = [_one_of(judge, item.content, item.rules, rng) for item in drawn]
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "fp32.onnx"
        to_onnx(made.model, path, recipe.max_tokens, rules.INPUTS, (rules.OUTPUT,))
        fp32 = onnx.load(path)
    int8, errors = best_int8(fp32, feeds)

    asked = held_out_trials(found, recipe.seed)
    sample = [asked[n] for n in rng.permutation(len(asked))[:PARITY_TEXTS]]
    heads = {head.name: head for head in map(head_of, questions)}
    report = _parity(made, {"fp32": fp32, "int8": int8}, sample, heads)
    report["smoothing"] = {strength: round(error, 5) for strength, error in errors.items()}

    out.mkdir(parents=True, exist_ok=True)
    graph = GRAPH.format("int8")
    save_graph(int8, out, graph)
    shutil.copyfile(checkpoint / TOKENIZER, out / TOKENIZER)
    manifest = {
        "format": rules.FORMAT,
        "kind": rules.KIND,
        "name": name,
        "licence": licence_of(training),
        "base": training["base"],
        "graph": graph,
        "tokenizer": TOKENIZER,
        "pairs": asdict(made.shape),
        "questions": questions,
        "training": training,
        "parity": report,
        "files": {file: sha256_of(out / file) for file in (graph, TABLES, TOKENIZER)},
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(manifest), encoding="utf-8")
    return report


def _one_of(judge: Judge, content: Any, policy: Sequence[Any], rng: np.random.Generator) -> Feed:
    """One pair of a text alone, as CPU serving runs it: no padding."""
    windows = judge.pairs(content, policy)[int(rng.integers(len(policy)))]
    return feed_of(windows[:1], step=1)


def _parity(
    made: Checkpoint,
    graphs: Mapping[str, onnx.ModelProto],
    trials: Sequence[Trial],
    heads: Mapping[str, Head],
) -> dict[str, Any]:
    """Every pair of some texts, through the trained model and both graphs."""
    names = list(rules.QUESTIONS)
    runs: dict[str, Run] = {"torch": torch_run(made.model, fast=False)}
    for name, graph in graphs.items():
        runs[name] = _run_of(graph)
    asked = [names.index(trial.question) for trial in trials for _ in trial.rules]
    logits = {}
    for name, run in runs.items():
        judge = Judge(made.ids, made.shape, run)
        said = judge.logits([(trial.content, trial.rules) for trial in trials])
        logits[name] = np.repeat(np.concatenate(said)[:, None], len(names), axis=1)
    told = [heads[name] for name in names]
    return {
        f"{one} to {other}": dict(parity.compare(logits[one], logits[other], told, asked).as_json())
        for one, other in (("torch", "fp32"), ("fp32", "int8"))
    }


def _run_of(graph: onnx.ModelProto) -> Run:
    made = session(graph)
    return lambda feed: np.asarray(made.run([rules.OUTPUT], dict(feed))[0])


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, Markdown for ``README.md``, from the manifest so that it cannot drift."""
    training, shape = manifest["training"], manifest["pairs"]
    recipe, base = training["recipe"], manifest["base"]
    written = training["organisations"]
    start = f"body of checkpoint `{recipe['init']}`" if recipe["init"] else "base as pretrained"
    return "\n".join(
        [
            f"# {manifest['name']}\n",
            "A policy encoder: it reads one rule of a policy beside one text and says how likely",
            "the text breaks that rule. Written by `tamis export rules` from `manifest.json`; what",
            "it is worth is in `docs/reasoner.md`.\n",
            "| | |\n|---|---|",
            f"| licence | {manifest['licence']} |",
            f"| base | {base['name']} ({base['licence']}), sha256 "
            f"`{(base['sha256'] or 'unpinned')[:12]}`; {start} |",
            f"| data | {recipe['variant']} rows and written organisations: "
            f"{training['rows']['train']:,} texts; fingerprint `{training['data_sha256'][:12]}` |",
            f"| policies | {len(training['taxonomies'])} taxonomies and invented organisations, "
            f"{len(written['train'])} written ones; {len(written['dev'])} written ones calibrate |",
            f"| recipe | {training['steps']:,} steps of {recipe['batch_tokens']:,} tokens, seed "
            f"{recipe['seed']}, best at step {training['best']['step']:,}; "
            f"{training['seconds'] / 60:.0f} minutes on {training['device']} |",
            f"| pairs | {shape['max_tokens']} tokens: rules of at most {shape['rule_tokens']}, "
            f"what an answer answers of at most {shape['context_tokens']}, the text in windows "
            f"that overlap by {shape['overlap']} |",
            f"| graph | sha256 `{manifest['files'][manifest['graph']][:12]}`, int8 |\n",
            "## Questions\n",
            "Probabilities are of single rules; thresholds are of a policy: a text is flagged",
            "where its likeliest rule reaches `flag`. Figures are of rows and policies that were",
            "held out, half of their weight on organisations that were not trained on. `flag` aims",
            "at accuracy: false alarms count as much as what is missed. ECE is the expected",
            "calibration error of single rules before and after (cross-fitted) calibration.\n",
            "| question | texts | break a rule | flag | block | F1 | false alarms | strict "
            "| loose | ECE before | after |",
            "|---|" + "--:|" * 10,
            *(_question(raw) for raw in manifest["questions"]),
            "\n## Parity\n",
            "Differences of calibrated probabilities, and of decisions about single rules.\n",
            "| | pairs | mean | p99 | max | flips |",
            "|---|--:|--:|--:|--:|--:|",
            *(
                f"| {name} | {p['rows']} | {p['mean_difference']:.5f} | "
                f"{p['p99_difference']:.4f} | {p['max_difference']:.4f} | "
                f"{p['flips']} ({p['flip_rate']:.2%}) |"
                for name, p in manifest["parity"].items()
                if name != "smoothing"
            ),
            "",
            LIMITS,
        ]
    )


LIMITS: Final = """## What it cannot do

- It reads what a rule says, not what its author meant: write definitions, exceptions last.
- A rule that asks for knowledge (is this claim true? was the customer signed in?) is a guess.
- A rule by its name alone is judged by what the name usually means.
- English: what it says of other languages is a guess.
- Thresholds are of policies of some eight rules: more rules are more chances of a false alarm.
"""


def _question(raw: Mapping[str, Any]) -> str:
    sets = [raw["sensitivities"].get(name, raw)["flag"] for name in ("strict", "loose")]
    figures = [raw["flag"], raw["block"], raw["f1"], raw["alarms"], *sets]
    figures += [raw["ece_before"], raw["ece_after"]]
    cells = " | ".join(f"{figure:.3f}" for figure in figures)
    return f"| {raw['name']} | {raw['rows']} | {raw['positives']} | {cells} |"
