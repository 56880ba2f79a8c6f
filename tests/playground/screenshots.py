"""The pictures of docs/playground.md: ``python -m tests.playground.screenshots``.

They look as the fonts of the machine do; the committed ones were made with Debian's fonts-inter,
fonts-jetbrains-mono and fonts-noto-color-emoji.
"""

import itertools
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.playground.browser import FLAGS, chromium, serving

IMAGES = Path(__file__).parents[2] / "docs" / "images"
# Something for the charts to show.
SECONDS = 100.0
TEXTS = ("What is a good soup?", "The garden was calm. " * 20, "Honk, said the goose. " * 60)
SHOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "playground-light": ("an insult", {"viewport": {"width": 1280, "height": 1080}}),
    "playground-dark": ("an override", {"viewport": {"width": 1280, "height": 1080}}),
    "playground-phone": (
        "a refusal",
        {"viewport": {"width": 390, "height": 1560}, "is_mobile": True, "has_touch": True},
    ),
}


def main() -> int:
    """Write every picture; 1 where one is too heavy for a repository."""
    if (path := chromium()) is None:
        print("no Chromium", file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    # Without a cache, so that equal texts are work each time.
    with serving() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        stop = threading.Event()
        traffic = threading.Thread(target=_traffic, args=(address, stop))
        traffic.start()
        pages = {}
        for name, (example, options) in SHOTS.items():
            scheme = "dark" if name.endswith("dark") else "light"
            context = browser.new_context(
                **options, color_scheme=scheme, device_scale_factor=1.25, reduced_motion="reduce"
            )
            pages[name] = context.new_page()
            pages[name].goto(address)
            pages[name].get_by_role("button", name=example).click()
            pages[name].locator(".headline").wait_for()
            if scheme == "dark":
                pages[name].locator("#edit").click()
        pages["playground-light"].wait_for_timeout(SECONDS * 1e3)
        stop.set()
        traffic.join()
        for name, page in pages.items():
            page.mouse.move(0, 0)
            page.screenshot(path=IMAGES / f"{name}.png")
        browser.close()
    sizes = {name: (IMAGES / f"{name}.png").stat().st_size for name in SHOTS}
    print(json.dumps(sizes, indent=2))
    return int(max(sizes.values()) > 300_000)


def _traffic(address: str, stop: threading.Event) -> None:
    """A caller who asks in waves, now and then something that is refused."""
    dice = random.Random(1)
    for n in itertools.count():
        if stop.is_set():
            return
        body: dict[str, Any] = {"input": dice.choices(TEXTS, (8, 3, 1))[0]}
        if dice.random() < 0.02:
            body["policy"] = "nope"
        request = urllib.request.Request(f"{address}moderate", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=10):
                pass
        except urllib.error.HTTPError as error:
            error.close()
        wave = 1 + 0.8 * ((n // 150) % 3)
        time.sleep(dice.expovariate(20 * wave))


if __name__ == "__main__":
    sys.exit(main())
