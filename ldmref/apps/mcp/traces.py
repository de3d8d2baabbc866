"""The tool `diff_trace`: judge the trace of a port in a folder that the user has allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ldmref.apps.mcp.protocol import Content, ToolCall, make_text
from ldmref.declare import Doc, Range
from ldmref.errors import UsageError, short_repr

DESCRIPTION = (
    "Find the layers and steps of a ported diffusion model whose results differ from ldmref's. "
    "Each recorded layer is computed again in float64 from the port's own input, so one "
    "call names several faults, with the known fault that explains each. Traces are safetensors, "
    ".npz or .npy files with tensors named CALL/LAYER/input and CALL/LAYER/output, in the folder "
    "that the user allowed."
)


@dataclass(frozen=True)
class DiffRequest:
    """The arguments of the tool `diff_trace`."""

    port: Annotated[str, Doc("The port's trace: a name in the folder of traces.")]
    reference: Annotated[
        str | None, Doc("A trace of the same run by ldmref, for the inherited differences.")
    ] = None
    dtype: Annotated[
        str | None, Doc("Number format of the port: float64, float32, float16 or bfloat16.")
    ] = None
    rows: Annotated[int, Range(1, 1000), Doc("The largest number of faults to return.")] = 50


def resolve_inside(folder: Path, name: str) -> Path:
    """Return the path of a trace inside a folder.

    Raises:
        UsageError: The name leads out of the folder, also by a link, or does not exist.
    """
    root = folder.resolve()
    path = _resolve(root / name)
    if path is None or not path.is_relative_to(root):
        message = f"no trace {short_repr(name)} in the folder of traces"
        found = sorted(p.name for p in root.iterdir())[:10]
        raise UsageError(message, code="E-TRACE", hint=f"there are: {', '.join(found) or 'none'}")
    for part in path.rglob("*") if path.is_dir() else ():
        if not part.resolve().is_relative_to(root):
            message = f"{short_repr(name)} holds a link out of the folder of traces"
            raise UsageError(message, code="E-TRACE")
    return path


def _resolve(path: Path) -> Path | None:
    """Return an existing path without links, None if there is none."""
    try:
        return path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None


def answer_diff(
    folder: Path, model: Callable[[], Any], request: DiffRequest, call: ToolCall
) -> Content:
    """Return the faults of a port as JSON.

    Args:
        folder: The folder that the user allowed.
        model: Returns the model that the port ran, in float32 on NumPy.
        request: The arguments.
        call: Where progress is reported.
    """
    from ldmref.locate import diff_traces
    from ldmref.locate.report import group_rows, summary
    from ldmref.trace.readers import load_trace

    port = load_trace(resolve_inside(folder, request.port))
    reference = None
    if request.reference is not None:
        reference = load_trace(resolve_inside(folder, request.reference))

    def progress(done: int, calls: int, name: str) -> None:
        call.progress(done, calls)

    report = diff_traces(port, model(), reference, dtype=request.dtype, progress=progress)
    groups = group_rows(report.faults)
    faults = [
        {**group.worst.to_dict(), "calls": list(group.calls)} for group in groups[: request.rows]
    ]
    answer = {
        "summary": summary(report),
        "verdict": report.verdict,
        "equal": report.equal,
        "counts": report.counts(),
        "notes": [*report.gaps, *report.notes],
        "faults": faults,
        "left_out": max(0, len(groups) - request.rows),
    }
    return [make_text(json.dumps(answer, ensure_ascii=False))]
