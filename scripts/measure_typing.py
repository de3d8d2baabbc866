"""Measure how soon the page draws a word: from its last letter to the picture, in Chromium.

    python scripts/measure_typing.py --map runs/distill/model  # starts `ldmref serve`
    python scripts/measure_typing.py --map runs/distill/model --backend numpy --interval 120

Prompts are typed with a pause of `--interval` milliseconds between two keys, 200 of which make 60
words a minute. A word counts from the event of its last letter to the frame in which the draft of
the prompt up to it is shown; a word that a newer one replaced has no picture, and counts as late.
Processor time that other programs take counts as well, so the load average is printed, and the
processor time of the server: for starting, compiling, and all images.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "page"), str(ROOT / "tests")]

from conftest import find_chromium  # noqa: E402

PROMPTS = (
    "two blue dogs on yellow",
    "a green cat and a red apple",
    "a big orange heart under a small tree",
    "three purple birds",
    "a house with a black door",
    "one white rabbit and two brown bears",
)
ALLOWED = 150  # milliseconds from the last letter of a word to its picture
WATCH = """
window.letters = {};
window.pictures = {};
document.addEventListener("input", ({target, timeStamp}) => {
  const text = target.value.trim();
  if (text === target.value) window.letters[text] = timeStamp;
}, true);
document.addEventListener("load", ({target}) => {
  const text = target.alt?.match(/^Draft: (.*)/)?.[1];
  if (text) requestAnimationFrame((time) => (window.pictures[text] ??= performance.now()));
}, true);
"""


@contextlib.contextmanager
def serving(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """Start `ldmref serve` with both models on a free port; yield its address and process."""
    command = [sys.executable, "-m", "ldmref", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            found = next(filter(None, (re.search(r"http://\S+", line) for line in lines)), None)
            assert found, "the server did not start"
            yield found[0], process.pid
        finally:
            process.terminate()


class DrawnWord(NamedTuple):
    """A word, and the milliseconds from its last letter to the picture; None without one."""

    text: str
    time: float | None


def type_prompts(page: Any, interval: float) -> list[DrawnWord]:
    """Type all prompts, and return their words."""
    prompt = page.get_by_label("Prompt", exact=True)
    drawn = []
    for text in PROMPTS:
        page.evaluate("() => { window.letters = {}; window.pictures = {}; }")
        prompt.press_sequentially(text, delay=interval)
        page.wait_for_timeout(1000)
        letters, pictures = page.evaluate("() => [window.letters, window.pictures]")
        words = text.split()
        for end in range(1, len(words) + 1):
            so_far = " ".join(words[:end])
            shown = pictures.get(so_far)
            time = None if shown is None else shown - letters[so_far]
            drawn.append(DrawnWord(words[end - 1], time))
        page.get_by_role("button", name="Download", exact=True).wait_for()
        prompt.fill("")
    return drawn


def measure(url: str, interval: float, rounds: int) -> list[DrawnWord]:
    """Type the prompts some times, after one that is not measured."""
    from playwright.sync_api import sync_playwright

    drawn: list[DrawnWord] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(WATCH)
        page.goto(url)
        prompt = page.get_by_label("Prompt", exact=True)
        prompt.press_sequentially("a cat ")
        page.get_by_role("button", name="Download", exact=True).wait_for(timeout=60_000)
        prompt.fill("")
        for _ in range(rounds):
            drawn += type_prompts(page, interval)
        browser.close()
    return drawn


def processor_time(process: int) -> float:
    """Return the seconds that a process has computed so far (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe(drawn: list[DrawnWord]) -> str:
    """Return the share of words in time, quantiles of those that were drawn, and the late ones."""
    times = sorted(word.time for word in drawn if word.time is not None)
    if not times:
        return f"none of {len(drawn)} words has a picture"
    soon = sum(time <= ALLOWED for time in times)
    low, high = statistics.median(times), times[min(len(times) - 1, int(0.95 * len(times)))]
    late = Counter(word.text for word in drawn if word.time is None or word.time > ALLOWED)
    names = ", ".join(f"{word} {count}x" for word, count in late.most_common())
    return (
        f"{soon} of {len(drawn)} words ({100 * soon / len(drawn):.0f} %) within {ALLOWED} ms, "
        f"{len(drawn) - len(times)} without a picture; median {low:.0f} ms, 95 % {high:.0f} ms; "
        f"late: {names or 'none'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji", help="the model; default: emoji")
    parser.add_argument("--map", help="its flow map, if the server does not have it by itself")
    parser.add_argument("--backend", help="that of the server; default: the fastest installed")
    parser.add_argument("--interval", type=float, action="append", help="ms between keys")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    served = ["-m", args.model, "-m", args.map] if args.map else []
    served += ["--backend", args.backend] if args.backend else []
    with serving(served) as (url, process):
        for interval in args.interval or [200.0]:
            drawn = measure(url, interval, args.rounds)
            print(f"{interval:.0f} ms between keys: {describe(drawn)}")
            print(
                f"load {os.getloadavg()[0]:.1f}, {processor_time(process):.1f} s of the server",
                flush=True,
            )


if __name__ == "__main__":
    main()
