"""The declarations of the networks: they fit the functions that they name, and every tool."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.cases.network_cases import network_case
from ldmref.cases.shrink import shrink
from ldmref.export.networks import export_network, list_networks
from ldmref.families.auxiliary import auxiliary_networks, describe_classifier
from ldmref.families.latent_diffusion import networks_of
from ldmref.families.lookup import find_network, known_networks, networks_of_run
from ldmref.families.unet import unet_residuals
from ldmref.models.classifier import ClassifierConfig
from ldmref.models.family import family_of
from ldmref.models.presets import PRESETS, preset
from ldmref.models.residuals import list_arrays
from ldmref.trace import read_trace, record_trace
from ldmref.trace.backend import flatten_arrays

SMALL = {name: shrink(config) for name, config in PRESETS.items() if name != "tiny"}
ALL = [
    (name, network)
    for name, config in SMALL.items()
    for network in (*networks_of(config), *auxiliary_networks(config))
]
IDS = [f"{name}-{network.name}" for name, network in ALL]


@pytest.mark.parametrize(("family", "network"), ALL, ids=IDS)
def test_the_declared_arguments_are_those_of_the_function(family, network):
    parameters = inspect.signature(network.function).parameters
    declared = [*network.settings, *(x.argument for x in network.inputs)]
    assert len(set(declared)) == len(declared) and {*declared} <= {*network.arguments}
    needed = [name for name, p in parameters.items() if p.default is p.empty]
    assert {*needed[2:]} <= {*declared}
    assert len({x.role for x in network.inputs}) == len(network.inputs)


@pytest.mark.parametrize("family", PRESETS)
def test_every_network_is_exported_under_its_names(family):
    config = PRESETS[family]
    exported = {(x.params, x.function): x for x in list_networks(config)}
    for network in networks_of(config):
        found = exported.pop((network.params, network.function))
        assert [x.name for x in found.inputs] == [x.exported or x.role for x in network.inputs]
        assert found.outputs == tuple(output.exported for output in network.outputs)
    assert not exported


def test_a_trace_has_the_declared_names(tmp_path):
    model = ldmref.random_model("tiny", backend="numpy")
    image = np.zeros((16, 16, 3), np.uint8)
    plan = modes.plan("img2img", model, prompt="a cat", image=image, steps=2, seed=1)
    record_trace(plan, model, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    for network in networks_of(model.config):
        name = f"{network.name}.000" if network.numbered else network.name
        entry = trace.find(name)
        assert entry is not None
        assert {*entry.inputs} == {x.role for x in network.inputs}
        assert {*entry.outputs} == {role or "output" for role, _ in network.outputs}


def test_a_call_is_found_by_its_function_and_configuration():
    config = SMALL["sdxl"]
    networks = networks_of_run(config)
    for network in networks_of(config):
        arguments = {"config": network.settings["config"]}
        found = find_network(networks, network.function.__name__, arguments)
        assert found is not None and found.name == network.name
    assert find_network(networks, "no_network", {}) is None
    assert {"unet", "cond_stage", "taesd.encode", "controlnet.hint"} <= known_networks()


def test_residuals_are_those_of_the_controlnet():
    from ldmref.models.controlnet import ControlNetConfig

    config = SMALL["sd15"].unet
    case = network_case(
        "x", auxiliary_networks(SMALL["sd15"], control=ControlNetConfig(config))[-1]
    )
    ops = get_backend("numpy")
    result = ops.compile(case.function, case.params)(**case.settings, **case.inputs)
    sizes = {"batch": 2, "height": 8, "width": 8}
    residuals = list_arrays(unet_residuals(config))
    shapes = [x.shape_at(sizes) for x in residuals]
    assert [x.shape for x in flatten_arrays("", result).values()] == shapes


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_residuals_of_transformers_are_those_of_their_controlnets(name):
    config = preset(name)
    *_, network = auxiliary_networks(config)
    declared = [x.argument for x in network.inputs]
    assert declared == [argument for argument in network.arguments if argument in declared]
    case = network_case("x", network)
    ops = get_backend("numpy")
    result = ops.compile(case.function, case.params)(**case.settings, **case.inputs)
    assert len(flatten_arrays("", result)) == len(network.outputs)
    control = family_of(config).control
    placed = flatten_arrays("control", control.place(config, None, result))
    sizes = {"batch": 2, "patches": 16}
    for x in list_arrays(control.inputs(config)):
        assert placed[x.role].shape == x.shape_at(sizes)


def test_a_classifier_is_declared_as_well():
    config = ClassifierConfig(block_out_channels=(8, 12), norm_num_groups=4, class_names=("a", "b"))
    case = network_case("", describe_classifier(config))
    assert case.name == "classifier" and [*case.inputs] == ["x", "t"]


def test_optional_arrays_are_left_out_of_cases_and_graphs():
    """A call may have them by name, as that of Qwen-Image 2.1 for the place of its images."""
    network = ldmref.random_model("qwen-image-2.1-tiny").denoiser
    found = network.input_of("image_start")
    assert found is not None and network.role_of("image_start") == found.role
    assert "image_start" in network.defaults and found not in network.inputs
    assert "image_start" not in {x.name for x in export_network(network).inputs}
    assert "image_start" not in network_case("", network).inputs
