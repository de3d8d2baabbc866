"""`read_denoiser`: a denoiser's configuration from a config.json of diffusers."""

from __future__ import annotations

import pytest

from ldmref.errors import CorruptModelError
from ldmref.families import read_denoiser
from ldmref.families.flux.config import FluxConfig
from ldmref.families.flux2.config import Flux2Config


def test_fields_have_their_declared_types():
    config = read_denoiser(Flux2Config(), {"rope_theta": 500, "axes_dims_rope": [8, 8, 8, 8]})
    assert (config.rope_theta, type(config.rope_theta)) == (500.0, float)
    assert config.axes_dims_rope == (8, 8, 8, 8)


def test_what_a_file_omits_is_as_in_the_base():
    base = Flux2Config(num_layers=8, guidance_embeds=True)
    found = read_denoiser(base, {"num_single_layers": 3, "_class_name": "Flux2", "unknown": 4})
    assert found == Flux2Config(num_layers=8, num_single_layers=3, guidance_embeds=True)


@pytest.mark.parametrize("more", [{}, {"out_channels": None}])
def test_out_channels_are_in_channels_unless_they_are_stated(more):
    assert read_denoiser(Flux2Config(), {"in_channels": 16, **more}).out_channels == 16
    assert read_denoiser(Flux2Config(), {"in_channels": 16, "out_channels": 8}).out_channels == 8


def test_packed_channels_are_divided():
    found = read_denoiser(FluxConfig(), {"in_channels": 384, "out_channels": 64}, packed=4)
    assert (found.in_channels, found.out_channels) == (96, 16)
    assert read_denoiser(FluxConfig(), {}, packed=4) == FluxConfig()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"in_channels": 66}, "the transformer has in_channels = 66, no multiple of 4"),
        ({"in_channels": "64"}, "the transformer has in_channels = '64', no multiple of 4"),
        ({"num_layers": "19"}, "transformer.num_layers must be a whole number from 0 to 1000"),
        ({"axes_dims_rope": None}, "transformer.axes_dims_rope must be a list of whole numbers"),
        ({"axes_dims_rope": [16, 56]}, "transformer.axes_dims_rope must have from 3 to 3 entries"),
        ({"guidance_embeds": 1}, "transformer.guidance_embeds must be true or false, not 1"),
        ({"patch_size": 2}, "the transformer's configuration has patch_size = 2"),
    ],
)
def test_a_value_that_is_not_supported_is_one_line(data, message):
    with pytest.raises(CorruptModelError) as caught:
        read_denoiser(FluxConfig(), data, {"patch_size": (1,)}, packed=4)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
