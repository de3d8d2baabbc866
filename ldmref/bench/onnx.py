"""The peer ONNX Runtime: diffusers' U-Net, exported by torch, on the CPU."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends.fast import threads
from ldmref.bench.libraries import need
from ldmref.bench.rows import Row
from ldmref.bench.works import Inputs
from ldmref.errors import BackendUnavailable

NAMES = ("latents", "t", "context")


def unet_call(row: Row, unet: Any, inputs: Inputs) -> Callable[[], np.ndarray]:
    """One step of a `UNet2DConditionModel` by ONNX Runtime with its default options.

    It has as many threads as ldmref has on the row's backend. The exported file is in the folder
    for temporary files until the session is made.

    Raises:
        BackendUnavailable: a library is missing, or room for the file.
    """
    given = (inputs.latents, inputs.t, inputs.context)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "unet.onnx"
        require_room(Path(folder), sum(p.numel() * p.element_size() for p in unet.parameters()))
        export(unet, given, file)
        made = session(file, threads_of(row))
    feed = dict(zip(NAMES, given, strict=True))
    return lambda: made.run(None, feed)[0]


def export(unet: Any, given: tuple[np.ndarray, ...], file: Path) -> None:
    """Write the network for inputs of these shapes; weights go into a file beside it."""
    torch = need("torch")

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, latents: Any, t: Any, context: Any) -> Any:
            return self.unet(latents, t, context, return_dict=False)[0]

    logger = logging.getLogger("torch.onnx")
    logger.setLevel(logging.ERROR)  # it says that there is no torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about torch's own code
        torch.onnx.export(
            Step().eval(),
            tuple(map(torch.from_numpy, given)),
            file,
            input_names=NAMES,
            dynamo=True,
            external_data=True,
            verbose=False,
        )


def session(file: Path, count: int) -> Any:
    """An `InferenceSession` on the CPU with `count` threads; all other options are the defaults."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = count
    return runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def threads_of(row: Row) -> int:
    """How many threads ldmref has on the row's backend."""
    return need("torch").get_num_threads() if row.backend == "torch" else threads.count()


def require_room(folder: Path, size: int) -> None:
    """Refuse a file of that many bytes where there is no room for it.

    Raises:
        BackendUnavailable: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size:
        raise BackendUnavailable(
            f"the exported network takes {size / 1e9:.1f} GB, and {str(folder.parent)!r} has "
            f"{free / 1e9:.1f} GB",
            code="E-ROOM",
            hint="set TMPDIR to a folder with more room",
        )
