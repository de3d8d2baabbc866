"""Shapes of the parameters of Flux.1, SD3 and their ControlNets: those of diffusers' networks."""

from __future__ import annotations

import pytest

from ldmref.families.flux.controlnet import controlnet_spec as flux_control_spec
from ldmref.families.flux.controlnet import convert_controlnet_config as read_flux_control
from ldmref.families.flux.network import transformer_spec as flux_spec
from ldmref.families.sd3.controlnet import controlnet_spec as sd3_control_spec
from ldmref.families.sd3.controlnet import convert_controlnet_config as read_sd3_control
from ldmref.families.sd3.network import transformer_spec as sd3_spec
from ldmref.models.params import flatten

pytest.importorskip("torch")
pytest.importorskip("diffusers")
import flux_networks
import sd3_networks
from control_kits import FLUX_NETS, SD3_NETS, make_flux_net, make_sd3_net


def shapes_of(network):
    """Return the shapes of the parameters and buffers of a network of diffusers."""
    return {name: tuple(x.shape) for name, x in network.state_dict().items()}


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("channels", [4, 9])
def test_flux1(guided, channels):
    theirs = flux_networks.make_transformer(guided, channels)
    config = flux_networks.config_of(guided, channels)
    assert flatten(flux_spec(config)) == shapes_of(theirs)


@pytest.mark.parametrize("kind", sd3_networks.KINDS)
def test_sd3(kind):
    theirs = sd3_networks.make_transformer(kind)
    assert flatten(sd3_spec(sd3_networks.config_of(kind))) == shapes_of(theirs)


@pytest.mark.parametrize("kind", FLUX_NETS)
def test_controlnets_of_flux1(kind):
    theirs = make_flux_net(kind)
    assert flatten(flux_control_spec(read_flux_control(theirs.config))) == shapes_of(theirs)


@pytest.mark.parametrize("kind", SD3_NETS)
def test_controlnets_of_sd3(kind):
    """Those that share the embedding of patches have none of their own."""
    theirs = make_sd3_net(kind)
    config = read_sd3_control(theirs.config)
    shapes = flatten(sd3_control_spec(config))
    if not config.use_pos_embed:
        shapes = {name: x for name, x in shapes.items() if not name.startswith("pos_embed.")}
    assert shapes == shapes_of(theirs)
