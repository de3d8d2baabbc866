"""Engines as peers: ONNX Runtime and OpenVINO run a network as they read it from a file.

The graph is the one that `ldmref export onnx` writes, with sizes fixed to those of the case.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.blocks import BlockInputs, BlockModel
from benchmarks.cases import BenchmarkCase
from benchmarks.work import WorkInputs, Workload
from ldmref.backends.base import Backend
from ldmref.backends.fast import threads
from ldmref.errors import BackendUnavailable
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import Params, flatten, tree_map
from ldmref.models.unet import unet

ENGINES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}  # their packages

Feed = dict[str, np.ndarray]


def engine_workload(case: BenchmarkCase, model: Any, inputs: Any) -> Workload:
    """Return the U-Net or a block in an engine, on as many threads as the case's backend has.

    Raises:
        BackendUnavailable: The disk has no room for the graph, which is deleted afterwards.
    """
    open_engine = {"onnx": _open_onnxruntime, "openvino": _open_openvino}[case.peer]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / f"{case.work}.onnx"
        write = write_block if case.is_block else write_unet
        feed = write(model, inputs, file)
        run = open_engine(file, thread_count(case.backend))
    return Workload(lambda: run(feed), np.asarray)


def write_unet(model: LatentDiffusion, inputs: WorkInputs, file: Path) -> Feed:
    """Write the U-Net for inputs of these shapes; return the inputs by their names in the graph."""
    arguments = (model.config.unet, inputs.latents, inputs.timesteps, inputs.context)
    return write_network(model.backend, unet, model.params["unet"], arguments, file)


def write_block(model: BlockModel, inputs: BlockInputs, file: Path) -> Feed:
    """Write a block for inputs of these shapes; return the inputs by their names in the graph."""
    return write_network(
        model.backend, model.block.apply, model.tree, model.arguments(inputs), file
    )


def write_network(
    ops: Backend, network: Callable, params: Params, arguments: tuple[Any, ...], file: Path
) -> Feed:
    """Write a network for arguments of these shapes; return its inputs by their names."""
    from ldmref.backends.arguments import split_arrays
    from ldmref.backends.graph.compiled import describe_inputs
    from ldmref.backends.graph.onnx import write_model
    from ldmref.backends.graph.tracer import trace

    params = tree_map(ops.to_numpy, params)
    require_disk_space(file.parent, sum(array.nbytes for array in flatten(params).values()))
    arrays, template = split_arrays(arguments)
    described = describe_inputs(arrays)
    write_model(trace(network, params, template, described), file)
    return {spec.name: array for spec, array in zip(described, arrays, strict=True)}


def _open_onnxruntime(file: Path, threads: int) -> Callable[[Feed], np.ndarray]:
    """Open a graph in ONNX Runtime with its default options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda feed: np.asarray(session.run(None, feed)[0])


def _open_openvino(file: Path, threads: int) -> Callable[[Feed], np.ndarray]:
    """Open a graph in OpenVINO in float32 with its default options, which minimise latency."""
    from ldmref.backends.openvino import import_openvino

    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = import_openvino().Core().compile_model(file, "CPU", options)
    request = compiled.create_infer_request()

    def run(feed: Feed) -> np.ndarray:
        request.infer(feed, share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return run


def thread_count(backend: str) -> int:
    """Return the number of threads that ldmref uses on a backend; for torch, import it before."""
    return sys.modules["torch"].get_num_threads() if backend == "torch" else threads.count()


def require_disk_space(folder: Path, size: int) -> None:
    """Check that `folder` has room for a file of `size` bytes.

    Raises:
        BackendUnavailable: The free space is insufficient.
    """
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size:
        sizes = f"{size / 1e9:.1f} GB, and {str(folder.parent)!r} has {free / 1e9:.1f} GB"
        hint = "set TMPDIR to a folder with more room"
        raise BackendUnavailable(f"the exported network takes {sizes}", code="E-ROOM", hint=hint)
