"""Other sources of reasons than templates: an endpoint, or the reasoner itself, with rejection.

The paper's cold start keeps of a large model's traces those with the right format and the right
labels. Here the right answer is given and only the reason is written, or, where the reasoner writes
by itself, the whole answer has to be right (rejection sampling).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from training.reasoner import decode
from training.reasoner.decode import Sampling
from training.reasoner.examples import (
    Example,
    Explain,
    is_sound,
    read_examples,
    write_examples,
)
from training.reasoner.model import form_of, load_reasoner
from training.reasoner.reasons import MOST_WORDS, check
from training.synthesis.generator import EndpointGenerator, GeneratorError
from training.synthesis.generator import Sampling as Writing
from training.synthesis.prompts import Prompt

TRIES: Final = 4
ASKED: Final = (
    "You explain moderation decisions. Answer with one sentence of at most 30 words that quotes "
    "the deciding words of the text in “ ” and names the clause of the policy that they meet, or "
    "says that no listed category covers them. Repeat nothing else."
)


def writer_of(url: str, model: str | None, fallback: Explain, seed: int) -> Explain:
    """Reasons from an endpoint that speaks OpenAI's chat contract; templates where one is unsound.

    Texts leave the machine for that endpoint, and for no other.

    Raises:
        GeneratorError: without a model's name, or where the endpoint fails.
    """
    if not model:
        raise GeneratorError("an endpoint needs the name of its model (--model)")
    generator = EndpointGenerator(url, model, Writing(max_new_tokens=96, temperature=0.7))

    def explain(examples: Sequence[Example]) -> list[str]:
        written = generator.write([_prompt(example) for example in examples], seed)
        made = [" ".join(w.text.split()) for w in written]
        sound = [
            reason if is_sound(replace(example, reason=reason), MOST_WORDS) else ""
            for example, reason in zip(examples, made, strict=True)
        ]
        missing = [n for n, reason in enumerate(sound) if not reason]
        spare = fallback([examples[n] for n in missing]) if missing else []
        for n, reason in zip(missing, spare, strict=True):
            sound[n] = reason
        return sound

    return explain


def _prompt(example: Example) -> Prompt:
    policy = "\n".join(
        f"- {name}: {text}" if text else f"- {name}" for name, text in example.policy
    )
    said = f"unsafe, category {example.category}" if example.category else "safe"
    context = f"User: {example.content.context}\n" if example.content.context else ""
    text = f"{context}Text: {example.content.text}"
    asked = f"Policy:\n{policy}\n\n{text}\n\nDecision: {said}"
    return Prompt((("system", ASKED), ("user", asked)))


def self_explained(
    data: Path,
    adapter: Path,
    out: Path,
    count: int,
    base: str,
    seed: int = 0,
    given: bool = False,
) -> dict[str, Any]:
    """Write ``out``: examples whose reason the reasoner wrote itself, in right and sound answers.

    Up to ``count`` examples, drawn by ``seed``, are tried ``TRIES`` times each; the first answer
    with the right labels and a sound reason (``reasons.py``) is kept. ``given``: all are told their
    verdict, and write the reason alone. Returns counts.
    """
    model, coder = load_reasoner(base, adapter)
    form = form_of(adapter)
    by_view: dict[str, list[Example]] = defaultdict(list)
    examples = read_examples(data)
    # A file's first ones are of its first policies alone.
    drawn = np.random.default_rng(seed).permutation(len(examples))[:count]
    for example in (examples[n] for n in sorted(drawn)):
        told = replace(example, given=example.given or given)
        by_view[example.view].append(told)
    kept: dict[str, list[Example]] = {}
    tried = 0
    for view, members in tqdm(by_view.items(), desc="self-generation", unit="policy"):
        tried += len(members)
        waiting = members
        for attempt in range(TRIES):
            if not waiting:
                break
            sampling = Sampling(temperature=0.7, top_p=0.8, seed=seed + attempt)
            found = decode.write(model, coder, form, waiting, decode.MOST_TOKENS, sampling)
            left = []
            for example, (text, finished) in zip(waiting, found, strict=True):
                said = decode.heard(example, text, finished, form)
                if _is_right(example, said):
                    assert said.answer is not None
                    made = replace(example, reason=said.answer.reason)
                    kept.setdefault(view, []).append(made)
                else:
                    left.append(example)
            waiting = left
    write_examples(out, kept.values())
    return {"tried": tried, "kept": sum(map(len, kept.values()))}


def _is_right(example: Example, said: decode.Said) -> bool:
    if said.answer is None or said.answer.category != example.category:
        return False
    return check(said.answer.reason, example).sound
