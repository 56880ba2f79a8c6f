"""Sets to choose a permissive model by: training rows that it may not learn from.

    python -m training.evaluation.unseen DATA/train OUT

Non-commercial sources that hold both labels say how a model does on texts of other origins, without
a look at the evaluation sets. One file for each source and target, at most ``MOST`` rows.
"""

import argparse
import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Final

from training.datasets.mixing import FREE
from training.datasets.registry import QUESTION_OF, source_of
from training.datasets.schema import Row, data_files, parse_row, read_lines

MOST: Final = 1000
FEWEST: Final = 30


def write(data: Path, out: Path) -> dict[str, int]:
    """Write the sets; returns their sizes by name."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path in data_files(data):
        for number, line in enumerate(read_lines(path), 1):
            row = parse_row(line, f"{path.name} line {number}")
            if row.licence not in FREE and _answers(row):
                found[f"{row.source}.{row.target}"].append((row.label, line))
    out.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for name, rows in sorted(found.items()):
        unsafe = sum(label for label, _ in rows)
        if min(unsafe, len(rows) - unsafe) >= FEWEST:
            sizes[name] = min(len(rows), MOST)
            with gzip.open(out / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
                stream.writelines(line + "\n" for _, line in rows[:MOST])
    return sizes


def _answers(row: Row) -> bool:
    return QUESTION_OF[row.target] in source_of(row).labels_of(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(write(arguments.data, arguments.out), indent=2))
