"""`callback_on_step_end`: see the latents after every evaluation of the network, and change them.

diffusers calls a callback after every evaluation. A step of ldmref may hold two of them: the state
between is the one at which the second evaluation starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ldmref.compat.diffusers.arrays import to_caller, to_host
from ldmref.errors import UsageError, short_repr
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import on_backend
from ldmref.modes.guidance_parameter import PLAIN
from ldmref.modes.observed import TakenStep
from ldmref.modes.trajectory import RunObserver, Trajectory
from ldmref.samplers import Guidance, get_guidance

CODE = "E-CALLBACK"
# Tensors that a callback may ask for by name and replace.
TEXTS = {"prompt_embeds": "context", "add_text_embeds": "pooled", "add_time_ids": "sizes"}
REPLACED = ("latents", "negative_prompt_embeds", *TEXTS)


class Interrupted(Exception):
    """Raised when the callback sets `pipe._interrupt`; the run returns the current latents."""


@dataclass(eq=False)
class CallbackObserver(RunObserver):
    """Passes the current tensors to a callback, under diffusers' names, and takes what it changes.

    Args:
        pipe: The pipeline, whose `_guidance_scale` and `_interrupt` a callback may set.
        timesteps: The timesteps of the evaluations.
        explodes: Whether latents have the scale x0 + sigma eps.
        callback: `callback_on_step_end`; None: only the last latents are kept.
        names: `callback_on_step_end_tensor_inputs`.
        simple, every: The older `callback(step, timestep, latents)`, called every so many steps.
        tensors: Further tensors by name, which callbacks may only read.
        guided: Whether there is guidance.
        in_use: The guidance scale and the rescaling factor.

    Attributes:
        latents: The latents after the last evaluation, in diffusers' scale, on the backend.
        evaluations: The number of evaluations so far.
        between: Whether the step has evaluated the network before.
        parts: The embeddings, by the name of the prediction.
        changed: Whether the callback has replaced embeddings or guidance since the last evaluation.
        trajectory: The sampling as it was planned.
    """

    pipe: Any
    timesteps: np.ndarray
    explodes: bool
    callback: Callable[..., Any] | None = None
    names: Sequence[str] = ("latents",)
    simple: Callable[..., Any] | None = None
    every: int = 1
    tensors: dict[str, Any] = field(default_factory=dict)
    guided: bool = False
    in_use: tuple[float, float] = (0.0, 0.0)
    latents: Any = None
    evaluations: int = 0
    between: bool = False
    parts: dict[str, Conditioning] = field(default_factory=dict)
    changed: bool = False
    trajectory: Trajectory = field(init=False, repr=False)

    def started(self, trajectory: Trajectory) -> Trajectory:
        """Keep the embeddings, which the callback may read and replace."""
        self.trajectory = trajectory
        self.parts = dict(trajectory.conditionings)
        self.changed = True
        return trajectory

    def evaluating(self, x: Array, sigma: float) -> Trajectory | None:
        """Call the callback between two evaluations of a step; return what it has changed."""
        if self.between:
            self.finish(self.trajectory.model, x, sigma)
        self.between = True
        if not self.changed:
            return None
        self.changed = False
        scale, rescale = self.in_use = self.pipe.guidance
        guidance: Guidance = PLAIN
        if self.guided and rescale:
            guidance = get_guidance({"name": "rescale", "phi": rescale})
        return replace(
            self.trajectory,
            conditionings=dict(self.parts),
            cfg_scale=float(scale) if self.guided else 1.0,
            guidance=guidance,
        )

    def stepped(self, step: TakenStep) -> Array:
        """Call the callback after a step; return the state or what replaces it."""
        self.between = False
        return self.finish(self.trajectory.model, step.x_next, step.interval.sigma_next)

    def scale(self, sigma: float) -> float:
        """Return the factor from x = x0 + sigma eps to the latents of diffusers."""
        return 1.0 if self.explodes else 1.0 / math.hypot(1.0, sigma)

    def finish(self, model: LatentDiffusion, x: Array, sigma: float) -> Array:
        """Call the callback after an evaluation that has led to x; return x or its new value.

        Raises:
            UsageError: The callback returned something that cannot be used.
            Interrupted: The callback has set `pipe._interrupt`.
        """
        i = self.evaluations
        self.evaluations += 1
        scale = self.scale(sigma)
        self.latents = x if scale == 1.0 else x * scale
        if i < len(self.timesteps):  # an error is traced by a step that is repeated
            x = self._call(model, i, x, scale)
        if self.pipe._interrupt:
            raise Interrupted
        return x

    def _call(self, model: LatentDiffusion, i: int, x: Array, scale: float) -> Array:
        t = to_timestep(model, self.timesteps[i])
        if self.callback is not None:
            x = self._call_on_step_end(model, i, t, x, scale)
        if self.simple is not None and self._ends_step(i) and i % self.every == 0:
            step = i // self.pipe.scheduler.order
            self.simple(step, t, to_caller(model, self.latents))
        return x

    def _ends_step(self, i: int) -> bool:
        n = len(self.timesteps)
        order = self.pipe.scheduler.order
        warmup = n - self.pipe._steps * order
        return i == n - 1 or (i + 1 > warmup and (i + 1) % order == 0)

    def _call_on_step_end(
        self, model: LatentDiffusion, i: int, t: Any, x: Array, scale: float
    ) -> Array:
        ops = model.backend
        before = np.asarray(ops.to_numpy(self.latents), np.float32)
        values = self._values(model)
        shown = {name: values[name] for name in self.names}
        texts = {name: to_host(name, shown[name]) for name in self.names if name in TEXTS}
        returned = self.callback(self.pipe, i, t, dict(shown)) if self.callback else None
        if not isinstance(returned, Mapping):
            raise UsageError(
                f"callback_on_step_end returned {short_repr(returned)}",
                code=CODE,
                hint="end it with: return callback_kwargs",
            )
        after = to_host("latents", returned.get("latents", before))
        if after.shape != before.shape:
            message = f"the callback returned latents of shape {after.shape}, not {before.shape}"
            raise UsageError(message, code=CODE)
        self._replace_texts(model, returned, texts)
        for name in returned.keys() - set(REPLACED):
            if name in values and returned[name] is not values[name]:
                raise UsageError(f"a callback cannot replace {name}", code=CODE)
        if np.array_equal(after, before):
            return x
        if self.between:
            raise UsageError(
                f"{self.pipe.scheduler.kind} evaluates the network twice in a step, and latents "
                "cannot be replaced between the two",
                code=CODE,
                hint="replace them after the second evaluation, or take another scheduler",
            )
        self.latents = on_backend(ops, after)
        return self.latents if scale == 1.0 else self.latents / scale

    def _values(self, model: LatentDiffusion) -> dict[str, Any]:
        """Return the tensors by name; with guidance, negative prompts come first."""
        ops = model.backend
        cond = self.parts["cond"]
        uncond = self.parts["uncond"]
        both = [uncond, cond] if self.guided else [cond]
        texts = np.concatenate([np.asarray(ops.to_numpy(part.context)) for part in both])
        values = {
            "latents": to_caller(model, self.latents),
            "prompt_embeds": to_caller(model, texts),
            "negative_prompt_embeds": to_caller(model, uncond.context),
            **self.tensors,
        }
        if cond.pooled is not None:
            pooled = np.concatenate([np.asarray(ops.to_numpy(part.pooled)) for part in both])
            sizes = np.concatenate([np.asarray(ops.to_numpy(part.sizes)) for part in both])
            values["add_text_embeds"] = to_caller(model, pooled)
            values["add_time_ids"] = to_caller(model, sizes)
        return values

    def _replace_texts(
        self, model: LatentDiffusion, returned: Mapping[str, Any], before: Mapping[str, np.ndarray]
    ) -> None:
        """Use the embeddings and the guidance scale that the callback leaves."""
        guided = self.pipe.do_classifier_free_guidance
        changed = self.pipe.guidance != self.in_use
        rows = len(self.latents)
        for name, key in TEXTS.items():
            if name not in returned or name not in before:
                continue
            after = to_host(name, returned[name])
            if not changed and np.array_equal(after, before[name]):
                continue
            wanted = rows * (2 if guided else 1)
            if after.shape != (wanted, *before[name].shape[1:]):
                raise UsageError(
                    f"the callback returned {name} of {len(after)} rows for {wanted}",
                    code=CODE,
                    hint="with guidance, the rows of the negative prompts come first",
                )
            changed = True
            own = model.backend.asarray
            self.parts["cond"] = self.parts["cond"]._replace(**{key: own(after[-rows:])})
            self.parts["uncond"] = self.parts["uncond"]._replace(**{key: own(after[:rows])})
        if changed:
            self.guided = guided
            self.changed = True


def to_timestep(model: LatentDiffusion, t: Any) -> Any:
    """Return a timestep as a scalar: of torch if torch is in use, otherwise of NumPy."""
    found = to_caller(model, np.asarray([t], np.float32))
    if not hasattr(found, "detach"):
        return t
    return found[0].long() if isinstance(t, np.integer) else found[0].float()
