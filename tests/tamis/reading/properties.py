"""What is promised of any text that is read, whoever thought of it."""

import time
from typing import Final

from tamis.reading import TRANSFORMS, language, read

# Instrumented and on a busy machine a character takes some 30 µs; quadratic texts take seconds.
SECONDS_A_CHARACTER: Final = 250e-6
LEAST_SECONDS: Final = 0.05
LONGEST: Final = 32_000


def check(text: str) -> None:
    """Read a text, and hold what was read to what is promised of it.

    Raises:
        AssertionError: where a promise is not kept.
    """
    reading = read(text)
    said = reading.views[-1]
    assert 1 <= len(reading.views) <= 2
    assert reading.views[0].text == text or len(reading.views) == 1
    assert set(reading.transforms) <= set(TRANSFORMS)
    assert len(said.text) <= 4 * len(text) + 1_000
    for at in range(0, len(said.text), 7):
        start, end = said.origin(at, min(at + 3, len(said.text)))
        assert 0 <= start < end <= len(text)
    for message in reading.hidden:
        assert 0 <= message.start < message.end <= len(text)
    assert language(said.text) in ("english", "foreign", "mixed")


def check_time(text: str) -> None:
    """Read a text, repeated to a long one as well, within time that is linear in its length.

    Raises:
        AssertionError: naming the length and the seconds.
    """
    for said in (text, (text * (LONGEST // max(len(text), 1)))[:LONGEST]):
        began = time.process_time()
        read(said)
        spent = time.process_time() - began
        assert spent < LEAST_SECONDS + SECONDS_A_CHARACTER * len(said), (
            f"{len(said)} characters took {spent:.2f} s"
        )
