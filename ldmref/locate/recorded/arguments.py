"""The arguments of a recorded call, with shapes for those that were not recorded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.locate.recorded.names import latent_scale, read_array, read_output, read_role
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.trace.model import Trace

UPSAMPLER = re.compile(r".*\.upsamplers\.\d+", re.ASCII)  # whose input is half as large
TABLE_OF_DISTANCES = "relative_attention_bias"  # T5's, whose rows are of no text


class RecordedArguments:
    """The recorded whole-call inputs of a call, with shapes for those that were not recorded."""

    def __init__(self, port: Trace, call: str, model: LatentDiffusion, assume: bool = False):
        self.port = replace(port, entries=()) if assume else port
        self.call = call
        self.model = model
        self.complete = True
        entry = self.port.find(call)
        self.roles = {} if entry is None else entry.inputs

    def read(self, *names: str) -> np.ndarray | None:
        for name in names:
            if name in self.roles:
                return read_array(self.port, self.roles[name])
        return None

    def layer_input(self, ending: str, role: str = "input") -> np.ndarray | None:
        """Return the recorded input of the first layer whose name ends with these parts."""
        for entry in self.port.of_call(self.call):
            if f".{entry.layer}".endswith(f".{ending}"):
                found = read_role(self.port, entry.inputs, role)
                if found is not None:
                    return found
        return None

    def text_shape(self) -> tuple[int, int] | None:
        """Return the number of texts and of their tokens, from the first layer that tells it."""
        found = None
        for entry in self.port.of_call(self.call):
            distances = entry.layer.endswith(TABLE_OF_DISTANCES)
            for name in (*entry.inputs.values(), *entry.outputs.values()):
                shape = [*np.shape(self.port.tensors[name])]
                if distances and len(shape) > 1:  # (l, l), with heads
                    found = 1, shape[1]
                elif len(shape) in (3, 4):  # tokens of a width, or heads of tokens
                    return shape[0], shape[-2]
        return found

    def length(self, *endings: str) -> int:
        """Return the number of tokens of the layers whose names end so; 1 if unknown."""
        for entry in self.port.of_call(self.call):
            output = read_output(self.port, entry) if entry.layer.endswith(endings) else None
            if output is not None and output.ndim == 3:
                return output.shape[1]
        return 1

    def whole_output(self) -> np.ndarray | None:
        """Return the recorded output of the call."""
        return self.layer_output("")

    def layer_output(self, layer: str) -> np.ndarray | None:
        """Return the recorded output of a layer."""
        entry = self.port.find(self.call, layer)
        return None if entry is None else read_output(self.port, entry)

    def residuals(self, controlnets: Sequence[ControlNet]) -> Any | None:
        """Return the residuals of ControlNets as the denoiser adds them, None if there were none.

        Args:
            controlnets: The ControlNets of the run; (): they are not known.
        """
        config = self.model.config
        declared = self.model.family.control
        if declared is None:
            return None
        found: dict[str, Any] = {}
        for field, expected in declared.inputs(config)._asdict().items():
            name = f"control.{field}"
            part = self.read_numbered(name) if isinstance(expected, tuple) else self.read(name)
            if part is not None and len(part):
                found[field] = part
        kind: Any = declared.residuals
        if not found or set(kind._fields) - {*found, *kind._field_defaults}:
            return None
        net = controlnets[0].config if controlnets else None
        return declared.place(config, net, kind(**found))

    def read_numbered(self, name: str) -> tuple[np.ndarray, ...]:
        """Return the inputs `name.0`, `name.1`, ..."""
        found: list[np.ndarray] = []
        while (part := self.read(f"{name}.{len(found)}")) is not None:
            found.append(part)
        return tuple(found)

    def missing(self, shape: tuple[int, ...]) -> np.ndarray:
        self.complete = False
        return np.full(shape, np.nan)

    def batch_and_size(self, levels: int) -> tuple[int, int, int]:
        """Return n, h and w of the latents, from any recorded layer."""
        n = 1
        for entry in self.port.of_call(self.call):
            for name in [*entry.inputs.values(), *entry.outputs.values()][:1]:
                shape = list(np.shape(self.port.tensors[name]))
                scale = latent_scale(entry.layer, levels)
                if scale and not entry.inputs:
                    scale *= 2.0 if ".downsamplers." in entry.layer else 1.0
                    scale /= 2.0 if UPSAMPLER.fullmatch(entry.layer) else 1.0
                if len(shape) > 1:
                    n = shape[0]
                if scale and len(shape) == 4:
                    return n, round(shape[2] * scale), round(shape[3] * scale)
                side = math.isqrt(shape[1]) if scale and len(shape) == 3 else 0
                if scale and side and side * side == shape[1]:
                    return n, round(side * scale), round(side * scale)
        smallest = 2**levels
        return n, smallest, smallest
