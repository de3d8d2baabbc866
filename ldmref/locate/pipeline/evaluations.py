"""The evaluations of a run: which calls of the denoiser lead to which guidance and which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ldmref.trace.model import Trace, TraceEntry


class ReadableRun(Protocol):
    """What is read of a recorded run (`PortRun`)."""

    @property
    def port(self) -> Trace: ...

    @property
    def denoiser(self) -> str: ...

    def calls(self, kind: str) -> list[TraceEntry]: ...

    def read(self, entry: TraceEntry | None, *roles: str) -> np.ndarray | None: ...

    def number(self, entry: TraceEntry | None, *roles: str) -> float | None: ...


@dataclass(frozen=True)
class RunEvaluation:
    """One evaluation of the denoiser at one state.

    Attributes:
        networks: Its calls, in their order: usually one, with a part of the batch for each
            prediction; or a call for each. (): they were not recorded.
        guidance: What combined the predictions. None: it was not recorded.
        step: The step that it belongs to.
        number: Which evaluation of the step it is, from 0.
    """

    networks: tuple[TraceEntry, ...]
    guidance: TraceEntry | None
    step: TraceEntry
    number: int

    @property
    def suffix(self) -> str:
        """What the roles of the step's arrays of this evaluation end with."""
        return f".{self.number}" if self.number else ""


def find_evaluations(run: ReadableRun) -> list[RunEvaluation]:
    """Return the evaluations of all steps, in their order.

    A step follows its guidance, which follows its calls of the denoiser. A trace whose calls are
    not in this order has one evaluation a step, if it has as many calls as steps.
    """
    denoiser, steps = run.calls(run.denoiser), run.calls("sampler")
    guidances = run.calls("guidance")
    kinds = {e.call: "network" for e in denoiser}
    kinds |= {e.call: "guidance" for e in guidances} | {e.call: "step" for e in steps}
    found: list[RunEvaluation] = []
    parts: list[tuple[tuple[TraceEntry, ...], TraceEntry | None]] = []
    networks: list[TraceEntry] = []
    for entry in run.port.entries:
        kind = "" if entry.layer else kinds.get(entry.call, "")
        if kind == "network":
            networks.append(entry)
        elif kind == "guidance":
            parts.append((tuple(networks), entry))
            networks = []
        elif kind == "step":
            if networks or not parts:
                parts.append((tuple(networks), None))  # without guidance
            found += [RunEvaluation(*part, entry, i) for i, part in enumerate(parts)]
            parts, networks = [], []
    if any(not e.networks for e in found):
        if len(denoiser) == len(steps):
            combined = guidances if len(guidances) == len(steps) else [None] * len(steps)
            pairs = zip(denoiser, combined, steps, strict=True)
            return [RunEvaluation((network,), g, step, 0) for network, g, step in pairs]
    return [e for e in found if e.networks] if denoiser else found


def state_of(run: ReadableRun, evaluation: RunEvaluation) -> np.ndarray | None:
    """Return the state at which an evaluation was made."""
    others = () if evaluation.number else ("sample", "x")
    return run.read(evaluation.step, f"x_at{evaluation.suffix}", *others)


def sigma_of(run: ReadableRun, evaluation: RunEvaluation) -> float | None:
    """Return the recorded noise level of an evaluation."""
    others = () if evaluation.number else ("sigma",)
    return run.number(evaluation.step, f"sigma_at{evaluation.suffix}", *others)
