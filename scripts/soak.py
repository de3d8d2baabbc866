"""Generate many images in one process, and report how much its resident memory grows per image.

    python scripts/soak.py --images 1000
    python scripts/soak.py --images 200 --threads 4

The growth is the slope of a least-squares line through the second half of the run; caches fill
during the first half. The exit code is 1 if the slope is above the bound. With `--threads`, that
many threads share the model, and every image is compared with the image of a single thread.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import ldmref
from ldmref import modes
from ldmref.models.model import LatentDiffusion

BOUND = 1024.0  # bytes per image
VARIED = (
    {"sampler": "euler"}, {"sampler": "dpmpp_2m"}, {"sampler": "euler_a", "rng": "torch"},
    {"negative_prompt": "dog"}, {"cfg_scale": 1.0}, {"schedule": "karras", "sampler": "heun"},
)  # fmt: skip


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def generate(model: LatentDiffusion, i: int) -> bytes:
    """Generate image `i`; return its pixels and its latents."""
    run = modes.txt2img(model, f"cat {i}", seed=i, steps=2, **VARIED[i % len(VARIED)])
    return run.images[0].tobytes() + run.latents.tobytes()


def soak(images: int) -> tuple[float, np.ndarray]:
    """Return the growth in bytes per image, and the resident memory after each image."""
    model = ldmref.random_model("tiny", backend="numpy")
    sizes = np.empty(images)
    for i in range(images):
        generate(model, i)
        gc.collect()
        sizes[i] = resident()
    half = np.arange(images // 2, images)
    return float(np.polyfit(half, sizes[half], 1)[0]), sizes


def differing(images: int, threads: int) -> int:
    """Count the images of threads sharing a model that differ from those of a single thread."""
    model = ldmref.random_model("tiny", backend="numpy")
    with ThreadPoolExecutor(threads) as pool:
        shared = list(pool.map(lambda i: generate(model, i), range(images)))
    return sum(generate(model, i) != shared[i] for i in range(images))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    images = flags.images
    start = time.monotonic()
    if flags.threads > 1:
        wrong = differing(images, flags.threads)
        print(
            f"{images} images by {flags.threads} threads in {time.monotonic() - start:.0f} s: "
            f"{wrong} differ from those of one thread"
        )
        return wrong > 0
    slope, sizes = soak(images)
    print(
        f"{images} images in {time.monotonic() - start:.0f} s: resident memory from "
        f"{sizes[0] / 2**20:.1f} to {sizes[-1] / 2**20:.1f} MiB, slope {slope:.0f} bytes per "
        f"image in the second half (bound {BOUND:.0f})"
    )
    return slope > BOUND


if __name__ == "__main__":
    sys.exit(main())
