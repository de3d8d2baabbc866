"""The fields of a configuration that a model reads: those of its forward process and encoders."""

from __future__ import annotations

from typing import Any

from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.text_kind import kind_of
from ldmref.samplers.config import SchedulerConfig

_LINE = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
_SHIFT = ("shift", "dynamic_shift", "shift_rule", *_LINE, "shift_terminal", "flow_times")
_OF_EVERY_PATH = """
    num_train_timesteps prediction_type sampler spacing lower_order_final clip_sample_range
    thresholding_ratio sample_max_value
""".split()


def list_fields_read(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as `config.to_dict()` does, without the fields that nothing reads.

    A flow has no betas, a diffusion no shift, a text encoder only the fields of its kind,
    and a model without segmentation maps no classes of them.

    >>> from ldmref.models import preset
    >>> fields = list_fields_read(preset("flux-tiny"))
    >>> "beta_start" in fields["scheduler"], fields["scheduler"]["dynamic_shift"]
    (False, True)
    """
    found = config.to_dict()
    found["scheduler"] = _select_scheduler(config.scheduler, found["scheduler"])
    for name in TEXT_ENCODERS:
        if name in found:
            read = kind_of(getattr(config, name)).fields or tuple(found[name])
            found[name] = {key: value for key, value in found[name].items() if key in read}
    if config.concat != "segmentation":
        del found["segmentation_classes"]
    return found


def _select_scheduler(config: SchedulerConfig, values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a forward process that its kind of path reads."""
    if config.prediction_type != "flow":
        return {key: value for key, value in values.items() if key not in _SHIFT}
    left_out = {"shift"} if config.dynamic_shift else {"shift_rule"}
    if not config.dynamic_shift or config.shift_rule != "linear":
        left_out |= {*_LINE}
    if config.dynamic_shift and config.shift_rule == "constant":
        left_out -= {"max_shift"}
    read = {*_OF_EVERY_PATH, *_SHIFT} - left_out
    return {key: value for key, value in values.items() if key in read}
