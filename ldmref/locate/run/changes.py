"""Changes of a run: one value of its request, of its scheduler's configuration, or of a slot.

A run with a change is made again on the recorded arrays, so it costs what is between networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ldmref.declare import Range
from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.models.config import ModelConfig
from ldmref.modes.registry import MODES
from ldmref.modes.request_inputs import CONTROL
from ldmref.samplers import SPACINGS
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.trace.calls import TraceCall

KEPT = ("seed", "seed_b", "width", "height", "count", "batch_size", "tile", "positions", "rng")
OWN_SCHEDULE = "the model's own"


@dataclass(frozen=True)
class RunChange:
    """One change of a run.

    Attributes:
        words: What the cause is called.
        values: Parameters of the request with other values.
        config: Another configuration of the model. None: its own.
        slot: Whether an array is changed before the run continues with it. None: none is.
        array: How it is changed.
    """

    words: str = ""
    values: Mapping[str, Any] | None = None
    config: ModelConfig | None = None
    slot: Callable[[ArrayName], bool] | None = None
    array: Callable[[np.ndarray], np.ndarray] = np.asarray

    def changed(self, name: ArrayName, x: Any) -> Any:
        """Return an array with which the run continues."""
        if self.slot is None or not self.slot(name):
            return x
        return self.array(np.asarray(x)).astype(np.asarray(x).dtype)


UNCHANGED = RunChange()


@dataclass(frozen=True)
class FittedChange:
    """A number of a run with another value, which is fitted to an array.

    Attributes:
        words: What the number is called.
        right: Its value.
        at: Returns the change that gives it another value.
        divides: Whether arrays are divided by it, so that they are linear in its inverse.
    """

    words: str
    right: float
    at: Callable[[float], RunChange]
    divides: bool = False

    def read(self, value: float) -> float:
        """Return the number of a value in which arrays are linear, and the reverse."""
        return 1.0 / value if self.divides and value else value


def list_changes(
    mode: str, values: Mapping[str, Any], config: ModelConfig, names: Iterable[ArrayName]
) -> Iterator[RunChange]:
    """Yield the changes of a run, the simplest first.

    Args:
        mode: The mode of the run.
        values: The parameters of its request.
        config: The configuration of the model.
        names: The arrays that the run exchanges.
    """
    yield from _of_prompts(values)
    yield from _of_controls(values)
    yield from _of_autoencoder(config)
    for words, scheduler in config_faults(config.scheduler):
        yield RunChange(words, config=replace(config, scheduler=scheduler))
    yield from _of_request(mode, values)
    yield from _slots(names)
    for rng in MODES[mode].parameters["rng"].choices if "rng" in values else ():
        if rng != values["rng"] and ":" not in rng:  # no other card's
            yield RunChange(f"rng {rng} instead of {values['rng']}", {"rng": rng})


def list_numbers(values: Mapping[str, Any], config: ModelConfig) -> Iterator[FittedChange]:
    """Yield the numbers of a run that arrays depend on smoothly, and that no call records.

    Args:
        values: The parameters of its request.
        config: The configuration of the model.
    """
    for name in ("scaling_factor", "shift_factor"):
        right = getattr(config.vae, name, None)
        if isinstance(right, float):

            def of_vae(value: float, name: str = name) -> RunChange:
                vae: Any = replace(config.vae, **{name: value})
                return RunChange(config=replace(config, vae=vae))

            divides = name == "scaling_factor"
            yield FittedChange(name.replace("_", " "), right, of_vae, divides)
    for i, control in enumerate(values.get(CONTROL) or ()):

        def of_control(value: float, i: int = i) -> RunChange:
            controls = [*values[CONTROL]]
            controls[i] = replace(controls[i], weight=value)
            return RunChange(values={CONTROL: controls})

        yield FittedChange(f"weight of ControlNet {i}", float(control.weight), of_control)


def _of_autoencoder(config: ModelConfig) -> Iterator[RunChange]:
    """Yield other factors of the latents."""
    for name, default in (("scaling_factor", 1.0), ("shift_factor", 0.0)):
        right = getattr(config.vae, name, default)
        if right != default:
            vae: Any = replace(config.vae, **{name: default})
            words = f"the {name.replace('_', ' ')} is missing"
            yield RunChange(words, config=replace(config, vae=vae))
    factor = getattr(config.vae, "scaling_factor", 1.0)
    if factor != 1.0:
        inverse: Any = replace(config.vae, scaling_factor=1.0 / factor)
        words = "multiplied by the scaling factor instead of divided, or the reverse"
        yield RunChange(words, config=replace(config, vae=inverse))


def _slots(names: Iterable[ArrayName]) -> Iterator[RunChange]:
    """Yield arrays of each kind with the other sign, and as zeros."""
    kinds = {}
    for name in names:
        call = TraceCall(name.entry.split("/", 1)[0])
        if call.network and name.side == OUTPUT:
            words = f"what {call.kind} returns"
        elif (call.kind, name.side, name.role) == (STEP.call, INPUT, "x"):
            words = "the state"
        elif call.kind == STEP.call and name.role.startswith("noise"):
            words = "the noise of the step"
        elif call.kind == COMBINE.call and name == (name.entry, OUTPUT, OUTPUT):
            words = "the guided prediction"
        else:
            continue
        role = "" if name.role in (OUTPUT, "noise", "x") else f" ({name.role})"
        kinds.setdefault((call.kind, name.side, name.role), words + role)
    for kind, words in kinds.items():

        def is_slot(name: ArrayName, kind: tuple[str, str, str] = kind) -> bool:
            call = TraceCall(name.entry.split("/", 1)[0])
            return (call.kind, name.side, name.role) == kind

        yield RunChange(f"the sign of {words} is reversed", slot=is_slot, array=np.negative)
        yield RunChange(f"{words} is zero", slot=is_slot, array=np.zeros_like)


def _of_prompts(values: Mapping[str, Any]) -> Iterator[RunChange]:
    """Yield other prompts, of which the texts that are encoded are as many."""
    prompt, negative = values.get("prompt"), values.get("negative_prompt")
    if not isinstance(prompt, str) or not isinstance(negative, str) or prompt == negative:
        return
    exchanged = {"prompt": negative, "negative_prompt": prompt}
    yield RunChange("prompt and negative prompt are exchanged", exchanged)
    if prompt and negative:
        yield RunChange("the prompt is empty", {"prompt": ""})
        yield RunChange("the negative prompt is empty", {"negative_prompt": ""})


def _of_controls(values: Mapping[str, Any]) -> Iterator[RunChange]:
    """Yield ControlNets that are left out, or have another weight."""
    controls = list(values.get(CONTROL) or ())
    for i, control in enumerate(controls):
        others = {f"ControlNet {i} is not added": 0.0, f"ControlNet {i} has no weight": 1.0}
        for words, weight in others.items():
            if weight != control.weight:
                changed = [*controls[:i], replace(control, weight=weight), *controls[i + 1 :]]
                yield RunChange(words, {CONTROL: changed})
    if len(controls) > 1:
        weights = [control.weight for control in controls[::-1]]
        pairs = zip(controls, weights, strict=True)
        exchanged = [replace(control, weight=weight) for control, weight in pairs]
        yield RunChange("the weights of the ControlNets are exchanged", {CONTROL: exchanged})


def _of_request(mode: str, values: Mapping[str, Any]) -> Iterator[RunChange]:
    """Yield other values of single parameters: choices, neighbours, ends of the range, default."""
    for name, field in MODES[mode].parameters.items():
        right = values.get(name)
        if name in KEPT or field.attachment or isinstance(right, np.ndarray):
            continue
        others: list[Any] = []
        if name == "schedule" and (right is None or isinstance(right, str)):
            others = [*SPACINGS]
        elif field.kind is bool:
            others = [not right]
        elif field.choices:
            others = [*field.choices]
        elif field.kind is int and isinstance(right, int):
            others = [right + 1, right - 1]
        elif field.kind is float and isinstance(right, int | float):
            limits = field.marks.get(Range, Range())
            others = [field.default, *(x for x in limits[:2] if np.isfinite(x))]
        for other in dict.fromkeys(x for x in others if isinstance(x, str | bool | int | float)):
            if other != right:
                words = name.replace("_", " ")
                own = OWN_SCHEDULE if name == "schedule" and right is None else _show(right)
                text = f"{words} {_show(other)} instead of {own}"
                yield RunChange(text, {name: other})


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
