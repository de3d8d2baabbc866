"""Make the run with which the page begins: ldmref/apps/server/page/ready/.

    python scripts/make_ready_run.py

`run.safetensors` is a run record of the model in the package, as `ldmref record` writes it, with
its arrays in float16 to be half as large. `inside.safetensors` is what the networks compute in
each of its steps, as the server's work `inside` returns it. `frames.webp` has its decoded images:
the states of all positions in one row, and the guesses of all steps below.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.apps.server.inside_tasks import FILE, look_inside
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import decode_images

OUT = Path(__file__).resolve().parent.parent / "ldmref" / "apps" / "server" / "page" / "ready"
RUN = {"prompt": "a face", "seed": 7, "steps": 20}
QUALITY = 75  # of the frames
LATENTS = 4  # the dimensions of arrays that are stored in float16


def make_files() -> dict[str, bytes]:
    """Return the files by name."""
    model = ldmref.load("emoji", backend="numpy")
    record = explore.record_run(model, **RUN)
    record = replace(record, trace=replace(record.trace, tensors=halve(record.trace.tensors)))
    plan = modes.plan("txt2img", model, **RUN)
    return {
        "run.safetensors": record.to_bytes(),
        FILE: look_inside(model, plan),
        "frames.webp": draw_frames(model, record),
    }


def draw_frames(model: LatentDiffusion, record: explore.RunRecord) -> bytes:
    """Return the decoded images of a record as one sheet."""
    scale = np.hypot(1.0, record.sigmas)[:, None, None, None]
    rows = [decode_images(model, x) for x in ((record.x / scale).astype(np.float32), record.x0)]
    width, height = record.image.size
    sheet = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * width, y * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def halve(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors with latents in float16."""
    return {
        name: np.asarray(x, np.float16) if x.dtype == np.float32 and x.ndim == LATENTS else x
        for name, x in ((name, np.asarray(tensors[name])) for name in tensors)
    }


def main(folder: Path) -> None:
    """Write the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in make_files().items():
        (folder / name).write_bytes(content)
        print(f"{folder / name}: {len(content):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
