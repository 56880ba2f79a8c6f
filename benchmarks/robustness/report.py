"""Put what was measured into ``docs/robustness.md``.

python -m benchmarks.robustness.report
"""

import json
from pathlib import Path
from typing import Final

from benchmarks.record import RESULTS, render

PAGE: Final = Path(__file__).parents[2] / "docs" / "robustness.md"


def main() -> None:
    """Replace the measured part of the page."""
    measured = render(json.loads((RESULTS / "robustness.json").read_text()))
    title = measured.splitlines()[0]
    written = PAGE.read_text().partition(title)[0]
    PAGE.write_text(written + measured)


if __name__ == "__main__":
    main()
