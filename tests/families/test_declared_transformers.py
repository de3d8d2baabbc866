"""What Flux.1, FLUX.2, FLUX.3, SD3 and Krea 2 declare of models that no preset is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.families import flux, flux2, flux3, krea2, sd3
from ldmref.families.sd3.network import make_positions
from ldmref.models import preset
from ldmref.training.family_rules import training_rules_of


def transformer_among(networks):
    """Return the network that is called in every step."""
    [found] = [network for network in networks if network.name == "transformer"]
    return found


def arguments_of(network):
    return [x.argument for x in network.inputs]


# -- networks -------------------------------------------------------------------------------------


def test_sd3_attends_to_zeros_where_t5_is_missing():
    config = preset("sd3-tiny")
    with_t5 = transformer_among(sd3.describe_networks(config)).text_attention
    assert (with_t5.layers, with_t5.tokens) == ((".attn",), ("image", "text"))
    assert (with_t5.encoders, with_t5.padding) == ((0, 2), 0)
    net = replace(config.denoiser, empty_tokens=7)
    config = replace(config, text_encoder_3=None, denoiser=net)
    networks = sd3.describe_networks(config)
    without = transformer_among(networks).text_attention
    assert (without.layers, without.tokens) == ((".attn",), ("image", "text"))
    assert without.padding == 7 and without.encoders == (0,)
    assert [x.name for x in networks if "text" in x.name] == ["text_encoder", "text_encoder_2"]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("family", [flux, flux2], ids=["flux", "flux2"])
def test_networks_that_read_the_scale_take_it(family, guided):
    config = preset("flux-tiny" if family is flux else "flux2-tiny")
    config = replace(config, denoiser=replace(config.denoiser, guidance_embeds=guided))
    found = arguments_of(transformer_among(family.describe_networks(config)))
    pooled = ["pooled"] if family is flux else []
    more = [] if family is flux else ["reference_tokens", "reference_positions"]
    assert found == ["x", "t", "context", *pooled, *["guidance"] * guided, *more]


@pytest.mark.parametrize("flow_map", [False, True])
def test_a_flow_map_of_flux3_takes_the_end_of_a_step(flow_map):
    config = preset("flux3-tiny")
    config = replace(config, denoiser=replace(config.denoiser, flow_map=flow_map))
    network = transformer_among(flux3.describe_networks(config))
    ends = ["t_next"] * flow_map
    assert arguments_of(network) == [
        "x", "t", "context", "mask", *ends, "reference_tokens", "reference_places",
    ]  # fmt: skip
    for x in network.inputs[-2:]:
        assert x.of_references
    sizes = {"batch": 2, "references": 5}
    shapes = [x.shape_at(sizes) for x in network.inputs[-2:]]
    assert shapes == [(2, 5, 16), (2, 5, 4)]


def test_blocks_of_krea2_attend_to_the_text():
    config = preset("krea-2-tiny")
    network = transformer_among(krea2.describe_networks(config))
    assert network.text_attention.layers == tuple(f"transformer_blocks.{i}.attn" for i in (0, 1))
    assert arguments_of(network) == ["x", "t", "context", "mask"]
    assert network.inputs[2].shape[2] == 60 and network.inputs[0].shape[1] == 4


# -- work -----------------------------------------------------------------------------------------


def test_tokens_of_sd3_without_t5():
    config = preset("sd3-tiny")
    length = config.text_encoders[0].max_position_embeddings
    net = replace(config.denoiser, empty_tokens=7)
    without = replace(config, text_encoder_3=None, denoiser=net)
    assert sd3.count_tokens(without, 16, 24) == (4 * 6, length + 7)
    assert sd3.count_tokens(config, 16, 24) == (4 * 6, length + 16)
    assert sd3.count_activations(without, 16, 24) == (24 + length + 7) * 16 * 10


def test_work_of_flux1():
    config = preset("flux-tiny")
    assert flux.count_tokens(config, 16, 24) == (24, 16)
    assert flux.count_activations(config, 16, 24) == (24 + 16) * 24 * 16


@pytest.mark.parametrize(
    ("name", "work", "width"),
    [
        ("flux2-tiny", flux2, 2 * 32 + 3 * 32 + 2 * 96 + 32 + 96 + 32 + 96),
        ("flux3-tiny", flux3, 3 * 32 + 3 * 96),
    ],
)
def test_activations_are_multiples_of_the_tokens(name, work, width):
    config = preset(name)
    for columns in (32, 64):
        image, text = work.count_tokens(config, columns, 16)
        assert text == config.text_encoder.max_position_embeddings
        assert work.count_activations(config, columns, 16) == (image + text) * width


def test_activations_of_krea2_are_those_of_a_block_or_of_the_fusion():
    config = preset("krea-2-tiny")
    for side in (16, 512):
        image, text = krea2.count_tokens(config, side, side)
        assert text == 256 - 34
        blocks = (image + text) * (2 * 48 + 3 * 64)
        fusion = 3 * text * (2 * 20 + 3 * 32)
        assert krea2.count_activations(config, side, side) == max(blocks, fusion)
    assert blocks > fusion


# -- positions of Stable Diffusion 3 --------------------------------------------------------------


def test_positions_of_sd3_are_sines_and_cosines_of_column_and_row():
    net = replace(preset("sd3-tiny").denoiser, pos_embed_max_size=3, sample_size=12)
    table = make_positions(net)
    assert table.shape == (1, 9, 16) and table.dtype == np.float32
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    for place, found in enumerate(table[0]):
        halves = [2.0 * k * frequencies for k in (place % 3, place // 3)]
        want = [[*np.sin(half), *np.cos(half)] for half in halves]
        np.testing.assert_allclose(found, np.ravel(want), atol=1e-6)


def test_positions_are_what_no_program_of_sd3_trains():
    config = preset("sd3-tiny")
    [(name, make)] = training_rules_of(sd3.SD3).fixed(config).items()
    assert name == "transformer.pos_embed.pos_embed"
    assert np.array_equal(make(), make_positions(config.denoiser))
