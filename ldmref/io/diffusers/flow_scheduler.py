"""The scheduler of models trained with flow matching, of a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.io.diffusers.checks import config_error, require_plain
from ldmref.samplers.config import SchedulerConfig

FLOW_EULER = "FlowMatchEulerDiscreteScheduler"
FLOW_FIELDS: dict[str, Any] = {  # with their defaults, diffusers 0.42.1
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5,
    "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096,
    "invert_sigmas": False, "shift_terminal": None, "use_karras_sigmas": False,
    "use_exponential_sigmas": False, "use_beta_sigmas": False, "time_shift_type": "exponential",
    "stochastic_sampling": False,
}  # fmt: skip
FLOW_PLAIN: dict[str, tuple[Any, ...]] = {
    "invert_sigmas": (False,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "time_shift_type": ("exponential",),
}
# Pipelines that let the scheduler space the levels over its table; others give 1, ..., 1/n.
ON_TABLE = (
    "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline", "StableDiffusion3ControlNetPipeline",
)  # fmt: skip


def convert_flow_config(data: Mapping[str, Any], pipeline: str = "") -> SchedulerConfig:
    """Convert the scheduler_config.json of a `FlowMatchEulerDiscreteScheduler`.

    Args:
        data: The contents of the file.
        pipeline: The class of the pipeline, which decides how levels are spaced before the shift.

    Raises:
        CorruptModelError: The configuration is not supported.

    >>> config = convert_flow_config({"shift": 3.0}, "StableDiffusion3Pipeline")
    >>> config.shift, config.spacing, config.sampler
    (3.0, 'flow_table', 'euler')
    """
    values = FLOW_FIELDS | {name: data[name] for name in FLOW_FIELDS.keys() & data.keys()}
    require_plain(values, FLOW_PLAIN, "the scheduler's configuration")
    if values["base_image_seq_len"] == values["max_image_seq_len"]:
        raise config_error("base_image_seq_len and max_image_seq_len of the scheduler are equal")
    return SchedulerConfig(
        num_train_timesteps=values["num_train_timesteps"],
        prediction_type="flow",
        # x0 and fresh noise, as in LCM
        sampler="lcm" if values["stochastic_sampling"] else "euler",
        spacing="flow_table" if pipeline in ON_TABLE else "flow",
        final_sigma="zero",
        shift=float(values["shift"]),
        dynamic_shift=bool(values["use_dynamic_shifting"]),
        base_shift=float(values["base_shift"]),
        max_shift=float(values["max_shift"]),
        base_image_seq_len=values["base_image_seq_len"],
        max_image_seq_len=values["max_image_seq_len"],
        shift_terminal=float(values["shift_terminal"] or 0.0),
    )
