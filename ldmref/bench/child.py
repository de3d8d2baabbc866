"""One side of a memory row, in a process of its own.

`python -m ldmref.bench.child SIDE ROW FOLDER OUT` loads the model in FOLDER, draws once, writes the
pixels to OUT (.npy) and one line of JSON to stdout.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import re
import sys
from pathlib import Path

import numpy as np

from ldmref.backends import get_backend
from ldmref.bench.peers import theirs
from ldmref.bench.rows import Row
from ldmref.bench.works import Side, backend_of, inputs_of, ours
from ldmref.loading import load

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(which: str, row: Row, folder: str, out: str) -> None:
    """Draw the row's picture by one side, `ours` or `theirs`."""
    side = _side(which, row, folder)
    before = forget_peak()
    images = side.call()
    side.wait()
    peak = resident("VmHWM")
    np.save(out, side.host(images))
    sys.stdout.write(json.dumps({"peak": peak, "before": before}) + "\n")


def _side(which: str, row: Row, folder: str) -> Side:
    if which == "ours":
        model = load(folder, backend=backend_of(row))
        return ours(row, model, inputs_of(row, model))
    model = load(folder, backend=get_backend("numpy", "cpu", "float32", "exact"))
    return theirs(row, model, inputs_of(row, model))


def forget_peak() -> int:
    """Give freed memory back, and let the kernel count the peak from here; bytes resident now.

    Where the kernel cannot, the peak of the whole process remains the peak.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    return resident("VmRSS")


def resident(what: str) -> int:
    """Bytes resident now ("VmRSS") or at most so far ("VmHWM")."""
    try:
        match = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        match = None
    if match:
        return 1024 * int(match[1])
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


if __name__ == "__main__":
    main(sys.argv[1], Row(**json.loads(sys.argv[2])), sys.argv[3], sys.argv[4])
