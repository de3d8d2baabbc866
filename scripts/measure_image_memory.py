"""Print the peak memory of one image of Stable Diffusion 1.5's size, in a fresh process.

The weights are random, on NumPy in float32: one step of 256 x 256 pixels, with guidance. Run it in
two checkouts on one machine, in turn:

    python scripts/measure_image_memory.py
    git worktree add /tmp/before main && cd /tmp/before
    PYTHONPATH=. python ../after/scripts/measure_image_memory.py

It needs 6 GB of memory and Linux. `before` is the resident memory with the weights, `peak` the most
from then on, and `image` what the image takes in addition.
"""

from __future__ import annotations

import argparse
import gc
import re
from pathlib import Path

import ldmref
from ldmref import modes

MEGABYTE = 2**20


def read_status(field: str) -> int:
    """Return the bytes of this process: now ("VmRSS") or at its peak ("VmHWM")."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found is not None
    return 1024 * int(found[1])


def main() -> None:
    """Make a model, forget the peak, and generate an image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="sd15", help="Default: sd15.")
    parser.add_argument("--size", type=int, default=256, help="Width and height; default: 256.")
    parser.add_argument("--steps", type=int, default=1, help="Default: 1.")
    asked = parser.parse_args()
    model = ldmref.random_model(asked.preset, seed=0, backend="numpy", dtype="float32")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = read_status("VmRSS")
    size = {"width": asked.size, "height": asked.size}
    modes.txt2img(model, "a red heart", seed=1, steps=asked.steps, cfg_scale=7.5, **size)
    peak = read_status("VmHWM")
    numbers = {"before": before, "peak": peak, "image": peak - before}
    print("  ".join(f"{name} {value / MEGABYTE:,.0f} MiB" for name, value in numbers.items()))


if __name__ == "__main__":
    main()
