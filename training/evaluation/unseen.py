"""Sets to choose a permissive model by: training rows that it may not learn from.

    python -m training.evaluation.unseen DATA/train OUT

Non-commercial sources that hold both labels say how a model does on texts of other origins, without
a look at the evaluation sets. One file for each source and target, at most ``MOST`` rows, evenly
drawn: many files hold one label after the other.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Final

from training.datasets.mixing import FREE
from training.datasets.registry import answers_overall
from training.datasets.schema import data_files, read_pairs, write_lines

MOST: Final = 1000
FEWEST: Final = 30


def write(data: Path, out: Path) -> dict[str, int]:
    """Write the sets; returns their sizes by name."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in data_files(data):
        for line, row in read_pairs(path):
            if row.licence not in FREE and answers_overall(row):
                found[f"{row.source}.{row.target}"].append((row.label, line))
    out.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for name, rows in sorted(found.items()):
        unsafe = sum(label for label, _ in rows)
        if min(unsafe, len(rows) - unsafe) >= FEWEST:
            sizes[name] = size = min(len(rows), MOST)
            evenly = (rows[n * len(rows) // size][1] for n in range(size))
            write_lines(out / f"{name}.jsonl.gz", evenly)
    return sizes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(write(arguments.data, arguments.out), indent=2))
