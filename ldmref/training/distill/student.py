"""The student: the teacher's networks, of which the denoiser also reads where a step leads.

It begins as the teacher, because the last layer that embeds the second time is zero. Its guidance
scale is a part of its weights, so its configuration has the scale 1 and refuses any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.io.checkpoint import read_model_config
from ldmref.io.native import save_folder
from ldmref.models.config import TOKENIZERS, ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.params import Params, flatten, init, tree_map, unflatten
from ldmref.samplers import get_sampler
from ldmref.samplers.config import LEARNED
from ldmref.samplers.path import FLOW
from ldmref.training.finetune.recipe import DistillConfig, FineTuneRecipe

FIELD = "flow_map"  # of a denoiser's configuration
LAST = (".linear_2.weight", ".linear_2.bias")  # of an embedding of times
STEPS = 4  # a run of the teacher is divided into four


def check_teacher(config: ModelConfig, distill: DistillConfig) -> None:
    """Refuse a model from which no flow map can be made, or runs that it could not learn.

    Raises:
        UsageError: Its denoiser has no second time, is a flow map or learns variances; the sampler
            adds noise or is adaptive, or the number of steps is not a multiple of 4; or the model
            with which the student is to begin is not a flow map of the student's kind.
        InputError: There is no such model.
    """
    problem, hint = "", "choose another base"
    sampler = get_sampler(distill.sampler)
    if config.denoiser.is_flow_map:
        problem = "it is a flow map"
    elif FIELD not in {field.name for field in dataclasses.fields(config.denoiser)}:
        problem = f"the denoiser of {config.denoiser.family!r} has no second time"
    elif config.scheduler.variance_type == LEARNED:
        problem = "it learns variances"
    elif sampler.draws_noise(None) or sampler.adaptive:
        problem = f"runs of sampler {distill.sampler!r} are not functions of their noise"
        hint = "distill.sampler: ddim, euler, heun or dpmpp_2m"
    elif distill.steps % STEPS:
        problem = f"distill.steps must be a multiple of {STEPS}, not {distill.steps}"
        hint = "20"
    if problem:
        message = f"recipe: {config.name!r} cannot be distilled: {problem}"
        raise UsageError(message, code="E-RECIPE", hint=hint)
    if distill.initial:
        student = make_student(config, distill)
        found = read_model_config(distill.initial)
        if (found.denoiser, found.scheduler) != (student.denoiser, student.scheduler):
            message = (
                f"recipe: distill.initial: {distill.initial!r} is not a flow map of the same base"
            )
            hint = (
                "choose a map that `ldmref finetune distill` made from this base, or leave it out"
            )
            raise UsageError(message, code="E-RECIPE", hint=hint)


def make_student(teacher: ModelConfig, distill: DistillConfig) -> ModelConfig:
    """Return the configuration of the student of a teacher."""
    jumping = "euler" if teacher.scheduler.path is FLOW else "ddim"
    return replace(
        teacher,
        name=f"{teacher.name}-flow-map",
        denoiser=replace(teacher.denoiser, **{FIELD: True}),
        scheduler=replace(teacher.scheduler, sampler=jumping, spacing=distill.schedule),
        defaults=replace(
            teacher.defaults, steps=distill.default_steps, cfg_scale=1.0, inpaint_cfg_scale=0.0
        ),
    )


def initial_student(config: ModelConfig, teacher: Params, seed: int) -> Params:
    """Return the denoiser's first parameters: the teacher's, and an embedding that is zero.

    Args:
        config: The configuration of the student.
        teacher: The parameters of the teacher's denoiser, NumPy's.
        seed: Of the first layer of the embedding.
    """
    known = flatten(teacher)
    shapes = flatten(model_spec(config)[config.denoiser.network])
    new = flatten(init({name: s for name, s in shapes.items() if name not in known}, seed))
    flat = {k: np.zeros_like(v) if k.endswith(LAST) else v for k, v in new.items()}
    return unflatten(known | flat)


def read_initial(name: str, network: str) -> Params:
    """Return the denoiser of the flow map with which a student begins, NumPy's arrays.

    Args:
        name: A name, file or folder of `ldmref.load`; `check_teacher` has compared it.
        network: The name of the denoiser.

    Raises:
        InputError: The model cannot be read.
    """
    from ldmref.loading import load  # not when a recipe is only checked

    return tree_map(np.asarray, load(name, backend="numpy").params[network])


class DistillAdapter:
    """The parameters of the student's denoiser, written as a model with the teacher's others."""

    def __init__(
        self,
        recipe: FineTuneRecipe,
        model: LatentDiffusion,
        caption: Callable[[int, np.random.Generator], str],
    ):
        self.caption = caption
        self.config = make_student(model.config, recipe.distill)
        name = self.config.denoiser.network
        if recipe.distill.initial:
            initial = read_initial(recipe.distill.initial, name)
        else:
            teacher = tree_map(model.backend.to_numpy, model.params[name])
            initial = initial_student(self.config, teacher, recipe.seed)
        self.initial = Params({name: initial})
        self.model = model.with_params({}, model.backend)
        self.model.config = self.config

    def adapted(self, ops: Backend, params: Params) -> LatentDiffusion:
        """Return the student with the trained parameters."""
        return self.model.with_params(params, ops)

    def file(self, folder: Path) -> Path:
        """Return the path to which `write` writes."""
        return folder / "model"

    def write(self, folder: Path, params: Params) -> None:
        """Write the trained parameters."""
        tokenizers = [t for t in (getattr(self.model, name) for name in TOKENIZERS) if t]
        networks = tree_map(self.model.backend.to_numpy, Params(self.model.params)) | params
        save_folder(self.file(folder), self.config, Params(networks), tokenizers)
