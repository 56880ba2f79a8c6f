"""How far a job is, on standard error: a bar for people, a line now and then for logs."""

import time
from contextlib import suppress
from typing import Any, Final, Self, TextIO

from tqdm import tqdm

from service.bulk.results import Counts

LINE_SECONDS: Final = 30.0
BAR: Final = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"
OPEN_BAR: Final = "{postfix} [{elapsed}]"


class Progress:
    """Rows, rows a second, what was flagged, and how long it will take.

    How much is left is read off the input's bytes: nobody counts rows beforehand.
    """

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._began = self._last = time.monotonic()
        self._earlier: int | None = None
        self._before = 0.0
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, message: str) -> None:
        """A line of its own; that nobody is there to read it stops no job."""
        if not self._quiet:
            # A terminal that was closed, a pipe whose reader left. Of its bars tqdm takes care.
            with suppress(OSError):
                self._clear()
                print(message, file=self._stream, flush=True)

    def update(self, counts: Counts, fraction: float | None) -> None:
        """Show where the job is; ``fraction`` of the input, where known."""
        if self._earlier is None:
            # Rows of an earlier run took no time in this one.
            self._earlier, self._before = counts.rows, fraction or 0.0
            self._began = self._last = time.monotonic()
        if self._quiet:
            return
        if self._stream.isatty():
            self._show(counts, fraction)
        elif time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            done = "" if fraction is None else f"{fraction:.0%}, {self._left(fraction)} left, "
            self.say(f"{done}{self._status(counts)}")

    def end(self, counts: Counts) -> None:
        """Say what came out."""
        if counts.rows > (counts.rows if self._earlier is None else self._earlier):
            self.say(f"{counts} ({self._rate(counts):.0f} rows/s)")
        else:
            self.say(f"{counts}; nothing was left to do")

    def _rate(self, counts: Counts) -> float:
        spent = max(time.monotonic() - self._began, 1e-9)
        return (counts.rows - (self._earlier or 0)) / spent

    def _status(self, counts: Counts) -> str:
        flagged = counts.flag + counts.block
        faulty = f", {counts.errors:,} faulty" if counts.errors else ""
        return f"{counts.rows:,} rows, {self._rate(counts):.0f}/s, {flagged:,} flagged{faulty}"

    def _left(self, fraction: float) -> str:
        done = fraction - self._before
        if done <= 0:
            return "?"
        spent = time.monotonic() - self._began
        return tqdm.format_interval(spent * (1 - fraction) / done)

    def _show(self, counts: Counts, fraction: float | None) -> None:
        bar = self._bar
        if bar is None:
            bar = self._bar = tqdm(
                total=None if fraction is None else 1.0,
                initial=self._before,
                file=self._stream,
                bar_format=OPEN_BAR if fraction is None else BAR,
                dynamic_ncols=True,
                smoothing=0,
            )
        bar.set_postfix_str(self._status(counts), refresh=False)
        bar.update((fraction or 0.0) - bar.n)

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.clear()
