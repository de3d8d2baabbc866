"""The backend `openvino`: OpenVINO compiles every network, and NumPy does the rest.

`fast` computes in float32, `fastest` in bfloat16, on processors that have its products. Compiled
networks of small models are kept on disk (`ldmref/backends/graph/disk_cache.py`).
"""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import cache
from typing import Any

import numpy as np

from ldmref.backends.fast import threads
from ldmref.backends.graph import disk_cache
from ldmref.backends.graph.compiled import CompiledBackend, Executable
from ldmref.backends.graph.graph import Graph
from ldmref.backends.graph.onnx import import_onnx, make_model
from ldmref.errors import BackendUnavailable, UsageError

DEVICE = "CPU"
PRECISIONS = {"fast": "f32", "fastest": "bf16"}


class OpenVinoBackend(CompiledBackend):
    """OpenVINO on the CPU; float32 (`fast`) or bfloat16 (`fastest`) inside of networks."""

    name = "openvino"
    speeds = ("fast", "fastest")

    def set_up(self) -> None:
        super().set_up()
        import_onnx(self.name)
        self._core = _open_core()
        if self.speed == "fastest" and not supports_bfloat16(self._core):
            message = "speed 'fastest' of the openvino backend computes in bfloat16"
            hint = "this processor has no bfloat16 products: use speed 'fast'"
            raise UsageError(message, code="E-SPEED", hint=hint)

    def version(self) -> str:
        return str(import_openvino().__version__)

    def weight_bytes(self, shape: tuple[int, ...], pixels: int) -> int:
        size = super().weight_bytes(shape, 0)
        return size // 2 if self.speed == "fastest" and len(shape) > 1 else size

    def build(self, graph: Graph) -> Executable:
        """Compile a graph, or read it from the disk cache."""
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[self.speed],
            "INFERENCE_NUM_THREADS": threads.count(),
        }
        model = make_model(graph, "inputs").SerializeToString(deterministic=True)
        key = None
        if graph.parameter_bytes <= disk_cache.LARGEST:
            key = disk_cache.make_key([_describe_device(self._core), str(options), model], graph)
        compiled = self._read(key, options)
        arrays: list[np.ndarray] = []
        if compiled is None:
            network = self._core.read_model(model)
            arrays = _insert_parameters(network, graph)
            compiled = self._core.compile_model(network, DEVICE, options)
            if key is not None:
                disk_cache.write(key, compiled.export_model().getvalue())
        return _make_executable(compiled, graph, arrays)

    def _read(self, key: str | None, options: dict[str, Any]) -> Any:
        """Return a compiled graph from the disk cache; None if it is not there."""
        exported = disk_cache.read(key) if key is not None else None
        if exported is None:
            return None
        try:
            return self._core.import_model(exported, DEVICE, options)
        except RuntimeError:  # of another build of OpenVINO
            return None


@cache
def import_openvino() -> Any:
    """Import OpenVINO without its usage statistics.

    With the package openvino-telemetry, importing OpenVINO sends an event to a web service, from a
    process of `multiprocessing`. Where such processes are not forked, as by default on Python 3.14,
    this also runs the user's script again if it does not test `__name__`.
    """
    modules: dict[str, Any] = sys.modules
    telemetry = "openvino_telemetry"
    missing = object()
    loaded = modules.get(telemetry, missing)
    modules[telemetry] = None  # its import fails, so OpenVINO does without it
    try:
        import openvino
    finally:
        del modules[telemetry]
        if loaded is not missing:
            modules[telemetry] = loaded
    return openvino


@cache
def _open_core() -> Any:
    """Return OpenVINO's core, one for all backends of the process."""
    try:
        openvino = import_openvino()
    except ImportError as error:
        message = "the openvino backend needs OpenVINO, which is not installed"
        hint = "pip install 'ldmref[openvino]'"
        raise BackendUnavailable(message, code="E-BACKEND", hint=hint) from error
    return openvino.Core()


def supports_bfloat16(core: Any) -> bool:
    """Return whether the processor multiplies matrices of bfloat16."""
    return "BF16" in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def _describe_device(core: Any) -> str:
    """Return everything about library and processor that a compiled network depends on."""
    names = ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
    version = import_openvino().get_version()
    return str([version, *(core.get_property(DEVICE, name) for name in names)])


def _insert_parameters(network: Any, graph: Graph) -> list[np.ndarray]:
    """Replace the inputs that stand for parameters by constants on the arrays' own memory.

    Returns the arrays, which must live as long as the network.
    """
    openvino = import_openvino()
    inputs = {x.get_friendly_name(): x for x in network.get_parameters()}
    arrays = []
    for name, parameter in graph.parameters.items():
        arrays.append(np.ascontiguousarray(parameter))
        constant = openvino.op.Constant(_as_writeable(arrays[-1]), shared_memory=True)
        inputs[name].output(0).replace(constant.output(0))
        network.remove_parameter(inputs[name])
    network.validate_nodes_and_infer_types()
    return arrays


def _as_writeable(array: np.ndarray) -> np.ndarray:
    """Return a view that claims to be writeable: OpenVINO requires one, and only reads it."""
    if array.flags.writeable:
        return array
    pointer = ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
    view = np.ctypeslib.as_array(pointer, shape=(array.nbytes,))
    return view.view(array.dtype).reshape(array.shape)


def _make_executable(compiled: Any, graph: Graph, kept: list[np.ndarray]) -> Executable:
    """Return a compiled graph as a function of its inputs; one thread at a time runs it.

    `kept` holds the parameters that it reads where they are.
    """
    request = compiled.create_infer_request()
    names = [x.name for x in graph.inputs]
    used = {name for x in compiled.inputs for name in x.get_names()}
    count = len(graph.outputs)
    alone = threading.Lock()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        feed = {name: x for name, x in zip(names, inputs, strict=True) if name in used}
        with alone:
            request.infer(feed, share_inputs=True)
            return [np.array(request.get_output_tensor(i).data) for i in range(count)]

    run.parameters = kept  # pyright: ignore[reportFunctionMemberAccess]
    return run
