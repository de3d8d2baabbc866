"""Make the animation of README.md: the view Explore on its ready run, and on words that are typed.

    python scripts/make_readme_animation.py                # writes docs/images/explorer.webp
    python scripts/make_readme_animation.py --stills DIR   # and some of its frames as PNG

It starts a server with the embedded model and opens its page in headless Chromium (Playwright, from
the test dependencies; fonts-noto-color-emoji shows the emoji). Every frame is the page as it is;
each step waits until its images are decoded, so that the animation runs evenly.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

import ldmref

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "images" / "explorer.webp"
sys.path[:0] = [str(ROOT / "tests" / "page"), str(ROOT / "tests")]

from conftest import find_chromium  # noqa: E402
from threaded_server import serve_in_thread  # noqa: E402

SIZE = {"width": 960, "height": 840}
PROMPT = "two blue dogs on yellow"
SEED = "7"
MOST_BYTES = 3_000_000
STEP, LETTER, PREVIEW, REST = 115, 55, 110, 1200  # shares of the time, one frame each
LENGTH = 10_000  # milliseconds of all
# Nothing is undecoded that will be decoded, and the browser has painted.
DECODED = """
(step) => {
  const explorer = document.querySelector(".explorer");
  return explorer.dataset.step === String(step)
    && document.querySelector("canvas[data-kind=decoded]")
    && !document.querySelector("canvas[data-kind=linear]");
}
"""


class Frame(NamedTuple):
    """A picture of the page, and its share of the time."""

    image: Image.Image
    share: int


def shoot(page: Any, share: int) -> Frame:
    """Return the page as a frame."""
    return Frame(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), share)


def film(page: Any, url: str) -> Iterator[Frame]:
    """Yield the frames: the ready run, words that are typed, and the run of these words."""
    page.goto(f"{url}/#view=explore&step=0")
    page.locator(".ex-strips canvas").first.wait_for()
    page.evaluate("document.activeElement.blur()")
    yield from walk(page)
    intro = page.locator(".ex-intro")
    intro.get_by_text("Settings, or a record file").click()
    intro.get_by_label("Seed").fill(SEED)
    intro.get_by_text("Settings, or a record file").click()
    field = intro.get_by_label("Prompt", exact=True)
    field.click()
    page.evaluate("scrollTo(0, 0)")
    yield shoot(page, 300)
    for letter in PROMPT:
        field.press_sequentially(letter)
        yield shoot(page, LETTER)
    field.press("Enter")
    page.locator(".ex-waiting").wait_for()
    while page.locator(".ex-waiting").count():
        yield shoot(page, PREVIEW)
    page.get_by_role("button", name="Pause").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Home")
    yield from walk(page)


def walk(page: Any) -> Iterator[Frame]:
    """Yield a frame for each step of the run that is shown, by the arrow key."""
    last = page.locator(".ex-strips tr").first.locator("[role=gridcell]").count() - 1
    for step in range(last + 1):
        page.wait_for_function(DECODED, arg=step, timeout=60_000)
        yield shoot(page, STEP if step < last else REST)
        page.keyboard.press("ArrowRight")


def join(frames: list[Frame]) -> list[Frame]:
    """Return the frames with equal neighbours as one, with the time of both."""
    joined: list[Frame] = []
    for frame in frames:
        if joined and joined[-1].image.tobytes() == frame.image.tobytes():
            before = joined.pop()
            frame = Frame(frame.image, before.share + frame.share)
        joined.append(frame)
    return joined


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stills", type=Path, metavar="DIR", help="also write every tenth frame")
    args = parser.parse_args()
    models = {"emoji": ldmref.load("emoji")}
    with serve_in_thread(models) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="no-preference")
        frames = join(list(film(page, server.url)))
        browser.close()
    first, *others = [frame.image for frame in frames]
    shares = [frame.share for frame in frames]
    times = [round(LENGTH * share / sum(shares)) for share in shares]
    first.save(
        OUT, append_images=others, save_all=True, duration=times, loop=0, quality=70, method=6
    )
    size = OUT.stat().st_size
    print(f"{OUT}: {len(frames)} frames, {sum(times) / 1000:.1f} s, {size:,} bytes")
    if args.stills:
        args.stills.mkdir(parents=True, exist_ok=True)
        for number in range(0, len(frames), 10):
            frames[number].image.save(args.stills / f"{number:03}.png")
    if size > MOST_BYTES:
        sys.exit(f"error: the animation must have at most {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
