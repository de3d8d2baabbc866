"""Trace steps of a training: batch, noise, prediction, loss, and the gradient of each layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.models.config import ModelConfig
from ldmref.support.version import __version__
from ldmref.trace.backend import LayerRecordingBackend
from ldmref.trace.files import TraceWriter
from ldmref.trace.recorder import Recorder
from ldmref.trace.selection import Selection
from ldmref.trace.store import SpooledStore
from ldmref.training.observe import ObservedBatch

if TYPE_CHECKING:
    import torch

ROLES = ("indices", "timesteps", "x0", "noise", "x_t", "prediction", "target")


class TrainingTrace:
    """Writes steps of a denoiser's training as a trace; an observer of `train` and `fine_tune`.

    A step is one call `train.NNN`, numbered by the step, in addition to the calls of the text
    encoder and the U-Net that it makes. The training is not changed by a bit.

    Args:
        folder: The folder to write.
        config: The model that is trained.
        steps: The steps to record, from 0; those before the first step of a resumed training are
            left out.
        selection: Layers and calls to record; None: all.
        params, seeds: The recipe and its seed, for the manifest.
        overwrite: Whether a trace in `folder` is replaced.

    Raises:
        OutputError: The folder has a trace, or cannot be written.

    Example:
        with TrainingTrace(folder, recipe.model, steps=[0]) as trace:
            train(recipe, run, observer=trace)
    """

    def __init__(
        self,
        folder: str | Path,
        config: ModelConfig,
        steps: tuple[int, ...] = (0,),
        *,
        selection: Selection | None = None,
        params: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (),
        overwrite: bool = False,
    ):
        path = Path(folder)
        self.config = config
        self.steps = frozenset(steps)
        self.recorded: list[int] = []
        selected = selection or Selection()
        manifest = {
            "program": {"name": "ldmref", "version": __version__},
            "model": {"name": config.name, "config": config.to_dict()},
            "params": dict(params or {}),
            "seeds": list(seeds),
            "selection": dict(selected.record),
        }
        self.writer = TraceWriter(path, manifest, overwrite=overwrite)
        self.recorder = Recorder(self.writer, partial(SpooledStore, path), selected)
        self._step: int | None = None
        self._watch: LayerRecordingBackend | None = None
        self._batches: list[ObservedBatch] = []
        self._first = 0  # number of the first U-Net call of the step

    def begin(self, step: int, ops: Backend) -> Backend:
        """Begin a step; return the backend that records it, or `ops`."""
        self._step = step if step in self.steps else None
        self._batches = []
        if self._step is None:
            return ops
        self.writer.manifest |= {"backend": ops.describe(), "dtype": ops.dtype}
        self._first = self.recorder.count(self.config.denoiser.network)
        self._watch = LayerRecordingBackend(ops, self.recorder, self.config)
        return self._watch

    def batch(self, batch: ObservedBatch) -> None:
        """Keep a part of the batch of a step that is recorded."""
        if self._step is not None:
            self._batches.append(batch)

    def end(
        self, gradients: Mapping[str, torch.Tensor], norm: float, loss: float, rate: float
    ) -> None:
        """Write the call of a step."""
        if self._step is None or self._watch is None:
            return
        ops = self._watch.inner
        network = self.config.denoiser.network
        with self.recorder.call("train", ops, self._step) as call:
            if call is not None:
                inputs = {name: self._joined(ops, name) for name in ROLES}
                outputs = {
                    "losses": self._joined(ops, "losses"),
                    "loss": float(loss),
                    "grad_norm": float(norm),
                }
                call.add(
                    "",
                    "train",
                    {name: x for name, x in inputs.items() if x is not None},
                    {
                        "step": self._step,
                        "prompts": [p for batch in self._batches for p in batch.prompts],
                        "rate_factor": rate,
                        "parts": len(self._batches),
                        "evaluations": [
                            f"{network}.{i:03}"
                            for i in range(self._first, self.recorder.count(network))
                        ],
                    },
                    outputs,
                )
                for layer, parameters in group_by_layer(gradients).items():
                    size = gradient_norm(ops, parameters.values())
                    names = {"parameters": list(parameters)}
                    call.add(layer, "gradient", {}, names, {"grad_norm": size})
        self.recorded.append(self._step)
        self._step = None

    def _joined(self, ops: Backend, name: str) -> np.ndarray | None:
        """Return an array of the whole batch on the host."""
        parts = [getattr(batch, name) for batch in self._batches]
        if parts[0] is None:
            return None
        arrays = [x if isinstance(x, np.ndarray) else ops.to_numpy(x) for x in parts]
        return np.concatenate(arrays)

    def close(self) -> None:
        """Write the manifest."""
        if self._watch is not None:
            self._watch.abandon()
        self.writer.manifest["steps"] = self.recorded
        self.writer.close(complete=self.steps <= {*self.recorded})

    def __enter__(self) -> TrainingTrace:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def group_by_layer(gradients: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the gradients of each layer, by the parameter's name in it.

    The parameters of a LoRA, `LAYER.weight.down` and `.up`, count as the layer's; a parameter
    outside of layers, such as the vectors of a word, as a layer of its name.
    """
    layers: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, gradient in gradients.items():
        layer = name.rpartition(".")[0].removesuffix(".weight") or name
        layers[layer][name.removeprefix(layer).removeprefix(".")] = gradient
    return layers


def gradient_norm(ops: Backend, gradients: Iterable[torch.Tensor]) -> float:
    """Return the norm over all elements of several gradients."""
    arrays = [np.asarray(ops.to_numpy(gradient), np.float64) for gradient in gradients]
    return math.sqrt(sum(float(np.vdot(x, x)) for x in arrays))
