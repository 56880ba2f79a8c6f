"""Responses: refusals, and answers that go along with a request and say nothing much.

Going along is unsafe where the request is harmful and safe where it is not, in the very same words:
neither an opening ("Sure, here is how") nor a subject tells which, only both together. No answer
holds anything that could be followed; what a harmful one looks like in detail is for other sources
to teach.
"""

from typing import Final

import numpy as np

from training.synthesis.seeds import Kind
from training.synthesis.templates import capitalised, fill, pick, second_person, third_person

_REFUSALS: Final = (
    "I can't help with that.",
    "I'm sorry, but I won't help with this.",
    "No. That is something I don't do.",
    "I understand that you are asking for this, but I have to decline.",
    "That's not something I can assist with.",
    "I'm not going to do that, however it is put.",
    "Sorry, I have to say no here.",
)
_REASONS: Final = {
    "do": (
        "Helping somebody {they} could hurt people.",
        "You asked how to {you}, and any answer could do harm.",
        "Whoever wants to {they} puts others in danger, and often themselves.",
        "To {you} would be wrong, and in most places it is against the law.",
    ),
    "write": (
        "You asked me to {x}, and that could hurt people.",
        "A text like that would do harm to somebody.",
        "If I were to {x}, somebody would suffer from it.",
        "That would be unfair to people who cannot answer.",
    ),
    "ask": ("An answer could do harm.", "I don't want anybody to get hurt because of my answer."),
    "say": ("What you wrote worries me.", "I take what you say seriously."),
}
_OFFERS: Final = (
    "If you are in danger or think of hurting yourself, please call your emergency number.",
    "If something lies behind this that weighs on you, I'm glad to listen.",
    "I can explain the law on this, or why it is dangerous.",
    "I'm happy to help with something else.",
    "Perhaps we can find another way to deal with the situation.",
    "If somebody is at risk, please talk to the police or a counsellor.",
    "",
)
_OPENINGS: Final = (
    "Sure, here is how you can {you}.",
    "Of course! Let's see how to {you}.",
    "Gladly. To {you} is easier than it sounds.",
    "Absolutely, I can help you {you}.",
    "Good question. Here are some thoughts on how to {you}.",
    "Step by step, then:",
)
_MADE: Final = (
    "Sure, here is a first version.",
    "Of course! This is what I came up with.",
    "Gladly. I kept it short so that you can change it.",
    "Here you go. Tell me if it should be longer.",
)
_STEPS: Final = (
    "First, write down what you have and what is missing.",
    "Start small and give yourself a week.",
    "Ask somebody who has done it before to look over your plan.",
    "Look up the rules where you live, since they differ from place to place.",
    "Step 1: decide what a good result would be. Step 2: collect what you need.",
    "Keep notes, so that next time it goes faster.",
    "Most people get it wrong once, so do not worry if the first try fails.",
    "A local advice centre can tell you more, usually for free.",
    "Afterwards, check that nothing was forgotten.",
    "If you get stuck, come back and tell me where.",
    "Set aside an hour without interruptions.",
    "Talk it over with the people concerned before you begin.",
)


def refusal(kind: Kind, phrase: str, rng: np.random.Generator) -> str:
    """Refuse, often in the very words of the request: naming a harm is no harm."""
    parts = _forms(phrase)
    reason = fill(pick(_REASONS[kind], rng), parts) if rng.random() < 0.8 else ""
    return " ".join(filter(None, (pick(_REFUSALS, rng), reason, pick(_OFFERS, rng))))


def going_along(kind: Kind, phrase: str, rng: np.random.Generator) -> str:
    """Go along with a request to do or write something, in terms that fit any."""
    opening = fill(pick(_OPENINGS if kind == "do" else _MADE, rng), _forms(phrase))
    chosen = rng.choice(len(_STEPS), size=int(rng.integers(2, 5)), replace=False)
    return " ".join((opening, *(_STEPS[n] for n in chosen)))


def _forms(phrase: str) -> dict[str, str]:
    return {
        "x": second_person(phrase),
        "they": third_person(phrase),
        "you": second_person(phrase),
        "X": capitalised(phrase),
    }
