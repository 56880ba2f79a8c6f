"""A flame graph as a still picture: what calls what, as wide as the CPU that it takes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from benchmarks.profile.stages import STAGES, Frame, stage_of

WIDTH: Final = 1200
ROW: Final = 17
MARGIN: Final = 10
# Characters of 11 pixels in a monospaced font.
LETTER: Final = 6.7
# Narrower boxes are not drawn: nobody sees them.
NARROWEST: Final = 0.7
COLOURS: Final = dict(
    zip(
        STAGES,
        (
            *("#c9c4bb", "#e3b98f", "#d98880", "#e6a57e", "#8fc1a9", "#73b3c7"),
            *("#b9a3d6", "#cdb7e8", "#a8c686", "#f2cf66", "#8fa8d6", "#d69bbd"),
            *("#c6a58a", "#c28f6a", "#d8d2a8", "#9fb8ad", "#d5d5d5"),
        ),
        strict=True,
    )
)


@dataclass(slots=True)
class Box:
    """A function as it is called from the one below it."""

    name: str
    stage: str
    weight: float = 0.0
    above: dict[tuple[str, str], "Box"] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """Rows, its own included."""
        return 1 + max((box.height for box in self.above.values()), default=0)


def tree(stacks: Iterable[tuple[str, Sequence[Frame], float]]) -> Box:
    """All stacks in one: each with its thread's name, its frames from the outermost, its weight."""
    root = Box("all", STAGES[-1])
    for thread, frames, weight in stacks:
        root.weight += weight
        box = root
        for n, frame in enumerate((Frame(thread, ""), *frames)):
            stage = stage_of(frames[:n])
            key = frame.function, frame.file
            box = box.above.setdefault(key, Box(frame.function, stage))
            box.weight += weight
    return root


def picture(root: Box, title: str) -> str:
    """An SVG. Colours are stages; widths are shares of the whole."""
    boxes = list(_drawn(root, MARGIN, (WIDTH - 2 * MARGIN) / root.weight, 0)) if root.weight else []
    rows = 1 + max((level for *_, level in boxes), default=0)
    named = [stage for stage in STAGES if any(box.stage == stage for box, *_ in boxes)]
    height = (rows + 4) * ROW + 2 * MARGIN
    bottom = height - MARGIN - ROW
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fdfcf9"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 11}" font-size="13">{escape(title)}</text>',
        *_legend(named),
    ]
    for box, x, width, level in boxes:
        y = bottom - level * ROW
        share = box.weight / root.weight
        out.append(
            f'<g><title>{escape(box.name)}: {share:.1%}</title><rect x="{x:.1f}" y="{y}" '
            f'width="{width:.1f}" height="{ROW - 1}" fill="{COLOURS[box.stage]}"/>'
        )
        if (letters := int((width - 4) / LETTER)) >= 3:
            said = escape(_cut(box.name, letters))
            out.append(f'<text x="{x + 2:.1f}" y="{y + 12}">{said}</text>')
        out.append("</g>")
    return "\n".join([*out, "</svg>"]) + "\n"


def _legend(stages: Sequence[str]) -> Iterator[str]:
    x, y = MARGIN, MARGIN + ROW + 4
    for stage in stages:
        width = round(len(stage) * LETTER) + 24
        if x + width > WIDTH:
            x, y = MARGIN, y + ROW
        yield f'<rect x="{x}" y="{y}" width="10" height="10" fill="{COLOURS[stage]}"/>'
        yield f'<text x="{x + 14}" y="{y + 9}">{escape(stage)}</text>'
        x += width


def _drawn(box: Box, x: float, scale: float, level: int) -> Iterator[tuple[Box, float, float, int]]:
    yield box, x, box.weight * scale, level
    for above in sorted(box.above.values(), key=lambda one: one.name):
        if above.weight * scale >= NARROWEST:
            yield from _drawn(above, x, scale, level + 1)
        x += above.weight * scale


def _cut(name: str, letters: int) -> str:
    """A name in so many letters: its end says most."""
    short = name if len(name) <= letters else name.rpartition(".")[2]
    return short if len(short) <= letters else f"{short[: letters - 1]}…"
