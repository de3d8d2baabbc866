"""The fields of a configuration that a model reads: all others may change without effect."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.models import preset
from ldmref.models.config import TEXT_ENCODERS, TextConfig
from ldmref.models.fields_read import list_fields_read
from ldmref.models.params import init
from ldmref.models.presets import list_presets
from ldmref.models.text import text_encoder, text_spec
from ldmref.models.text_kind import find_text_encoder
from ldmref.samplers import SAMPLERS, SchedulerConfig, configured_step, make_schedule, sample
from ldmref.samplers.spacings import FLOW_SUMMARIES

OTHERS = {str: "linear", float: 0.5, int: 7, bool: True, tuple: (0.1,)}
ACTIVATIONS = {"clip": "gelu", "t5": "gelu_new"}
SMALL = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
         "num_attention_heads": 2, "max_position_embeddings": 5}  # fmt: skip


def changed(config, name):
    """A configuration with another value of a field."""
    value = getattr(config, name)
    if isinstance(value, bool):
        return replace(config, **{name: not value})
    return replace(config, **{name: OTHERS[type(value)]})


def levels_and_results(config):
    """The levels of every schedule of a flow, and what samplers make of an analytic denoiser."""
    found = []
    for name in ("euler", "heun", "dpmpp_2m", "lcm", config.sampler):
        for spacing in (None, *FLOW_SUMMARIES):
            schedule = make_schedule(config, SAMPLERS[name], spacing, 4, tokens=16)
            step, _ = configured_step(config, SAMPLERS[name], schedule)
            x = np.ones((1, 1, 2, 2))
            *_, last = sample(lambda x, sigma: 0.3 * x, x, schedule.sigmas, step,
                              noise=lambda: np.full((1, 1, 2, 2), 0.1))  # fmt: skip
            found += [schedule.sigmas, schedule.timesteps, last.x]
    return found


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_flow_computes_the_same_whatever_the_other_fields_are(dynamic):
    scheduler = replace(preset("sd3-tiny").scheduler, dynamic_shift=dynamic)
    config = replace(preset("sd3-tiny"), scheduler=scheduler)
    read = list_fields_read(config)["scheduler"]
    left_out = [field.name for field in fields(SchedulerConfig) if field.name not in read]
    assert "beta_start" in left_out and ("shift" in left_out) == dynamic
    want = levels_and_results(scheduler)
    for name in left_out:
        found = levels_and_results(changed(scheduler, name))
        assert all(map(np.array_equal, found, want)), name


@pytest.mark.parametrize("name", ["shift", "num_train_timesteps", "shift_terminal", "spacing"])
def test_what_is_listed_of_a_flow_counts(name):
    config = preset("sd3-tiny").scheduler
    assert name in list_fields_read(preset("sd3-tiny"))["scheduler"]
    other = replace(config, spacing="flow") if name == "spacing" else changed(config, name)
    found = levels_and_results(other)
    assert not all(map(np.array_equal, found, levels_and_results(config)))


@pytest.mark.parametrize("kind", ["clip", "t5", "ldmbert"])
def test_a_text_encoder_computes_the_same_whatever_the_other_fields_are(kind):
    config = TextConfig(kind, **SMALL, hidden_act=ACTIVATIONS.get(kind, "quick_gelu"))
    ids = np.asarray([[1, 4, 2, 19, 19]])

    def encode(config):
        params = init(text_spec(config), 0)
        return text_encoder(get_backend("numpy"), params, config, ids)

    want = encode(config)
    for field in fields(TextConfig):
        if field.name not in (*find_text_encoder(kind).fields, "hidden_act", "class_names"):
            np.testing.assert_array_equal(encode(changed(config, field.name)), want, field.name)


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_keeps_its_parts_and_a_diffusion_its_betas(name):
    config = preset(name)
    read = list_fields_read(config)
    assert {*config.to_dict()} - {*read} <= {"segmentation_classes"}
    flow = config.scheduler.prediction_type == "flow"
    assert ("beta_start" in read["scheduler"]) != flow == ("shift_terminal" in read["scheduler"])
    for encoder in TEXT_ENCODERS:
        t5 = read.get(encoder, {}).get("model_type") == "t5"
        assert ("relative_attention_num_buckets" in read.get(encoder, {})) == t5
