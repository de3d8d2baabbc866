"""Make the images of docs/explorer.md, and measure the explorer: a click until the painted frame.

    python scripts/make_explorer_images.py

It starts a server with the embedded model and opens its page in headless Chromium (Playwright, from
the test dependencies). The images are states of the page, given by their addresses.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ldmref

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))
from threaded_server import serve_in_thread  # noqa: E402

RUN = "#view=explore&p.prompt=a+red+cat&p.seed=3"
IMAGES = {
    "explorer": f"{RUN}&p.steps=12&step=4&word=cat&truth=1",
    "explorer-branch": f"{RUN}&step=7&show=1&with=0&compare.from=4&compare.prompt=a+blue+dog",
}
HEIGHTS = {"explorer": 2600, "explorer-branch": 2050}  # of the images, in pixels
SIZE = {"width": 1200, "height": 900}
READY = """
() => document.querySelector("canvas[data-kind=decoded]")
  && !document.querySelector(".ex-strips progress")
  && document.querySelectorAll("canvas[data-kind=linear]").length === 0
  && !(location.hash.includes("truth=1") && !document.querySelector(".ex-truth li"))
"""
CLICKS = """
async () => {
  const cells = [...document.querySelectorAll(".ex-strips tr.shown [role=gridcell]")];
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const times = [];
  for (let i = 0; i < 100; i += 1) {
    await painted();
    const start = performance.now();
    cells[(7 * i) % cells.length].click();
    await painted();
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b);
}
"""


def main() -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    models = {"emoji": ldmref.load("emoji", backend="numpy")}
    with serve_in_thread(models) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, state in IMAGES.items():
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(f"{server.url}/{state}")
            page.wait_for_function(READY, timeout=300_000)
            clip = {"x": 0, "y": 0, "width": SIZE["width"], "height": HEIGHTS[name]}
            page.screenshot(path=OUT / f"{name}.png", full_page=True, clip=clip)
            times = page.evaluate(CLICKS)
            print(
                f"{name}: a click until the painted frame, 100 clicks: median {times[50]:.0f} ms, "
                f"95 of 100 within {times[94]:.0f} ms, all within {times[-1]:.0f} ms"
            )
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
