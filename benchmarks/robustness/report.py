"""Put what was measured into ``docs/robustness.md``.

python -m benchmarks.robustness.report
"""

import json
from pathlib import Path
from typing import Final

from benchmarks.record import RESULTS, render

PAGE: Final = Path(__file__).parents[2] / "docs" / "robustness.md"


# The results that are shown, in this order.
SHOWN: Final = ("conversations", "robustness")


def main() -> None:
    """Replace the measured part of the page."""
    parts = [render(json.loads((RESULTS / f"{name}.json").read_text())) for name in SHOWN]
    title = parts[0].splitlines()[0]
    written = PAGE.read_text().partition(f"\n{title}\n")[0]
    PAGE.write_text("\n".join([written, *parts]))


if __name__ == "__main__":
    main()
