"""Measure the first second of the page: from its address to a picture with a sentence that moves.

    python scripts/measure_page_load.py                          # starts `ldmref serve`
    python scripts/measure_page_load.py --url http://127.0.0.1:7860 --loads 7

Each load is made twice in headless Chromium: with an empty cache, and again. The medians are in
milliseconds after the page was asked for; `load` is the browser's event. Processor time that other
programs take counts as well, so compare two versions on one machine, in turn (two --url).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "page"), str(ROOT / "tests")]

from conftest import find_chromium  # noqa: E402

# The first picture that is one (more than 20 values of colour) with a sentence, then another one.
WATCH = """
let first = null;
const timer = setInterval(() => {
  const canvas = document.querySelector(".ex-story:not([hidden]) canvas");
  if (!canvas || canvas.width < 2 || !document.querySelector(".ex-sentence").textContent) return;
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  if (new Set(data).size < 20) return;
  if (first === null) {
    first = data.join();
    window.seen = performance.now();
  } else if (data.join() !== first) {
    clearInterval(timer);
    window.moved = performance.now();
  }
}, 5);
"""
READ = """
() => window.moved && ({
  load: performance.getEntriesByType("navigation")[0].loadEventEnd,
  seen: window.seen,
  moved: window.moved,
  requests: performance.getEntriesByType("resource").length,
})
"""


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Start `ldmref serve` on a free port, and yield its address."""
    command = [sys.executable, "-m", "ldmref", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        try:
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found, "the server did not start"
            yield found[0]
        finally:
            process.terminate()


def load(page: Any, url: str) -> dict[str, float]:
    """Open the explorer, wait until its picture has changed, and return the times."""
    page.goto("about:blank")
    page.goto(f"{url}/#view=explore")
    return page.wait_for_function(READ, timeout=60_000).json_value()


def measure(urls: list[str], loads: int) -> None:
    """Load the pages in turn, and print the medians."""
    from playwright.sync_api import sync_playwright

    times: dict[tuple[str, str], list[dict[str, float]]] = {}
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        for _ in range(loads):
            for url in urls:
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                context.add_init_script(WATCH)
                page = context.new_page()
                for cache in ("empty cache", "again"):
                    times.setdefault((url, cache), []).append(load(page, url))
                context.close()
        browser.close()
    for (url, cache), found in times.items():
        medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
        texts = [f"{name} {value:.0f}" for name, value in medians.items()]
        print(f"{url}, {cache}: {', '.join(texts)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", action="append", help="the address of a server that runs")
    parser.add_argument("--loads", type=int, default=7)
    args = parser.parse_args()
    if args.url:
        measure(args.url, args.loads)
        return
    with serving() as url:
        measure([url], args.loads)


if __name__ == "__main__":
    main()
