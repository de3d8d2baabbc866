"""metrics.jsonl: the metrics of a training, one JSON object per line.

A line is appended at once; if the process is killed, an incomplete last line may remain, which is
not read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ldmref.io.atomic import atomic_write


def append_metrics(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line; numbers that are not finite become null.

    Raises:
        OSError: It cannot be written; the file is unchanged.
    """
    finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
    }
    size = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as file:
            file.write(json.dumps(finite).encode() + b"\n")
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file in their order; none if there is no file.

    Raises:
        OSError: It cannot be read.
    """
    return [line for _, line in _lines(path)]


def drop_after(path: Path, stage: str, step: int) -> None:
    """Remove the lines of a stage after a step, and everything that is not a line of metrics.

    Raises:
        OSError, OutputError: It cannot be read or written; it is unchanged.
    """
    kept = [text for text, x in _lines(path) if x["stage"] != stage or x["step"] <= step]
    if path.exists() and b"".join(kept) != path.read_bytes():
        with atomic_write(path, overwrite=True) as file:
            file.writelines(kept)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each complete line, as bytes and as a value."""
    if not path.exists():
        return
    for text in path.read_bytes().splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            numbers = isinstance(line, dict) and {"stage", "step", "loss"} <= line.keys()
            if numbers and text.endswith(b"\n"):
                yield text, line
