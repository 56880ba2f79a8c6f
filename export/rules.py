"""Policy encoder's checkpoint → bundle folder: int8 graphs, tokenizer, manifest, parity, card."""

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
from export.bundle import (
    CALIBRATION_ROWS,
    GRAPH,
    TABLES,
    TOKENIZER,
    check_place,
    licence_of,
    save_graph,
)
from export.graph import halves_to_onnx, to_onnx
from export.products import session
from export.quantize import best_int8
from tamis import rules
from tamis.building import replacing
from tamis.bundle import MANIFEST, head_of, sha256_of
from tamis.windows import Window
from training.classifier import calibration
from training.reasoner.policies import Library
from training.rules import forms
from training.rules.data import Data, held_out_trials
from training.rules.drawing import Mixture, draw
from training.rules.forms import Parts, feed_of
from training.rules.hints import Hinted, no_hints
from training.rules.judge import Checkpoint, Halves, Judge, alone, graph_run
from training.rules.split import SplitEncoder
from training.rules.trainer import Recipe
from training.rules.trials import Trial

# Texts under all rules of their policy: some eight pairs each.
PARITY_TEXTS: Final = 200
# That the fp32 graphs are the model shows on a few.
TRACED_TEXTS: Final = 25
HALVES: Final = ("states", "joint")

Graphs = list[onnx.ModelProto]
Errors = dict[str, Any]


