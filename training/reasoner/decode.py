"""What a reasoner says of texts under one policy: read off (``scored``) or written (``generated``).

``scored`` needs one forward pass and no decoding: the two labels and every category of the policy
hang as twigs on each text's branch, and their probabilities are compared. ``generated`` decodes
greedily, as served; it alone can be malformed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from transformers import DynamicCache

from tamis.reasoner.protocol import (
    END,
    Answer,
    Fault,
    Format,
    Guideline,
    MalformedError,
    Pieces,
    case,
    check_reason,
    given,
    parse,
    prefix,
)
from training.reasoner import model as models
from training.reasoner.examples import Example
from training.reasoner.packing import ROOT, Coder, Tree, collate

MOST_TOKENS: Final = 96
# Texts decoded together: on two cores more gain little, and the longest makes all others wait.
BATCH: Final = 24
SCORED_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of one text; ``answer`` is None where it does not parse."""

    answer: Answer | None
    fault: Fault | None = None
    words: int = 0
    unsafe: float | None = None
    """P(unsafe), where it was scored."""
    text: str = ""
    rules: Mapping[str, float] | None = None
    """P(breaks the rule) of every rule by name, of a policy encoder."""


def scored(model: Any, coder: Coder, form: Format, examples: Sequence[Example]) -> list[Said]:
    """Verdicts of texts under one policy, without reasons.

    Raises:
        ValueError: where the verdict comes behind the reason and cannot be read off.
    """
    if form.order != "verdict-first":
        raise ValueError("a verdict behind its reason cannot be scored, only generated")
    policy = examples[0].policy
    said: list[Said] = []
    for chunk in _chunks(coder, form, examples):
        said += _score(model, coder, form, policy, chunk)
    return said


def _chunks(coder: Coder, form: Format, examples: Sequence[Example]) -> Iterator[list[Example]]:
    policy = examples[0].policy
    root = len(coder.ids(prefix(policy, form)))
    twigs = sum(len(coder.text(name)) + 1 for name, _ in policy) + 12
    chunk: list[Example] = []
    size = root
    for example in examples:
        more = len(coder.ids(case(example.content))) + twigs
        if chunk and size + more > SCORED_TOKENS:
            yield chunk
            chunk, size = [], root
        chunk.append(example)
        size += more
    yield chunk


@torch.inference_mode()
def _score(
    model: Any, coder: Coder, form: Format, policy: Sequence[Guideline], chunk: Sequence[Example]
) -> list[Said]:
    tree = Tree()
    root = tree.add(ROOT, coder.ids(prefix(policy, form)))
    before: list[int] = []  # of each token to be predicted, the place it is predicted from
    at: list[int] = []
    owners: list[tuple[int, int]] = []  # (text, candidate): 0 safe, 1 unsafe, 2… categories

    def twig(parent: int, end: int, ids: Sequence[int], owner: tuple[int, int] | None) -> int:
        start = len(tree)
        number = tree.add(parent, ids)
        if owner is not None:
            before.extend([end, *range(start, start + len(ids) - 1)])
            at.extend(range(start, start + len(ids)))
            owners.extend([owner] * len(ids))
        return number

    closing = coder.text("}")
    for n, example in enumerate(chunk):
        question = [*coder.ids(case(example.content)), *coder.text("\\safety{")]
        branch = twig(root, 0, question, None)
        end = len(tree) - 1
        twig(branch, end, coder.text("safe"), (n, 0))
        unsafe = twig(branch, end, coder.text("unsafe"), (n, 1))
        after = len(tree) - 1
        opening = twig(unsafe, after, coder.text("}\\category{"), None)
        end = len(tree) - 1
        for k, (name, _) in enumerate(policy):
            twig(opening, end, [*coder.text(name), *closing], (n, 2 + k))
    batch = collate([tree])
    states = models.hidden_states(model, batch)
    on = states.device
    likelihood = models.log_probabilities(
        model,
        states,
        torch.tensor(before, device=on),
        torch.tensor([tree.ids[i] for i in at], device=on),
    )
    total = np.zeros((len(chunk), 2 + len(policy)))
    np.add.at(total, tuple(np.array(owners).T), likelihood.cpu().numpy())
    said = []
    for safe, unsafe_, *categories in total.tolist():
        p = 1 / (1 + float(np.exp(min(safe - unsafe_, 50))))
        best = policy[int(np.argmax(categories))].name
        answer = Answer("unsafe", best, "") if p > 0.5 else Answer("safe", None, "")
        said.append(Said(answer, unsafe=p))
    return said


