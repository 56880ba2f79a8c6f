"""Texts to send: harmless words, as long as real prompts are.

    python -m benchmarks.traffic --record eval/toxicchat_test.jsonl.gz

records the token lengths of a set's prompts as 500 quantiles in ``lengths.json``; no text is kept.
Everything else in this folder draws its traffic from there.
"""

import argparse
import gzip
import json
import random
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from service.engine.classifier import Feed
from tamis import bundle as bundles

LENGTHS: Final = Path(__file__).with_name("lengths.json")
QUANTILES: Final = 500
# Each is one token in the vocabulary of BERT.
WORDS: Final = (
    *("the", "garden", "was", "calm", "and", "we", "had", "some", "tea", "with", "a", "friend"),
    *("who", "likes", "to", "read", "old", "books", "about", "music", "water", "trees", "houses"),
    *("rivers", "summer", "winter", "bread", "cheese", "stories", "travel", "history", "science"),
)


def lengths() -> list[int]:
    """The recorded distribution, in tokens without special ones."""
    recorded: list[int] = json.loads(LENGTHS.read_text())["tokens"]
    return recorded


def text(tokens: int, chance: random.Random) -> str:
    """A text of exactly so many tokens; two draws are practically never equal."""
    return " ".join(chance.choices(WORDS, k=tokens))


def texts(count: int, seed: int, longest: int = 10**9) -> list[tuple[str, int]]:
    """Texts with their token counts, lengths drawn from the recorded distribution."""
    chance = random.Random(seed)
    drawn = chance.choices([n for n in lengths() if n <= longest], k=count)
    return [(text(n, chance), n) for n in drawn]


def feed(tokens: int, batch: int = 1, words: int = 20_000, seed: int = 0) -> Feed:
    """The graph's inputs for windows of random words, without padding."""
    ones = np.ones((batch, tokens), dtype=np.int64)
    ids = np.random.default_rng(seed).integers(0, words, (batch, tokens))
    return {"input_ids": ids, "attention_mask": ones, "token_type_ids": 0 * ones, "judged": ones}


def record(source: Path) -> None:
    """Write ``lengths.json`` from the prompts of a data file."""
    tokenizer = Tokenizer.from_file(str(bundles.load(bundles.default_bundle()).tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with gzip.open(source, "rt", encoding="utf-8") as stream:
        prompts = [json.loads(line)["prompt"] for line in stream]
    counts = sorted(
        len(e.ids) for e in tokenizer.encode_batch_fast(prompts, add_special_tokens=False)
    )
    at = [round((n + 0.5) / QUANTILES * len(counts) - 0.5) for n in range(QUANTILES)]
    about = f"token lengths of {len(counts):,} prompts of {source.name}, as {QUANTILES} quantiles"
    tokens = [max(1, counts[i]) for i in at]
    LENGTHS.write_text(json.dumps({"about": about, "tokens": tokens}) + "\n")
    print(f"{about}: mean {sum(tokens) / QUANTILES:.1f}, median {tokens[QUANTILES // 2]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE")
    record(parser.parse_args().record)
