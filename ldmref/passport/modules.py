"""Kits of modules of PyTorch that ldmref has no definition of.

A kit holds what a module computes from given inputs. A port of it is compared with the outputs in
the kit, without PyTorch, or judged by the module itself, layer by layer and with causes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmref.cases.described_folder import write_into
from ldmref.cases.trace_cases import write_calls
from ldmref.cases.trace_runs import RecordedRun
from ldmref.errors import UsageError
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.locate.against import diff_modules, find_networks, record_reference
from ldmref.locate.findings import DiffReport
from ldmref.locate.original import PortOriginal
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.unfit import first_line
from ldmref.locate.replay.points import PointObserver
from ldmref.passport.kit import (
    CHECKPOINT,
    FLOORS,
    TRACE,
    Kit,
)
from ldmref.passport.make import (
    floors_text,
    tensors_file,
    write_kit,
    write_manifest,
    write_wrong,
)
from ldmref.passport.module_rows import check_rows
from ldmref.passport.recorded import CODE, FORMATS, WIDE
from ldmref.passport.wrong import DTYPE, wrong_dumps
from ldmref.trace.calls import TraceCall
from ldmref.trace.model import Trace, TraceEntry, tensor_name

if TYPE_CHECKING:
    import torch

OF_MODULES = "1.2"  # of these kits: 1.1 added the inputs of layers, 1.2 several calls and rows
NETWORK = "transformer"  # the name of a module that was given without one
MAKE = "let it return (module, {ARGUMENT: value}), or {NAME: (module, {ARGUMENT: value})}"
PAIR, WITH_ROWS = 2, 3  # parts of what is returned for a module: the third are its rows
README = """A passport kit of ldmref: a module of PyTorch, and all that a port of it must compute.

kit.json                 what this is, which arguments have rows, the wrong dumps, the SHA-256 of
                         each file
checkpoint/              the parameters of each network, under the module's own names
trace/trace.safetensors  a run in float64: CALL//input.NAME and CALL//output of each network, and
                         CALL/LAYER/input and /output of every named layer, where large rounded to
                         float32
trace/trace.json         the layers in their order, and the arguments that are not tensors
floors.json              the error of each array if the whole run is computed in each of the
                         formats: the largest difference over the largest value. A port may have
                         16 times that.
wrong/FAULT.safetensors  for each known fault, a dump of a port that has it

Give your port the parameters and the inputs of each network. Write what it computes under the names
of the trace, with the inputs of layers if you can, and let it be judged:

    ldmref passport check DUMP --kit THIS_FOLDER [--against MODULE:FUNCTION]