def generated(
    model: Any,
    coder: Coder,
    form: Format,
    examples: Sequence[Example],
    most_tokens: int = MOST_TOKENS,
) -> list[Said]:
    """Answers written greedily to texts under one policy; its keys and values are computed once."""
    order = sorted(range(len(examples)), key=lambda n: len(examples[n].content.text))
    texts: dict[int, tuple[str, bool]] = {}
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        found = write(model, coder, form, [examples[n] for n in chosen], most_tokens)
        texts |= zip(chosen, found, strict=True)
    return [heard(example, *texts[n], form) for n, example in enumerate(examples)]


def asked(example: Example, form: Format) -> Pieces:
    """What stands between the policy and what is written: the text, and the verdict if given."""
    told = given(example.answer, form) if example.given else ()
    return (*case(example.content), *told)


def heard(example: Example, text: str, finished: bool, form: Format) -> Said:
    """What a generation says of an example: an answer, or the reason of a verdict that was given.

    One that was cut off is malformed, as in serving.
    """
    if not example.given:
        return read(text, finished, [name for name, _ in example.policy], form)
    words = len(text.split())
    try:
        if not finished:
            raise MalformedError("layout")
        told = example.answer
        return Said(Answer(told.safety, told.category, check_reason(text)), None, words, text=text)
    except MalformedError as error:
        return Said(None, error.fault, words, text=text)


def read(text: str, finished: bool, names: Sequence[str], form: Format) -> Said:
    """What a generation says; one that was cut off is malformed, as in serving."""
    words = len(text.split())
    try:
        if not finished:
            raise MalformedError("layout")
        return Said(parse(text, names, form), words=words, text=text)
    except MalformedError as error:
        return Said(None, error.fault, words, text=text)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How freely answers are written; the default is greedy, as in serving.

    The paper's rollouts are drawn at 0.7 within the likeliest 0.8. Its repetition penalty of 1.2 is
    left out: it would fine every word that a reason quotes.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def choose(self, logits: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        """Next tokens (B,) from logits (B, V)."""
        if not self.temperature:
            return logits.argmax(dim=1)
        chances = (logits.float() / self.temperature).softmax(dim=1)
        if self.top_p < 1:
            ranked, order = chances.sort(dim=1, descending=True)
            ranked[ranked.cumsum(1) - ranked >= self.top_p] = 0
            chances = torch.zeros_like(chances).scatter(1, order, ranked)
        return torch.multinomial(chances, 1, generator=draws)[:, 0]


def write(
    model: Any,
    coder: Coder,
    form: Format,
    examples: Sequence[Example],
    most_tokens: int,
    sampling: Sampling | None = None,
) -> list[tuple[str, bool]]:
    """(text, finished) for texts under one policy."""
    found = write_ids(model, coder, form, examples, most_tokens, sampling or Sampling())
    return [(coder.decode(ids), finished) for ids, finished in found]


@torch.inference_mode()
def write_ids(
    model: Any,
    coder: Coder,
    form: Format,
    examples: Sequence[Example],
    most_tokens: int,
    sampling: Sampling,
) -> list[tuple[list[int], bool]]:
    """(ids without the end of the turn, finished) for texts under one policy."""
    on = next(model.parameters()).device
    stop = coder.control[END]
    draws = torch.Generator(device=on).manual_seed(sampling.seed)
    root = torch.tensor([coder.ids(prefix(examples[0].policy, form))], device=on)
    cache = DynamicCache()
    model(input_ids=root, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(examples))

    questions = [coder.ids(asked(example, form)) for example in examples]
    width = max(map(len, questions))
    ids = torch.full((len(questions), width), stop, device=on)
    seen = torch.zeros((len(questions), root.shape[1] + width), dtype=torch.long, device=on)
    seen[:, : root.shape[1]] = 1
    for row, question in enumerate(questions):
        # Padded on the left, so that every answer begins at the same place.
        ids[row, width - len(question) :] = torch.tensor(question, device=on)
        seen[row, root.shape[1] + width - len(question) :] = 1
    positions = (seen.cumsum(1) - 1)[:, root.shape[1] :]

    written: list[list[int]] = [[] for _ in examples]
    unfinished = set(range(len(examples)))
    for _ in range(most_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = sampling.choose(logits, draws)
        for row in sorted(unfinished):
            token = int(chosen[row])
            if token == stop:
                unfinished.discard(row)
            else:
                written[row].append(token)
        if not unfinished:
            break
        ids = chosen[:, None]
        seen = torch.cat([seen, seen.new_ones((len(examples), 1))], dim=1)
        positions = positions[:, -1:] + 1
    return [(found, row not in unfinished) for row, found in enumerate(written)]
