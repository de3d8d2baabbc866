"""Measure how often the page draws while one types, with drafts that take long, in Chromium.

    python scripts/measure_drafts.py                   # drafts of 500 ms, 100, 200 and 300 ms a key
    python scripts/measure_drafts.py --draft 350 --load 2

A tiny model with random weights and its flow map are served; each request of the map takes
`--draft` milliseconds of the server's worker, as on a slow machine, and is stopped within 10 ms by
a cancellation. A sentence is typed, and each picture that appears is noted, until half a second
after the last letter plus two drafts: the intervals are those from the first letter to the first
picture, and from one picture to the next up to the last letter. `--load N` lets N processes compute
meanwhile. `scripts/measure_typing.py` measures how soon each word is there, with a model as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "page"), str(ROOT / "tests")]

from conftest import find_chromium, write_tiny  # noqa: E402
from small_models import save_map  # noqa: E402
from threaded_server import serve_in_thread  # noqa: E402

import ldmref  # noqa: E402
from ldmref.apps.server.jobs import JobReport  # noqa: E402

TEXT = "a small yellow rabbit beside two big"  # 36 keys
MAP = "map"
ALLOWED = 800  # milliseconds from one picture to the next
WATCH = """
window.pictures = [];
window.letters = [];
document.addEventListener("input", () => window.letters.push(performance.now()), true);
document.addEventListener("load", ({target}) => {
  const text = target.alt?.match(/^Draft: (.*)/)?.[1];
  if (text && target.closest(".stage")) window.pictures.push([text, performance.now()]);
}, true);
"""


class Typed(NamedTuple):
    """What was seen while a sentence was typed: milliseconds, and how many pictures came."""

    longest: float  # from the first letter or a picture to the next picture or the last letter
    median: float
    pictures: int
    seconds: float  # of typing
    behind: float | None  # from the last letter to the picture of the whole sentence


def slow_down(seconds: float) -> None:
    """Let every job of the map take some seconds more, in which it can be cancelled."""
    publish = JobReport.progress

    def progress(report: JobReport, step: int, *arguments: Any, **options: Any) -> None:
        publish(report, step, *arguments, **options)
        end = time.monotonic() + seconds
        while report.job.model == MAP and step == 1 and time.monotonic() < end:
            if report.job.cancelled.wait(0.01):
                return

    JobReport.progress = progress  # type: ignore[method-assign]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a tiny model and its map; yield the address."""
    write_tiny(folder / "tiny")
    tiny = ldmref.load(folder / "tiny", backend="numpy")
    save_map(folder / MAP, tiny)
    with serve_in_thread({"tiny": tiny, MAP: ldmref.load(folder / MAP, backend="numpy")}) as server:
        yield server.url


def compute() -> None:
    """Take the time of a processor."""
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def loaded(count: int) -> Iterator[None]:
    """Let some processes compute."""
    processes = [multiprocessing.Process(target=compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def type_text(page: Any, interval: float, draft: float) -> Typed:
    """Type the sentence with a pause between two keys, and return what was seen."""
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("")
    page.wait_for_timeout(1500 + 2 * draft)
    page.evaluate("() => { window.letters.length = 0; window.pictures.length = 0; }")
    prompt.press_sequentially(TEXT, delay=interval)
    page.wait_for_timeout(500 + 2 * draft)
    letters, pictures = page.evaluate("() => [window.letters, window.pictures]")
    first, last = letters[0], letters[-1]
    times = [first, *(at for _, at in pictures if at < last), last]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    whole = next((at - last for text, at in pictures if text == TEXT), None)
    count = len(times) - 2
    return Typed(max(gaps), statistics.median(gaps), count, (last - first) / 1000, whole)


def main() -> None:
    """Print a line for each speed of typing; end with 1 if a picture came too late."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draft", type=float, default=500.0, help="ms of a draft on the server")
    parser.add_argument("--interval", type=float, action="append", help="ms between keys")
    parser.add_argument("--load", type=int, default=0, help="processes that compute meanwhile")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    slow_down(args.draft / 1000)
    late = False
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as url,
        loaded(args.load),
        sync_playwright() as playwright,
    ):
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(WATCH)
        page.goto(url)
        for interval in args.interval or (100.0, 200.0, 300.0):
            typed = type_text(page, interval, args.draft)
            late = late or typed.longest > ALLOWED
            behind = "never" if typed.behind is None else f"{typed.behind:.0f} ms later"
            print(
                f"{interval:.0f} ms a key, drafts of {args.draft:.0f} ms: {typed.pictures} pictures"
                f" in {typed.seconds:.1f} s of typing; longest interval {typed.longest:.0f} ms, "
                f"median {typed.median:.0f} ms; the whole sentence {behind}; "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        browser.close()
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
