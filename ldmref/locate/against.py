"""`diff_modules`: judge a port by the modules of PyTorch that it is a port of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmref.errors import BackendUnavailable, UsageError
from ldmref.locate.findings import DiffReport
from ldmref.locate.original import CallProgress, compare
from ldmref.support.foreign_code import foreign_code
from ldmref.trace.model import Trace
from ldmref.trace.selection import Selection

if TYPE_CHECKING:
    import torch

CODE = "E-AGAINST"
SKIPPED = ("safety_checker", "image_encoder")


def diff_modules(
    port: Trace,
    original: object,
    reference: Trace | None = None,
    *,
    dtype: str | None = None,
    progress: CallProgress | None = None,
) -> DiffReport:
    """Find the layers of a port whose results differ from those of a PyTorch module.

    The module runs once in float64 from the inputs of the network that the port recorded. At each
    recorded layer, the computed input is compared with the recorded one and replaced by it, and so
    is the output: several faults are found in one run, as by `diff_traces`, with the same verdicts
    and causes. Memory: the module in float64 and in the port's format.

    Args:
        port: The trace of the port, whose layers are called by the paths of the module.
        original: The module with the weights that the port has, in any format; or a pipeline, or a
            mapping, of several by the names of the port's calls ("transformer", "vae.decode"). It
            is copied, and its layers, not what is around them, are followed. One that has
            parameters of the port's format is taken as the port loaded it; the parameters of any
            other are rounded to the port's format.
        reference: A trace of the same run, for the inherited differences. None: there is none.
        dtype: The port's number format. None: as recorded.
        progress: Called as `progress(calls done, calls, call)`. None: nothing is called.

    Returns:
        A row for each recorded layer and for what leads to its input. What is computed between
        networks is not judged.

    Raises:
        UsageError: `original` is none of these, or is compiled; the trace has no call or holds no
            results (`ldmref.locate.preflight`); or it has calls of several networks, and one module
            was given.
        BackendUnavailable: PyTorch is not installed.

    >>> import torch
    >>> import ldmref
    >>> from ldmref.locate import diff_modules
    >>> def make(eps):
    ...     torch.manual_seed(0)
    ...     return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8, eps))
    >>> port = make(1e-3)
    >>> with ldmref.recording(port, call="net") as run:
    ...     y = port(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    >>> report = diff_modules(run.trace, make(1e-5))
    >>> [(row.name, row.cause) for row in report.faults]
    [('net.000/1', 'eps 0.001 instead of 1e-05')]
    """
    networks = find_networks(original)
    from ldmref.locate.modules.given import PipelineOriginal
    from ldmref.locate.modules.original import require_one_network

    if "" in networks:
        require_one_network(port)
    pipe = original if callable(original) and hasattr(original, "components") else None
    with foreign_code(f"the original, a {type(original).__name__},", CODE):
        return compare(port, PipelineOriginal(networks, pipe), reference, dtype, progress)


def find_networks(original: object) -> dict[str, torch.nn.Module]:
    """Return the modules of an original by name; "" for a module by itself.

    Raises:
        UsageError: It is neither a module, nor a mapping or pipeline of some.
        BackendUnavailable: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        message = "PyTorch is not installed, and the original is one of its modules"
        hint = "pip install torch"
        raise BackendUnavailable(message, code="E-BACKEND", hint=hint) from error
    from ldmref.trace.torch_hooks import refuse_compiled

    if isinstance(original, torch.nn.Module):
        refuse_compiled("the original", original, copied=True)
        return {"": original}
    parts = original if isinstance(original, Mapping) else getattr(original, "components", None)
    if not isinstance(parts, Mapping):
        message = f"a {type(original).__name__} is no torch.nn.Module, and no pipeline of some"
        raise UsageError(message, code=CODE, hint="return a module, a pipeline or {NAME: module}")
    networks = {
        str(name): part
        for name, part in parts.items()
        if isinstance(part, torch.nn.Module) and name not in SKIPPED
    }
    if not networks:
        message = f"a {type(original).__name__} without a torch.nn.Module is no original"
        raise UsageError(message, code=CODE, hint="return a module, a pipeline or {NAME: module}")
    for name, network in networks.items():
        refuse_compiled(name, network, copied=True)
    return networks


def record_reference(
    module: torch.nn.Module,
    inputs: Mapping[str, Any],
    dtype: str,
    folder: str | Path | None = None,
    *,
    call: str = "transformer",
    selection: Selection | None = None,
) -> Trace:
    """Run a module in a number format, and return the trace of its layers.

    Args:
        module: The module, which is copied.
        inputs: The arguments of its call by name. Tensors of floats are cast to the format.
        dtype: "float64", "float32", "float16" or "bfloat16". float64 is exact: casts within the
            module's code are left out, and tables are widened.
        folder: The folder of the trace. None: a temporary one.
        call: The name of the call, which becomes `CALL.000`.
        selection: Layers to record. None: all.

    Returns:
        The trace.

    Raises:
        UsageError: The module is compiled, or there is no such format.

    >>> import torch
    >>> from ldmref.locate.against import record_reference
    >>> trace = record_reference(torch.nn.Linear(4, 2), {"input": torch.ones(1, 4)}, "float64")
    >>> trace.tensors["transformer.000//output"].dtype.name
    'float64'
    """
    from ldmref.locate.modules.exact_run import record_in_format

    find_networks(module)
    with foreign_code(f"the original, a {type(module).__name__},", CODE):
        return record_in_format(module, inputs, dtype, folder, call, selection)
