"""How many tokens a text has, before anybody has tokenised it."""

from typing import Final

# First guess for English, which counts as so many characters do that were seen.
TOKENS_PER_CHARACTER: Final = 0.25
GUESSED: Final = 5_000
# Half of what was seen before counts as little as the last so many characters.
HALF: Final = 20_000
# No text counts as more. The rate is everybody's: 262,144 blanks made it 0.00001, after which long
# texts were let in among those that people wait for, and as many signs made it 1.
MOST: Final = 2_000
LEAST_RATE: Final = 0.05
MOST_RATE: Final = 1.0


class TokenRate:
    """Tokens of a character, learnt from the texts that were tokenised."""

    def __init__(self) -> None:
        self._characters = float(GUESSED)
        self._tokens = GUESSED * TOKENS_PER_CHARACTER

    @property
    def per_character(self) -> float:
        """Within what is likely of any script, whatever was sent lately."""
        return min(max(self._tokens / self._characters, LEAST_RATE), MOST_RATE)

    def tokens(self, characters: int) -> int:
        """Those of a text of so many characters."""
        return int(characters * self.per_character)

    def learn(self, characters: int, tokens: int) -> None:
        """A text had so many; one without tokens says nothing of others."""
        if not tokens:
            return
        share = min(1.0, MOST / characters)
        fade = 0.5 ** (share * characters / HALF)
        self._characters = fade * self._characters + share * characters
        self._tokens = fade * self._tokens + share * tokens
