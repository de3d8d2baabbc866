"""The rules between fields of Flux.1, FLUX.2, FLUX.3, SD3 and Krea 2, each on both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ldmref.families.flux import config as flux
from ldmref.families.flux2 import config as flux2
from ldmref.families.flux3 import config as flux3
from ldmref.families.krea2 import config as krea2
from ldmref.families.sd3 import config as sd3
from ldmref.models import preset
from ldmref.models.family import family_of

TINY = {
    "flux-tiny": flux,
    "flux2-tiny": flux2,
    "flux3-tiny": flux3,
    "krea-2-tiny": krea2,
    "sd3-tiny": sd3,
}
AXES = "must be even and add up"
CHANNELS = "out_channels must equal in_channels"
EVEN = "must be even"
QWEN3 = "must be Qwen3's"
CASES = [  # a model, changed fields of its transformer, and a part of each rule that they break
    ("flux-tiny", {"axes_dims_rope": (2, 4, 4)}, [AXES]),
    ("flux-tiny", {"axes_dims_rope": (3, 3, 6)}, [AXES]),
    ("flux-tiny", {"axes_dims_rope": (4, 4, 4)}, []),
    ("flux-tiny", {"pooled_projection_dim": 15}, ["pooled_projection_dim"]),
    ("flux-tiny", {"joint_attention_dim": 19}, ["joint_attention_dim"]),
    ("flux2-tiny", {"axes_dims_rope": (4, 4, 4, 2)}, [AXES]),
    ("flux2-tiny", {"timestep_guidance_channels": 31}, [EVEN]),
    ("flux2-tiny", {"timestep_guidance_channels": 34}, []),
    ("flux2-tiny", {"out_channels": 15}, [CHANNELS]),
    ("flux2-tiny", {"joint_attention_dim": 61}, ["joint_attention_dim"]),
    ("flux3-tiny", {"axes_dims_rope": (4, 4, 4, 2)}, [AXES]),
    ("flux3-tiny", {"timestep_channels": 31}, [EVEN]),
    ("flux3-tiny", {"timestep_channels": 30}, []),
    ("flux3-tiny", {"out_channels": 15}, [CHANNELS]),
    ("flux3-tiny", {"joint_attention_dim": 41}, ["joint_attention_dim"]),
    ("krea-2-tiny", {"axes_dims_rope": (4, 4, 2)}, [AXES]),
    ("krea-2-tiny", {"num_key_value_heads": 3}, ["num_key_value_heads must divide"]),
    ("krea-2-tiny", {"num_key_value_heads": 4}, []),
    ("krea-2-tiny", {"text_num_attention_heads": 3}, ["text_num_attention_heads must divide"]),
    ("krea-2-tiny", {"text_num_attention_heads": 5}, ["text_num_attention_heads must divide"]),
    ("krea-2-tiny", {"text_num_attention_heads": 4}, []),
    ("krea-2-tiny", {"text_num_key_value_heads": 1}, []),
    ("krea-2-tiny", {"timestep_embed_dim": 15}, [EVEN]),
    ("krea-2-tiny", {"timestep_embed_dim": 18}, []),
    ("krea-2-tiny", {"out_channels": 5}, [CHANNELS]),
    ("krea-2-tiny", {"text_hidden_dim": 22}, ["text_hidden_dim must be"]),
    ("krea-2-tiny", {"num_text_layers": 2}, ["num_text_layers"]),
    ("sd3-tiny", {"dual_attention_layers": (2,)}, []),
    ("sd3-tiny", {"dual_attention_layers": (0, 3)}, ["dual_attention_layers"]),
    ("sd3-tiny", {"attention_head_dim": 7}, ["multiple of 4"]),
    ("sd3-tiny", {"attention_head_dim": 6}, []),
    ("sd3-tiny", {"sample_size": 20}, []),
    ("sd3-tiny", {"sample_size": 21}, ["pos_embed_max_size"]),
    ("sd3-tiny", {"patch_size": 1, "sample_size": 11}, ["pos_embed_max_size"]),
    ("sd3-tiny", {"pooled_projection_dim": 23}, ["pooled_projection_dim"]),
    ("sd3-tiny", {"joint_attention_dim": 41}, ["equal T5's"]),
    ("sd3-tiny", {"joint_attention_dim": 24}, ["equal T5's"]),
    ("sd3-tiny", {"joint_attention_dim": 23}, ["hold the hidden states", "equal T5's"]),
]


def rules_of(config):
    """Return the rules that a model breaks, as its family yields them."""
    return [*family_of(config).broken_rules(config)]


@pytest.mark.parametrize(("name", "change", "want"), CASES)
def test_a_field_that_does_not_fit_breaks_its_rule(name, change, want):
    config = preset(name)
    found = rules_of(replace(config, denoiser=replace(config.denoiser, **change)))
    assert len(found) == len(want)
    for rule, part in zip(found, want, strict=True):
        assert part in rule


@pytest.mark.parametrize("name", TINY)
def test_presets_break_no_rule_and_have_a_transformer_of_their_own(name):
    config = preset(name)
    assert rules_of(config) == []
    assert TINY[name].transformer_of(config) is config.denoiser
    assert family_of(config).broken_rules is TINY[name].broken_rules
    other = preset("sd3-tiny" if name == "flux-tiny" else "flux-tiny")
    with pytest.raises(AssertionError):
        TINY[name].transformer_of(other)


@pytest.mark.parametrize("name", ["flux2-tiny", "flux3-tiny", "krea-2-tiny"])
def test_the_text_encoder_is_one_qwen3(name):
    config = preset(name)
    clip = preset("flux-tiny").text_encoder
    for changed in ({"text_encoder": clip}, {"text_encoder_2": clip}):
        [rule, *_] = rules_of(replace(config, **changed))
        assert QWEN3 in rule


def test_text_encoders_of_flux1_are_clip_and_t5():
    config = preset("flux-tiny")
    clip, t5 = config.text_encoders
    for first, second in ((clip, clip), (t5, t5), (t5, clip), (clip, None)):
        [rule] = rules_of(replace(config, text_encoder=first, text_encoder_2=second))
        assert "CLIP's and T5's" in rule


def test_text_encoders_of_sd3_are_clip_before_t5():
    config = preset("sd3-tiny")
    one, two, t5 = config.text_encoders
    net = config.denoiser
    alone = replace(net, pooled_projection_dim=16)
    narrow = replace(two, projection_dim=0)
    cases = [
        ((one, two, None), net, []),
        ((one, None, None), alone, []),
        ((one, t5, None), alone, ["only these"]),
        ((t5, one, two), net, ["only these", "equal T5's"]),
        ((one, t5, two), net, ["only these", "equal T5's"]),
        ((one, two, two), replace(net, pooled_projection_dim=32), ["only these", "equal T5's"]),
        ((one, narrow, t5), alone, ["projection_dim"]),
        ((one, narrow, t5), net, ["projection_dim", "must equal the text encoders'"]),
    ]
    for texts, network, want in cases:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        changed = dict(zip(names, texts, strict=True))
        found = rules_of(replace(config, denoiser=network, **changed))
        assert len(found) == len(want), found
        assert all(part in rule for part, rule in zip(want, found, strict=True)), found


def test_widths_follow_from_heads_and_factors():
    net = replace(preset("flux2-tiny").denoiser, mlp_ratio=2.55)
    assert (net.width, net.mlp_width) == (32, 81)
    net = replace(preset("flux3-tiny").denoiser, mlp_ratio=2.55)
    assert (net.width, net.hidden) == (32, 81)
    net = preset("krea-2-tiny").denoiser
    assert (net.width, net.context_dim, net.side_multiple) == (48, 60, 2)
    net = preset("flux-tiny").denoiser
    assert (net.width, net.side_multiple) == (24, 2)
    net = replace(preset("sd3-tiny").denoiser, patch_size=3)
    assert (net.width, net.side_multiple, net.max_side) == (16, 3, 30)


@pytest.mark.parametrize("name", ["flux-tiny", "flux2-tiny"])
def test_whether_the_scale_is_read_is_a_field(name):
    for guided in (False, True):
        assert replace(preset(name).denoiser, guidance_embeds=guided).reads_guidance == guided


def test_whether_it_is_a_flow_map_is_a_field():
    for flow_map in (False, True):
        assert replace(preset("flux3-tiny").denoiser, flow_map=flow_map).is_flow_map == flow_map