docs/passport.md of ldmref describes it.
"""


@dataclass(frozen=True)
class GivenModule:
    """A module with the arguments of the calls that a kit records.

    Attributes:
        module: The module.
        calls: The arguments of each call by name.
        rows: What each argument holds for a row of a batch, see `check_rows`. {}: it is not known.
    """

    module: torch.nn.Module
    calls: tuple[Mapping[str, Any], ...] = field(repr=False)
    rows: Mapping[str, str] = field(default_factory=dict)


def read_modules(made: object) -> dict[str, GivenModule]:
    """Return what a function `make` returned, by the names of networks.

    Raises:
        UsageError: It is neither (module, arguments) or (module, arguments, rows) nor a mapping of
            some, or the rows are not those of the arguments.
        BackendUnavailable: PyTorch is not installed.
    """
    found = {}
    for name, parts in name_networks(made).items():
        values = parts[1] if isinstance(parts, tuple) and len(parts) in (PAIR, WITH_ROWS) else ()
        calls: list[Any] = [values] if isinstance(values, Mapping) else []
        calls += values if isinstance(values, (list, tuple)) else []
        if not calls or not all(isinstance(call, Mapping) for call in calls):
            message = f"a kit of a module needs its inputs, and {type(parts).__name__} has none"
            raise UsageError(message, code=CODE, hint=MAKE)
        rows = check_rows(name, calls, parts[2]) if len(parts) == WITH_ROWS else {}
        module = find_networks(parts[0])[""]
        found[name] = GivenModule(module, tuple(dict(call) for call in calls), rows)
    return found


def name_networks(made: object) -> dict[str, Any]:
    """Return what a function `make` returned by the names of networks: one alone has none."""
    named = made if isinstance(made, Mapping) else {NETWORK: made}
    return {str(name): part for name, part in named.items()}


def make_module_kit(name: str, made: object, folder: str | Path, *, overwrite: bool = False) -> Kit:
    """Write the kit of a module of PyTorch to a folder.

    Two runs on one machine write the same bytes, if the module and its inputs are the same.

    Args:
        name: The name of the kit, such as the `MODULE:FUNCTION` that made the module.
        made: The module and the arguments of its call by name, `(module, arguments)`, or a list of
            the arguments of several calls; or a mapping of such pairs by the names of networks. A
            third part, `(module, arguments, rows)`, declares the arguments that have a row for each
            image or text, so that ports may run the calls, of one row each, in batches: "rows",
            "tokens" (a text of its own length in each row, (n, l, ...)) or "mask" (n, l).
        folder: The folder to write.
        overwrite: Whether to replace a folder that holds a kit.

    Returns:
        The kit that was written.

    Raises:
        UsageError: `made` is something else, or a module is compiled or cannot run in float64.
        OutputError: The folder exists (unless it is empty, or a kit and `overwrite`).
        BackendUnavailable: PyTorch is not installed.

    >>> import tempfile
    >>> import torch
    >>> from ldmref.passport import make_module_kit
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    >>> folder = tempfile.mkdtemp()
    >>> kit = make_module_kit("mlp", (net, {"input": torch.ones(3, 4)}), folder)
    >>> kit.networks, "transformer.000/2" in [entry.name for entry in kit.trace.entries]
    (('transformer',), True)
    """
    write = partial(_write, name=name, modules=read_modules(made))
    return write_kit(Path(folder), overwrite, write)


def _write(folder: Path, name: str, modules: Mapping[str, GivenModule]) -> Kit:
    digests: dict[str, str] = {}
    write = write_into(folder, digests)
    exact = record_modules(modules, "float64")
    write("README.txt", README.encode())
    for network, part in modules.items():
        write(f"{CHECKPOINT}/{network}.safetensors", tensors_file(parameters_of(part.module)))
    stored = _stored_run(exact)
    write_calls(write, TRACE, stored)
    floors = {dtype: _floors(exact, modules, dtype) for dtype in FORMATS}
    write(FLOORS, floors_text(floors, floors[FORMATS[0]]).encode())
    original = FollowedModules({network: part.module for network, part in modules.items()})
    dumps, left_out = wrong_dumps(exact, original)
    wrong = write_wrong(write, dumps)
    digests = dict(sorted(digests.items()))
    rows = {network: part.rows for network, part in modules.items() if part.rows}
    kit = Kit(folder, name, OF_MODULES, digests, wrong, networks=tuple(modules), rows=rows)
    described = {
        "nodes": sum(bool(entry.outputs) for entry in stored.entries),
        "faults": len(wrong),
        "faults_left_out": left_out,
    }
    write_manifest(folder, kit, described)
    return kit


def record_modules(modules: Mapping[str, GivenModule], dtype: str) -> Trace:
    """Return the trace of the calls of each module in a number format.

    Raises:
        UsageError: A module cannot run in it.
    """
    tensors: dict[str, np.ndarray] = {}
    entries = []
    listed = ((name, part, i) for name, part in modules.items() for i in range(len(part.calls)))
    for name, part, number in listed:
        try:
            run = record_reference(part.module, part.calls[number], dtype, call=name)
        except (RuntimeError, TypeError, ValueError) as error:
            message = f"{name} cannot run in {dtype}: {first_line(error)}"
            raise UsageError(message, code=CODE, hint="run it alone to see where") from error
        run = _numbered(run, TraceCall(f"{name}.{number:03d}")) if number else run
        tensors |= {key: np.asarray(x) for key, x in run.tensors.items()}
        entries += run.entries
    return Trace(tensors, tuple(entries))


def _numbered(run: Trace, call: TraceCall) -> Trace:
    """Return the trace of one call under another name."""
    tensors = {}
    entries = []
    for entry in run.entries:
        sides = []
        for side, roles in (("input", entry.inputs), ("output", entry.outputs)):
            found = {role: tensor_name(call, entry.layer, side, role) for role in roles}
            tensors |= {found[role]: run.tensors[name] for role, name in roles.items()}
            sides.append(found)
        entries.append(replace(entry, call=call, inputs=sides[0], outputs=sides[1]))
    return Trace(tensors, tuple(entries))


def parameters_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the parameters and buffers of a module by name; bfloat16 as float32."""
    found = {}
    for name, x in module.state_dict().items():
        narrow = x.is_floating_point() and x.element_size() < 4
        found[name] = (x.float() if narrow else x).detach().cpu().numpy()
    return found