def build(
    checkpoint: Path,
    data: Sequence[Path],
    policies: Sequence[Path],
    out: Path,
    name: str,
    given: Library | None = None,
    hinted: Hinted = no_hints,
) -> dict[str, Any]:
    """Write the bundle, all at once, and return its parity report.

    ``data``, ``policies`` and ``hinted`` as in training; raises as ``export.bundle.build``.
    """
    check_place(out)
    made = Checkpoint(checkpoint, torch.device("cpu"))
    training = made.training
    questions = calibration.read(checkpoint)
    recipe = Recipe(**training["recipe"])
    found = Data.read(data, policies, recipe.variant, recipe.seed, given)

    rng = np.random.default_rng(recipe.seed)
    judge = made.judge(fast=False, hinted=hinted)
    drawn = islice(draw(Mixture(found.train), recipe.seed + 1), CALIBRATION_ROWS)
    pairs = [_one_of(judge, item.content, item.rules, rng) for item in drawn]
    fp32, int8, errors = (_halves if recipe.split else _whole)(made, pairs)

    asked = held_out_trials(found, recipe.seed)
    sample = [asked[n] for n in rng.permutation(len(asked))[:PARITY_TEXTS]]
    report = _parity(made, {"fp32": fp32, "int8": int8}, sample, questions, hinted)
    report["smoothing"] = errors

    names = [GRAPH.format("int8")] if len(int8) == 1 else [f"{part}.int8.onnx" for part in HALVES]
    with replacing(out) as new:
        save_graph(int8[0], new, names[0])
        graphs: dict[str, Any] = {"graph": names[0]}
        kind = rules.KIND
        if recipe.split:
            kind, layers = rules.SPLIT, made.model.encoder.config.num_hidden_layers
            # Its products are read whole and packed anew: there is nothing to map.
            onnx.save(int8[1], new / names[1])
            graphs |= {"joint": names[1], "split": recipe.split, "layers": layers}
        shutil.copyfile(checkpoint / TOKENIZER, new / TOKENIZER)
        manifest = {
            "format": rules.FORMAT,
            "kind": kind,
            "name": name,
            "licence": licence_of(training),
            "base": training["base"],
            **graphs,
            "tokenizer": TOKENIZER,
            "pairs": asdict(made.shape),
            "questions": questions,
            "training": training,
            "parity": report,
            "files": {file: sha256_of(new / file) for file in (*names, TABLES, TOKENIZER)},
        }
        (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (new / "README.md").write_text(card(manifest), encoding="utf-8")
    return report


def _one_of(judge: Judge, content: Any, policy: Sequence[Any], rng: np.random.Generator) -> Any:
    """One pair of a text."""
    return judge.pairs(content, policy)[int(rng.integers(len(policy)))][0]


def _whole(made: Checkpoint, pairs: Sequence[Window]) -> tuple[Graphs, Graphs, Errors]:
    """A cross-encoder's graph, its int8 form, and the errors by smoothing strength."""
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "fp32.onnx"
        to_onnx(made.model, path, made.shape.max_tokens, rules.INPUTS, (rules.OUTPUT,))
        fp32 = onnx.load(path)
    # A pair alone, as CPU serving runs it: no padding.
    int8, errors = best_int8(fp32, [feed_of([pair], step=1) for pair in pairs])
    return [fp32], [int8], _rounded(errors)


def _halves(made: Checkpoint, pairs: Sequence[Parts]) -> tuple[Graphs, Graphs, Errors]:
    """A split encoder's graphs, their int8 forms, and the errors by smoothing strength of each.

    The upper layers are quantised for what the lower ones say in int8.
    """
    model = made.model
    assert isinstance(model, SplitEncoder)
    with tempfile.TemporaryDirectory() as tmp:
        paths = [Path(tmp) / f"{part}.onnx" for part in HALVES]
        halves_to_onnx(model, paths[0], paths[1], made.shape)
        fp32 = [onnx.load(path) for path in paths]
    both = [
        part
        for pair in pairs
        for part in ((pair.rule, [0] * len(pair.rule)), (pair.text.ids, pair.text.types))
    ]
    typed = model.reader.typed
    lower, told = best_int8(fp32[0], [alone(ids, types, typed) for ids, types in both])
    run = Halves(session(lower), session(fp32[1]))
    upper, more = best_int8(fp32[1], [run.parts(pair) for pair in pairs])
    return fp32, [lower, upper], {"states": _rounded(told), "joint": _rounded(more)}


def _rounded(errors: Mapping[str, float]) -> dict[str, float]:
    return {strength: round(error, 5) for strength, error in errors.items()}


def _parity(
    made: Checkpoint,
    graphs: Mapping[str, Graphs],
    trials: Sequence[Trial],
    questions: Sequence[Mapping[str, Any]],
    hinted: Hinted,
) -> dict[str, Any]:
    """Every pair of some texts, through the trained model and both graphs."""
    names = list(rules.QUESTIONS)
    heads = {head.name: head for head in map(head_of, questions)}
    raised = {raw["name"]: raw["by_verdict"] for raw in questions}

    def shift(trial: Trial) -> float:
        """What the classifier's verdict is worth, in logits."""
        by_verdict = raised[trial.question]
        return rules.shift_of(by_verdict, hinted(trial.content)) / heads[trial.question].scale

    judges = {"torch": made.judge(fast=False, hinted=hinted)}
    for name, found in graphs.items():
        sessions = [session(graph) for graph in found]
        judges[name] = (
            Judge(made.ids, made.shape, graph_run(sessions[0]), hinted=hinted)
            if len(sessions) == 1
            else Judge(made.ids, made.shape, Halves(*sessions), forms.HALVES, hinted)
        )
    asked = [names.index(trial.question) for trial in trials for _ in trial.rules]
    logits = {}
    for name, judge in judges.items():
        few = trials[:TRACED_TEXTS] if name == "torch" else trials
        said = judge.logits([(trial.content, trial.rules) for trial in few])
        said = [z + shift(trial) for z, trial in zip(said, few, strict=True)]
        logits[name] = np.repeat(np.concatenate(said)[:, None], len(names), axis=1)
    told = [heads[name] for name in names]
    return {
        f"{one} to {other}": dict(parity.compare(logits[one], logits[other], told, asked).as_json())
        for one, other in (("torch", "fp32"), ("fp32", "int8"))
    }


def card(manifest: Mapping[str, Any]) -> str:
    """The model card, Markdown for ``README.md``, from the manifest so that it cannot drift."""
    training, shape = manifest["training"], manifest["pairs"]
    recipe, base = training["recipe"], manifest["base"]
    written = training["organisations"]
    graphs = ", ".join(
        f"`{file}` sha256 `{manifest['files'][file][:12]}`"
        for file in (manifest["graph"], manifest.get("joint"))
        if file
    )
    read = WHOLE
    if "split" in manifest:
        read = SPLIT.format(split=manifest["split"], layers=manifest["layers"])
    hints = f"what `{recipe['hints']}` says" if recipe.get("hints") else "none"
    start = f"body of checkpoint `{recipe['init']}`" if recipe["init"] else "base as pretrained"
    return "\n".join(
        [
            f"# {manifest['name']}\n",
            read,
            "Written by `tamis export rules` from `manifest.json`; what it is worth is in",
            "`docs/reasoner.md`.\n",
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
            f"| hints | {hints} |",
            f"| graph | {graphs}, int8 |\n",
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


WHOLE: Final = """A policy encoder: it reads one rule of a policy beside one text and says how
likely the text breaks that rule."""
SPLIT: Final = """A split policy encoder: {split} of its {layers} layers read a rule alone, once a
policy, and a text alone, once a request; the others read both and say how likely the text breaks
that rule."""
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
