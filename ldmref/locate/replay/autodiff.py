"""Gradients of a recorded training step, computed again by PyTorch from the recorded inputs.

The loss of a step with n examples is

    L = 1/n sum_i w_i mean((f(x_t, t, c)_i - target_i)^2)

Its gradient in the denoiser's parameters is a sum over the examples, which are computed one after
the other: only the activations of a single one are in memory. The gradient in the text encoders'
parameters follows by the chain rule from dL/dc and the recorded prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.locate.law import NOISE
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.precision import EPSILONS, round_to
from ldmref.locate.replay.networks import RecordedNetwork
from ldmref.models.model import TEXT_ENCODERS, LatentDiffusion
from ldmref.models.params import Params, flatten, tree_map
from ldmref.modes.text import encode_conditioning

SAME_CONTEXT = 1e-3  # relative difference up to which a context is that of its prompts
CONDITIONS = ("context", "pooled")


@dataclass(frozen=True)
class DenoiserEvaluation:
    """One evaluation of the denoiser in a training step.

    Attributes:
        network: The denoiser with its recorded inputs.
        target: What its output is compared with, (n, c, h, w).
        weights: The factors w_i / n of the examples' losses, (n,).
        prompts: The prompts of the examples; [] if they were not recorded.
    """

    network: RecordedNetwork
    target: np.ndarray
    weights: np.ndarray
    prompts: Sequence[str] = ()


@dataclass
class StepGradients:
    """The gradients of a training step in a number format, by parameter.

    Args:
        model: The model before the step.
        evaluations: All evaluations of the step.
        dtype: The number format of all computations.
        stored: The port's number format, to which the parameters are rounded.
    """

    model: LatentDiffusion
    evaluations: Sequence[DenoiserEvaluation]
    dtype: str
    stored: str

    @cached_property
    def ops(self) -> Backend:
        """The backend that records gradients."""
        return get_backend("torch", device="cpu", dtype=self.dtype).differentiable()

    def leaves(self, params: Mapping[str, Any]) -> Params:
        """Return parameters as tensors whose gradients are recorded."""

        def leaf(x: Any) -> torch.Tensor:
            rounded = np.array(round_to(self.model.backend.to_numpy(x), self.stored))
            return self.ops.asarray(rounded).requires_grad_()

        return tree_map(leaf, params)

    @property
    def denoiser(self) -> dict[str, torch.Tensor]:
        """The gradients in the denoiser's parameters, by `unet.NAME` or `transformer.NAME`."""
        return self._own_and_conditions[0]

    @cached_property
    def _own_and_conditions(
        self,
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
        """The gradients in the denoiser's parameters, and in the conditions of each evaluation."""
        conditions = []
        network = self.model.config.denoiser.network
        params = self.leaves(self.model.params[network])
        for evaluation in self.evaluations:
            arguments = dict(evaluation.network.arguments)
            found: dict[str, list[torch.Tensor]] = {name: [] for name in CONDITIONS}
            for i, weight in enumerate(evaluation.weights):
                inputs = {name: self._example(name, x, i) for name, x in arguments.items()}
                output = evaluation.network.function(self.ops, params, **inputs)
                target = self.ops.asarray(evaluation.target[i : i + 1])
                error = output[:, : target.shape[1]] - target
                (float(weight) * error.square().mean()).backward()
                for name in CONDITIONS:
                    if inputs.get(name) is not None:
                        found[name].append(inputs[name].grad)
            conditions.append({name: torch.cat(parts) for name, parts in found.items() if parts})
        return _collect(network, params), conditions

    def _example(self, name: str, value: object, i: int) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        tensor = self.ops.asarray(value[i : i + 1])
        return tensor.requires_grad_() if name in CONDITIONS else tensor

    @cached_property
    def text(self) -> dict[str, torch.Tensor] | None:
        """The gradients in the text encoders' parameters; None if the context is another one.

        The context is another one if the prompts were not recorded, or if the port did not encode
        them as the model does.
        """
        if not all(part.prompts for part in self.evaluations):
            return None
        names = [name for name in TEXT_ENCODERS if name in self.model.params]
        params = {name: self.leaves(self.model.params[name]) for name in names}
        model = self.model.with_params(params, self.ops)
        allowed = max(SAME_CONTEXT, NOISE * EPSILONS[self.stored])
        for part, gradients in zip(self.evaluations, self._own_and_conditions[1], strict=True):
            height, width = (s * self.model.config.vae.factor for s in part.target.shape[-2:])
            encoded = encode_conditioning(model, part.prompts, (width, height))._asdict()
            for name in gradients:
                recorded = part.network.arguments[name]
                if relative_error(self.ops.to_numpy(encoded[name]), recorded) > allowed:
                    return None
            outputs = [encoded[name] for name in gradients]
            torch.autograd.backward(outputs, [*gradients.values()])
        return {key: x for name in names for key, x in _collect(name, params[name]).items()}


def _collect(network: str, params: Params) -> dict[str, torch.Tensor]:
    """Return the gradients as float64; zeros for parameters that were not used."""
    return {
        f"{network}.{name}": (torch.zeros_like(x) if x.grad is None else x.grad).double()
        for name, x in flatten(params).items()
    }