def _stored_run(exact: Trace) -> RecordedRun:
    """Return what a kit stores: inputs and outputs of networks and of layers."""
    entries = [replace(entry, attributes={}) if entry.layer else entry for entry in exact.entries]
    whole = {name for entry in entries if not entry.layer for name in _names(entry)}
    tensors = {}
    for name in dict.fromkeys(name for entry in entries for name in _names(entry)):
        x = np.asarray(exact.tensors[name])
        large = x.dtype == np.float64 and x.size > WIDE and name not in whole
        tensors[name] = x.astype(np.float32) if large else x
    manifest = {"model": {}, "backend": {"name": "torch"}, "dtype": "float64", "complete": True}
    return RecordedRun(tensors, entries, manifest)


def _names(entry: TraceEntry) -> tuple[str, ...]:
    return (*entry.inputs.values(), *entry.outputs.values())


def _floors(exact: Trace, modules: Mapping[str, GivenModule], dtype: str) -> dict[str, float]:
    """Return the error of each array in a format; {} for a format in which the modules fail."""
    try:
        low = record_modules(modules, dtype)
    except UsageError:
        return {}
    found = {}
    for entry in exact.entries:
        other = low.find(entry.call, entry.layer)
        if other is None:
            continue
        sides = ("input", entry.inputs, other.inputs), ("output", entry.outputs, other.outputs)
        for side, roles, others in sides:
            for role in roles.keys() & others.keys():
                expected = np.asarray(exact.tensors[roles[role]])
                got = np.asarray(low.tensors[others[role]])
                if expected.dtype.kind == "f" and got.shape == expected.shape:
                    name = tensor_name(entry.call, entry.layer, side, role)
                    found[name] = relative_error(got, expected)
    return dict(sorted(found.items()))


class FollowedModules:
    """Modules as the original of ports whose right run is followed.

    Args:
        networks: The modules by name.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module]):
        from ldmref.locate.modules.original import ModuleOriginal

        self.networks = networks
        self.original = ModuleOriginal(networks)

    def follow(self, port: Trace, call: TraceCall, observer: PointObserver) -> None:
        """Run a call in float64, and show the observer every recorded array."""
        self.original.follow(port, call, "float64", observer)

    def judge(self, port: Trace) -> DiffReport:
        """Judge a dump of a port in `DTYPE`."""
        return diff_modules(port, self.networks, dtype=DTYPE)


def module_original(kit: Kit, made: object) -> PortOriginal:
    """Return the modules of a kit, with the kit's parameters, as the original of its ports.

    Args:
        kit: The kit of modules.
        made: What `make_module_kit` took; the inputs may be left out. Modules are copied.

    Raises:
        UsageError: They are other networks, or have other parameters.
        BackendUnavailable: PyTorch is not installed.
    """
    modules = {
        name: find_networks(part[0] if isinstance(part, tuple) else part)[""]
        for name, part in name_networks(made).items()
    }
    if modules.keys() != {*kit.networks}:
        listed = ", ".join(kit.networks)
        message = f"the kit has the networks {listed}, and not {', '.join(modules)}"
        raise UsageError(message, code=CODE, hint=MAKE)
    from ldmref.locate.modules.original import ModuleOriginal

    return ModuleOriginal({name: _with_parameters(kit, name, x) for name, x in modules.items()})


def _with_parameters(kit: Kit, name: str, module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module with the parameters of a kit."""
    from ldmref.locate.modules.arrays import to_tensor

    stored = dict(TensorFile(kit.folder / CHECKPOINT / f"{name}.safetensors"))
    made = copy.deepcopy(module)
    state = made.state_dict()
    shapes = {key: tuple(x.shape) for key, x in state.items()}
    if shapes != {key: np.shape(x) for key, x in stored.items()}:
        message = f"{name} has other parameters than the kit's checkpoint"
        raise UsageError(message, code=CODE, hint="give the function that made the kit")
    made.load_state_dict({key: to_tensor(np.asarray(stored[key]), x) for key, x in state.items()})
    return made
