"""Measure an embedded image on every backend: time to the first image, further images, difference.

    python scripts/measure_backends.py [--rounds 7] [--start-ups 3]

Every backend runs in its own process. The processes take turns, image by image, so a busy
machine slows all of them. Start-up is the time from the start of Python to the first finished
image, for backends with a cache on disk both with an empty and with a filled cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

BACKENDS = (
    ("numpy", "fast"),
    ("torch", "fast"),
    ("onnx", "fast"),
    ("openvino", "fast"),
    ("openvino", "fastest"),
)
WORKER = """
import sys, time
import numpy as np
import ldmref
from ldmref import modes
name, speed, path = sys.argv[1:]
model = ldmref.load(backend=name, speed=speed)
def image():
    return np.asarray(modes.txt2img(model, "a red heart", seed=0)[0])
np.save(path, image())
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    image()
    print(time.perf_counter() - start, flush=True)
"""


def start(name: str, speed: str, path: str, cache: str) -> tuple[subprocess.Popen, float]:
    """Start a process, and return it with the seconds to its first image."""
    environ = os.environ | {"XDG_CACHE_HOME": cache}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, name, speed, path],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{name} {speed} cannot run here")
    return process, time.perf_counter() - began


def stop(process: subprocess.Popen) -> None:
    """End a process that waits for its input."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def measure_start_ups(folder: str, count: int) -> dict[tuple[str, str], list[list[float]]]:
    """Return seconds to the first image, by backend: with an empty cache, with a filled one."""
    seconds: dict[tuple[str, str], list[list[float]]] = {row: [[], []] for row in BACKENDS}
    for i in range(count):
        for name, speed in BACKENDS:
            for kind in (0, 1):
                cache = f"{folder}/cache-{name}-{speed}-{i}"
                process, first = start(name, speed, f"{folder}/{name}-{speed}.npy", cache)
                stop(process)
                seconds[name, speed][kind].append(first)
    return seconds


def measure_images(folder: str, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return the seconds of further images, by backend; the processes take turns."""
    cache = f"{folder}/cache"
    running = {row: start(*row, f"{folder}/{row[0]}-{row[1]}.npy", cache)[0] for row in BACKENDS}
    seconds: dict[tuple[str, str], list[float]] = {row: [] for row in BACKENDS}
    for _ in range(rounds):
        for row, process in running.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[row].append(float(process.stdout.readline()))
    for process in running.values():
        stop(process)
    return seconds


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--start-ups", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = measure_start_ups(folder, options.start_ups)
        further = measure_images(folder, options.rounds)
        want = np.load(f"{folder}/numpy-fast.npy").astype(int)
        print("backend            first  first, cached   next: least  median  difference of 255")
        for name, speed in BACKENDS:
            empty, filled = (statistics.median(times) for times in first[name, speed])
            times = further[name, speed]
            got = np.load(f"{folder}/{name}-{speed}.npy").astype(int)
            row = f"{name} {speed}"
            print(
                f"{row:17}{empty:7.2f}{filled:15.2f}{min(times):14.3f}"
                f"{statistics.median(times):8.3f}{np.abs(got - want).max():19}"
            )


if __name__ == "__main__":
    main()
