"""Draw many pictures in one process, and report how much its resident memory grows per picture.

    python scripts/soak.py --pictures 1000

The slope is that of a least-squares line through the second half of the run: the first half lets
caches fill. The exit code is 1 if it is above the bound.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from pathlib import Path

import numpy as np

import ldmref
from ldmref import modes

BOUND = 1024.0  # bytes per picture
VARIED = (
    {"sampler": "euler"}, {"sampler": "dpmpp_2m"}, {"sampler": "euler_a", "rng": "torch"},
    {"negative_prompt": "dog"}, {"cfg_scale": 1.0}, {"schedule": "karras", "sampler": "heun"},
)  # fmt: skip


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def soak(pictures: int) -> tuple[float, np.ndarray]:
    """Bytes per picture, and the resident memory after each picture."""
    model = ldmref.random_model("tiny", backend="numpy")
    sizes = np.empty(pictures)
    for i in range(pictures):
        modes.txt2img(model, f"cat {i}", seed=i, steps=2, **VARIED[i % len(VARIED)])
        gc.collect()
        sizes[i] = resident()
    half = np.arange(pictures // 2, pictures)
    return float(np.polyfit(half, sizes[half], 1)[0]), sizes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    pictures = parser.parse_args().pictures
    start = time.monotonic()
    slope, sizes = soak(pictures)
    print(
        f"{pictures} pictures in {time.monotonic() - start:.0f} s: resident memory from "
        f"{sizes[0] / 2**20:.1f} to {sizes[-1] / 2**20:.1f} MiB, slope {slope:.0f} bytes per "
        f"picture in the second half (bound {BOUND:.0f})"
    )
    return slope > BOUND


if __name__ == "__main__":
    sys.exit(main())
