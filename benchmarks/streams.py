"""What a stream saves: windows and tokens run, sent as a stream and as whole texts.

    python -m benchmarks.streams

Counts, not times: they are the same on every machine.
"""

import random
import time

from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

WORDS = (
    "garden",
    "many",
    "paths",
    "each",
    "of",
    "small",
    "bench",
    "people",
    "drink",
    "tea",
    "rain",
)
# Characters of the text, and of what is added before it is sent again.
CASES = ((409, 15), (2_000, 15), (8_000, 30))


def text(length: int) -> str:
    """Random words."""
    draw = random.Random(length)
    return " ".join(draw.choice(WORDS) for _ in range(length))[:length]


def main() -> None:
    """Print a row for each case."""
    with TestClient(create_app(Settings(cache_bytes=0, feedback="", max_wait_ms=60_000))) as client:
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.1)
        for length, step in CASES:
            whole = text(length)
            sent = [whole[:n] for n in range(step, length, step)] + [whole]
            windows = tokens = run = cost = 0
            for part in sent:
                item = {"prompt": "Tell me of it.", "response": part}
                body = {"input": item, "judge": ["response"]}
                alone = client.post("/moderate", json=body).json()
                windows, tokens = windows + alone["windows"], tokens + alone["tokens"]
                body = {"text": part, "prompt": "Tell me of it.", "final": part == whole}
                told = client.post(f"/moderate/stream/{length}", json=body).json()
                run, cost = run + told["run"]["windows"], cost + told["run"]["tokens"]
            assert told["fields"] == alone["fields"]
            figures = (length, len(sent), windows, tokens, run, cost)
            print(f"| {' | '.join(f'{n:,}' for n in figures)} |")


if __name__ == "__main__":
    main()
