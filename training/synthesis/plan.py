"""What each synthetic row is to be: a pure function of the seed and the row's number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.synthesis import prompts
from training.synthesis.answers import going_along, refusal
from training.synthesis.filters import Candidate
from training.synthesis.generator import Written
from training.synthesis.prompts import Prompt, Task
from training.synthesis.seeds import TIERS, Leaf, Seeds, Tier
from training.synthesis.templates import Message, compose, pick

# How often a model is asked for each. A small one does best at going on with a list, worst at
# rewriting (lab log); a list gives several texts.
TASKS: Final[tuple[Task, ...]] = ("rewrite", "variants", "variants", "background")
# All that a generator tuned on `prompts.request` is asked for.
TUNED: Final[tuple[Task, ...]] = ("request",)
SHOWN: Final = 3

# Tasks whose texts must still ask for what the message asks for, in words of their own.
REWORDING: Final = frozenset({"rewrite", "variants", "request"})


@dataclass(frozen=True, slots=True)
class Item:
    """One row to be made, or one prompt to be written to."""

    leaf: Leaf
    tier: Tier
    message: Message
    response: str | None = None
    label: int | None = None
    """Of the response, where there is one; a request has its leaf's."""
    task: Task | None = None
    prompt: Prompt | None = None

    def candidates(self, written: Written | None) -> list[Candidate]:
        """The texts that come of it; ``written`` is what the model wrote, where there is one."""
        if written is None:
            text, context = self.message.text, ""
            if self.response is not None:
                text, context = self.response, text
            return [Candidate(self.leaf, text, self.message.phrase, context=context)]
        context = ""
        if self.task == "variants":
            texts = prompts.listed(written.text, SHOWN + 1, written.finished)
        elif self.task == "background":
            told = prompts.tidy(written.text, written.finished)
            texts = [f"{self.message.persona}. {told} {self.message.text}"] if told else [""]
        else:
            texts = [prompts.tidy(written.text, written.finished)]
            context = self.message.text if self.task == "answer" else ""
        seed_text = self.message.text if self.task in REWORDING else None
        return [
            Candidate(self.leaf, text, self.message.phrase, seed_text, True, context)
            for text in texts or [""]
        ]


class Planner:
    """Draws items: labels evenly, leaves by the number of tiers they may be made on."""

    def __init__(
        self,
        seeds: Seeds,
        seed: int,
        responses: float,
        model: bool,
        tasks: Sequence[Task] = TASKS,
    ) -> None:
        leaves = [leaf for leaf in seeds.leaves if leaf.generator or not model]
        self._seeds, self._seed, self._tasks = seeds, seed, tasks
        self._responses, self._model = responses, model
        self._groups = {
            label: _weighted([leaf for leaf in leaves if leaf.label == label]) for label in (0, 1)
        }

    def item(self, number: int) -> Item:
        """The item of a number, whatever was drawn before."""
        rng = np.random.default_rng([self._seed, number])
        leaves, chances = self._groups[int(rng.random() < 0.5)]
        leaf = leaves[int(rng.choice(len(leaves), p=chances))]
        tier = pick(leaf.tiers, rng)
        asked = leaf.target == "prompt" and (leaf.label == 1 or leaf.kind in ("do", "write"))
        if asked and rng.random() < self._responses:
            return self._response(leaf, tier, rng)
        if not self._model:
            return Item(leaf, tier, compose(self._seeds, leaf, tier, rng))
        return self._written(leaf, tier, rng)

    def _response(self, leaf: Leaf, tier: Tier, rng: np.random.Generator) -> Item:
        message = compose(self._seeds, leaf, tier, rng)
        if leaf.label == 0 and self._model:
            return Item(
                leaf, tier, message, label=0, task="answer", prompt=prompts.answer(message.text)
            )
        # Half of the harmful requests are gone along with, where there are words for it.
        could = leaf.kind in ("do", "write") and leaf.generator
        refused = leaf.label == 1 and not (could and rng.random() < 0.5)
        make = refusal if refused else going_along
        answer = make(leaf.kind, message.phrase, rng)
        return Item(leaf, tier, message, response=answer, label=leaf.label and int(not refused))

    def _written(self, leaf: Leaf, tier: Tier, rng: np.random.Generator) -> Item:
        task = pick(self._tasks, rng)
        if task == "request":
            message = compose(self._seeds, leaf, "plain", rng, register="plain")
            form = pick(prompts.FORMS, rng)
            prompt = prompts.request(leaf.label, leaf.category, message.phrase, form)
            return Item(leaf, "plain", message, task=task, prompt=prompt)
        if leaf.kind == "say" or leaf.target == "text":
            task = "rewrite"
        if task == "variants":
            # All of one phrase: the same draws for its slots, other wordings.
            slots = int(rng.integers(2**32))
            shown = [
                compose(self._seeds, leaf, "plain", rng, slots=slots, register="plain")
                for _ in range(SHOWN)
            ]
            prompt = prompts.variants([message.text for message in shown])
            return Item(leaf, "plain", shown[0], task=task, prompt=prompt)
        if task == "background":
            # What a model tells of a person leaves the disguise, if there is one, as it is.
            kept: Tier = "disguised" if tier == "disguised" else "plain"
            message = compose(self._seeds, leaf, kept, rng, register="plain")
            named: Tier = "disguised" if tier == "disguised" else "contextual"
            return Item(leaf, named, message, task=task, prompt=prompts.background(message.persona))
        message = compose(self._seeds, leaf, "plain", rng, register="plain")
        return Item(leaf, tier, message, task=task, prompt=prompts.rewrite(message.text, tier))


def _weighted(leaves: Sequence[Leaf]) -> tuple[Sequence[Leaf], np.ndarray]:
    weights = np.array([len(leaf.tiers) / len(TIERS) for leaf in leaves])
    return leaves, weights / max(weights.sum(), 1e-9)
