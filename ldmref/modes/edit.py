"""Editing of an image along the flow of a model: FlowEdit and RF inversion."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.modes.channels import encode_image
from ldmref.modes.checks import check_mode
from ldmref.modes.edit_methods import FlowEdit, RFInversion
from ldmref.modes.edit_parameters import FlowEditParameters, RFInversionParameters
from ldmref.modes.guidance_parameter import plain_guidance
from ldmref.modes.initial import InitialState
from ldmref.modes.registry import Watched, mode
from ldmref.modes.requests import Edit
from ldmref.modes.resolve import resolve
from ldmref.modes.result import Result
from ldmref.modes.run import Plan
from ldmref.modes.sizing import size_image
from ldmref.modes.validation import code_for

OF_METHOD = {"flowedit": FlowEditParameters, "rf_inversion": RFInversionParameters}


def plan_edit(config: ModelConfig, request: Edit) -> Plan:
    """Check a request; the initial state is the image itself."""
    check_mode(config, "edit")
    image, resize, warnings = size_image(
        config, request.image, request.width, request.height, request.resize
    )
    request = replace(request, width=image.width, height=image.height, resize=resize)
    request = replace(request, **choose_published(config, request))
    job = resolve(config, "edit", request, sampler="euler")
    method = make_method(request, job.steps)
    if config.denoiser.is_flow_map:
        check_flow_map_edit(config, method)
    if isinstance(method, FlowEdit):
        job = replace(job, first_step=job.steps - method.n_max)

    def start(model: LatentDiffusion) -> InitialState:
        source = [method.source_prompt]
        known = encode_image(model, image)
        return InitialState(
            image=known,
            from_noise=False,
            edit=method,
            prompts=source,
            scales=[method.source_cfg_scale],
        )

    per_source_call = plain_guidance(config).evaluations(method.source_cfg_scale)
    return Plan(
        request,
        job,
        start,
        warnings=tuple(warnings),
        calls=method.target_calls,
        more_evaluations=method.source_calls * per_source_call,
    )


def choose_published(config: ModelConfig, request: Edit) -> dict[str, Any]:
    """Return the parameters that a request leaves to its method, with their published values.

    FlowEdit takes 33 of 50 steps with SD3, at scales of 3.5 and 13.5, and 24 of 28 with Flux.1
    [dev], at 1.5 and 5.5. A model that is used without guidance is edited without guidance.

    Raises:
        UsageError: A parameter belongs to the other method.
    """
    for method, parameters in OF_METHOD.items():
        for name in (field.name for field in fields(parameters)):
            if method != request.method and getattr(request, name) is not None:
                raise UsageError(
                    f"{name} is a parameter of method {method!r}, not of {request.method!r}",
                    code=code_for(name),
                    hint=f"leave it out, or use method={method}",
                )
    steps = request.steps or config.defaults.steps
    reads = config.denoiser.reads_guidance
    guided = reads or config.defaults.cfg_scale != 1.0
    own: dict[str, Any]
    if request.method == "rf_inversion":
        scales = (0.0 if reads else 1.0, config.defaults.cfg_scale)
        own = {"gamma": 0.5, "keep": 0.9, "keep_start": 0.0, "keep_end": 0.25}
    else:
        scales = (1.5, 5.5) if reads else (3.5, 13.5) if guided else (1.0, 1.0)
        share = 33 / 50 if guided and not reads else 24 / 28
        own = {"n_max": max(1, round(steps * share)), "n_min": 0, "n_avg": 1}
    own |= {"source_cfg_scale": scales[0], "cfg_scale": scales[1]}
    asked = {name: getattr(request, name) for name in own}
    return {name: value if asked[name] is None else asked[name] for name, value in own.items()}


def make_method(request: Edit, steps: int) -> FlowEdit | RFInversion:
    """Return the method of a request in which every parameter of it is set.

    Raises:
        UsageError: Two parameters exclude each other.
    """
    source: dict[str, Any] = {
        "source_prompt": request.source_prompt,
        "source_cfg_scale": request.source_cfg_scale,
    }
    names = [field.name for field in fields(OF_METHOD[request.method])]
    own = {name: getattr(request, name) for name in names}
    if request.method == "flowedit":
        if not own["n_min"] < own["n_max"] <= steps:
            raise UsageError(
                f"n_max {own['n_max']} must be more than n_min {own['n_min']}, and at most the "
                f"{steps} steps",
                code="E-N-MAX",
                hint="leave n_max and n_min out, or change steps",
            )
        return FlowEdit(**source, **own)
    if own["keep_start"] > own["keep_end"]:
        raise UsageError(
            f"keep_start {own['keep_start']:g} is after keep_end {own['keep_end']:g}",
            code="E-KEEP-START",
            hint="both are fractions of the steps, such as 0 and 0.25",
        )
    return RFInversion(**source, steps=steps, **own)


def check_flow_map_edit(config: ModelConfig, method: FlowEdit | RFInversion) -> None:
    """Refuse what a flow map cannot do: to go up to noise, or to be guided.

    Raises:
        UsageError: The method or its scale asks for it.
    """
    if isinstance(method, RFInversion):
        raise UsageError(
            f"{config.name!r} is a flow map, which goes from noise to images alone",
            code="E-MODE",
            hint="use method=flowedit",
        )
    if method.source_cfg_scale != 1.0:
        error = UsageError(
            f"guidance is baked into {config.name!r}, which takes no source_cfg_scale="
            f"{method.source_cfg_scale:g}",
            code="E-CFG-SCALE",
            hint="leave it out",
        )
        error.parameter = "source_cfg_scale"
        raise error


@dataclass(frozen=True, eq=False, repr=False)
class EditArguments(Watched, Edit):
    """The arguments of `edit` after the model."""


@mode(plan_edit, EditArguments)
def edit(model: LatentDiffusion, request: Edit, watched: Watched) -> Result:
    """Edit an image along the flow of a model: what the prompts share stays as it is.

    `flowedit` moves the image along the difference between the velocities of the prompt and of the
    source prompt, each at the same noise, and never inverts it (Kulikov et al. 2024,
    arXiv:2412.08629, algorithm 1). With both prompts and scales equal, nothing changes.
    `rf_inversion` follows the flow of the source prompt up to noise, pulled by `gamma` towards
    noise of the seed, and that of the prompt down again, pulled by `keep` towards the image (Rout
    et al. 2024, arXiv:2410.10792, algorithms 1 and 2).

    Both take Euler's steps from the mean of the image's posterior, and need a model of flow
    matching (SD3, Flux). Sizes are those of `img2img`.

    Returns:
        A `Result`: the images (RGB), their latents (n, c, h, w) float32 and seeds, the resolved
        parameters, and warnings.

    Raises:
        UsageError, ResourceError, ImageError: An argument or the image is wrong, or the model is
            not one of flow matching; nothing was computed.
        Cancelled, NumericError: See `ldmref.errors`.

    Example:
        >>> import ldmref
        >>> from PIL import Image
        >>> from ldmref.errors import UsageError
        >>> photo = Image.new("RGB", (16, 16), "teal")
        >>> try:
        ...     edit(ldmref.random_model("tiny"), "a dog", photo, "a cat")
        ... except UsageError as error:
        ...     print(error)
        edit needs a model of flow matching, which 'tiny' is not
    """
    return plan_edit(model.config, request).run(model, watched.callback, watched.cancel)
