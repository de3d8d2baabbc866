"""The parts of a run between its networks: what each reads and returns, and what computes it.

A run is a network of parts, as a network is one of layers. The function of a part is the one that
the run itself calls; a trace has a call of its kind for each of its visits, and `ldmref.locate`
calls the same function again with what was recorded.

| part      | its rule                   | kind of its calls |
|-----------|----------------------------|-------------------|
| `COMBINE` | a `Guidance`               | `guidance`        |
| `STEP`    | the `Step` of a `Sampler`  | `sampler`         |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ldmref.math.arrays import Array
from ldmref.samplers.guidance import Guidance
from ldmref.samplers.interfaces import Denoiser, History, Interval, Noise, Step, Stepped
from ldmref.samplers.path import VE, NoisePath


@dataclass(frozen=True)
class PartSlot:
    """An input or an output of a part.

    Attributes:
        name: The argument of the part's function.
        words: What causes call it; "" as its name.
        role: Its name in a trace; "" as its name.
        also: Names that other programs give it.
        number: Whether it is a number.
        several: Whether it is any number of arrays by name, which are roles themselves.
        visits: The part whose visits within this one it is: they read what this part computes, and
            return what it continues with.
    """

    name: str
    words: str = ""
    role: str = ""
    also: tuple[str, ...] = ()
    number: bool = False
    several: bool = False
    visits: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """The names under which it may be recorded, the usual one first."""
        return (self.role or self.name, *self.also)


@dataclass(frozen=True)
class RunPart:
    """A part of a run.

    Attributes:
        name: Its name, for readers.
        call: The kind of its calls in a trace.
        compute: `compute(rule, **inputs)`, which the run itself calls.
        inputs, outputs: What it reads and returns, as far as it is recorded.
        memory: The argument that the visit before returned; "": none.
    """

    name: str
    call: str
    compute: Callable[..., Any]
    inputs: tuple[PartSlot, ...]
    outputs: tuple[PartSlot, ...]
    memory: str = ""

    def record(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a visit by role, from the arguments of the function.

        >>> COMBINE.record({"predictions": {"cond": 1.0}, "scale": 4.0, "sigma": 0.5})
        {'cond': 1.0, 'scale': 4.0, 'sigma': 0.5}
        """
        found: dict[str, Any] = {}
        for slot in self.inputs:
            if slot.name in values:
                x = values[slot.name]
                found |= x if slot.several else {slot.roles[0]: float(x) if slot.number else x}
        return found

    def roles_of(self, recorded: Mapping[str, Any]) -> Iterator[tuple[PartSlot, str]]:
        """Yield the slots that were recorded, with the role of each.

        >>> [role for _, role in COMBINE.roles_of({"scale": "a", "cond": "b"})]
        ['scale', 'cond']
        """
        single = [slot for slot in self.inputs if not (slot.several or slot.visits)]
        taken = {}
        for slot in single:
            role = next((role for role in slot.roles if role in recorded), None)
            if role is not None:
                taken[role] = slot
        yield from ((slot, role) for role, slot in taken.items())
        for slot in self.inputs:
            if slot.several:
                yield from ((slot, role) for role in recorded if role not in taken)


def combine(
    guidance: Guidance,
    predictions: Mapping[str, Array],
    sigma: float,
    scale: float,
    memory: History = (),
    path: NoisePath = VE,
) -> tuple[Array, History]:
    """Combine the predictions of a network at a level of a path.

    Args:
        guidance: The rule.
        predictions: By name, each (n, ...).
        sigma: The noise level on the path.
        scale: The guidance scale.
        memory: What the step before returned; () in the first step.
        path: The path.

    Returns:
        (the guided prediction, the memory of the next step).
    """
    return guidance(predictions, path.ratio(sigma), scale, memory)


def take_step(
    step: Step, denoise: Denoiser, x: Array, interval: Interval, history: History, noise: Noise
) -> Stepped:
    """Take a step of a sampler: `step(denoise, x, interval, history, noise)`."""
    return step(denoise, x, interval, history, noise)


COMBINE = RunPart(
    "combine",
    "guidance",
    combine,
    (
        PartSlot("predictions", several=True),
        PartSlot("scale", "guidance scale", number=True),
        PartSlot("sigma", "noise level", number=True),
    ),
    (PartSlot("guided", role="output"),),
    memory="memory",
)
STEP = RunPart(
    "step",
    "sampler",
    take_step,
    (
        PartSlot("x", "state", also=("sample",)),
        PartSlot("sigma", "level", number=True),
        PartSlot("sigma_next", "next level", number=True),
        PartSlot("denoise", visits="evaluate"),
        PartSlot("noise", visits="noise"),
    ),
    (PartSlot("x_next", role="output"), PartSlot("x0")),
    memory="history",
)
PARTS = {part.call: part for part in (COMBINE, STEP)}
"""The parts by the kind of their calls."""
