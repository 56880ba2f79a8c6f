"""TextAttack's recipes on texts: JSON in, JSON out. Run by the library's own environment.

Those that need a model of a hub (named entities, embeddings, translation) are left out.
"""

import json
import random
import sys
from pathlib import Path
from typing import Final

from textattack.augmentation import recipes

# Of the words of a text: more is another text.
SHARE: Final = 0.2
RECIPES: Final = {
    "WordNet synonyms": recipes.WordNetAugmenter,
    "WordNet synonyms inserted": recipes.SynonymInsertionAugmenter,
    "words deleted": recipes.DeletionAugmenter,
    "words swapped": recipes.SwapAugmenter,
    "easy data augmentation": recipes.EasyDataAugmenter,
    "characters swapped": recipes.CharSwapAugmenter,
}


def main() -> None:
    """Write a text for each text, by recipe."""
    texts = json.load(sys.stdin)
    written = {}
    for name, recipe in RECIPES.items():
        change = recipe(pct_words_to_swap=SHARE, transformations_per_example=1)
        written[name] = []
        for n, text in enumerate(texts):
            # Whatever was drawn for another text does not change this one.
            random.seed(n)
            written[name].append(next(iter(change.augment(text)), text))
    with Path(sys.argv[1]).open("w", encoding="utf-8") as out:
        json.dump(written, out)


if __name__ == "__main__":
    main()
