"""ControlNets in the modes: what holds for any net, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from rounding import same_latents

import ldmref.backends
from ldmref import modes
from ldmref.errors import LdmrefError, UsageError
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec, init_from_unet
from ldmref.models.params import init
from ldmref.modes import Control
from ldmref.modes.active_control import ActiveControl, load_control
from ldmref.samplers.interfaces import Interval

ASKED = dict(seed=1, steps=4, sampler="ddim")
EDGES = Image.fromarray(np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def config(tiny):
    return ControlNetConfig(tiny.config.unet, conditioning_embedding_out_channels=(4, 8))


@pytest.fixture(scope="module")
def net(tiny, config):
    return ControlNet(tiny.backend, config, init(controlnet_spec(config), 3), "edges", "ab" * 32)


@pytest.fixture(scope="module")
def net64(tiny64, config):
    return ControlNet(tiny64.backend, config, init(controlnet_spec(config), 3))


def draw(tiny, *controls, **more):
    return modes.txt2img(tiny, "a cat", control=controls, **ASKED | more)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "ddpm"])
def test_zero_convolutions_change_nothing(tiny, config, sampler):
    """The initial network of training generates the U-Net's own image, bit for bit."""
    params = init_from_unet(tiny.params.unet, config)
    fresh = ControlNet(tiny.backend, config, params)
    plain = draw(tiny, sampler=sampler)
    got = draw(tiny, Control(fresh, EDGES), sampler=sampler)
    assert (got.latents == plain.latents).all()
    assert (params.conv_in.weight == tiny.params.unet.conv_in.weight).all()
    hint = fresh.params.controlnet_cond_embedding
    assert (hint.conv_in.weight != 0).any() and not (hint.conv_out.weight != 0).any()


def test_the_image_and_the_weight_matter(tiny, net):
    plain = draw(tiny)
    full = draw(tiny, Control(net, EDGES))
    none = draw(tiny, Control(net, EDGES, 0.0))
    half = draw(tiny, Control(net, EDGES, 0.5))
    other = draw(tiny, Control(net, Image.new("RGB", (16, 16))))
    assert (none.latents == plain.latents).all()
    sizes = [abs(r.latents - plain.latents).max() for r in (full, half)]
    assert sizes[0] > 1e-3 and sizes[0] != sizes[1]
    assert (other.latents != full.latents).any()


def test_nets_add_up(tiny64, net64):
    """Twice a half is the whole, and a net with its opposite is none."""
    full = draw(tiny64, Control(net64, EDGES))
    halves = draw(tiny64, *[Control(net64, EDGES, 0.5)] * 2)
    same_latents(halves.latents, full.latents)
    gone = draw(tiny64, Control(net64, EDGES, 0.7), Control(net64, EDGES, -0.7))
    same_latents(gone.latents, draw(tiny64).latents)


def test_the_part_of_the_steps(tiny, net):
    def latents(start, end):
        seen = []
        r = draw(tiny, Control(net, EDGES, 1.0, start, end), callback=seen.append)
        return r.latents, [e.x0 for e in seen]

    plain = []
    full = latents(0.0, 1.0)
    late = latents(0.5, 1.0)
    draw(tiny, callback=lambda e: plain.append(e.x0))
    same = [(a == b).all() for a, b in zip(late[1], plain, strict=True)]
    assert same == [True, True, False, False]
    early = latents(0.0, 0.5)
    same = [(a == b).all() for a, b in zip(early[1], full[1], strict=True)]
    assert same == [True, True, False, False]
    assert (latents(0.6, 0.7)[0] == draw(tiny).latents).all()  # not a whole step


@pytest.mark.parametrize(
    ("start", "end", "want"),
    [
        (0, 1, "11111"),
        (0.2, 1, "01111"),
        (0.21, 1, "00111"),
        (0, 0.79, "11100"),
        (0.4, 0.8, "00110"),
        (0.41, 0.59, "00000"),
    ],
)
def test_steps_are_counted_as_diffusers_counts(start, end, want):
    sigmas = [9.0, 7.0, 5.0, 3.0, 1.0, 0.0]
    control = ActiveControl(None, None, Control("", "", 1.0, start, end), "")
    acts = control.within(range(6)).acts_at
    steps = [Interval(i, i + 1, 5, *sigmas[i : i + 2]) for i in range(5)]
    keeps = [1 - int(i / 5 < start or (i + 1) / 5 > end) for i in range(5)]
    assert [int(acts(step.sigma, step)) for step in steps] == keeps == [int(c) for c in want]
    for step, more in zip(steps, [*keeps[1:], end == 1 and keeps[-1]], strict=True):
        assert acts(step.sigma_next, step) == more  # the second stage of Heun's method
        assert acts((step.sigma + step.sigma_next) / 2, step) == keeps[step.i]
        assert acts(1.4 * step.sigma, step) == keeps[step.i]  # after churn
    assert acts(5.0, None) == any(keeps)


def test_a_control_that_starts_late_acts_in_a_step_that_raises_the_noise(tiny, net):
    """With churn, the network is evaluated above the sigma of its step."""
    late = Control(net, EDGES, 4.0, 0.8, 1.0)
    settings = {"sampler": "euler_churn", "steps": 5}
    with_late = modes.txt2img(tiny, "a", seed=1, control=[late], **settings)
    without = modes.txt2img(tiny, "a", seed=1, **settings)
    assert (with_late.latents != without.latents).any()


def test_it_is_recorded(tiny, net):
    r = draw(tiny, Control(net, EDGES, 0.5, 0.25, 0.75))
    (told,) = r.params["control"]
    assert (
        told.pop("image")
        != draw(tiny, Control(net, EDGES.rotate(90))).params["control"][0]["image"]
    )
    assert told == {"name": "edges", "sha256": "ab" * 32, "weight": 0.5, "start": 0.25, "end": 0.75}
    assert json.loads(json.dumps(r.params)) == r.params and "control" not in draw(tiny).params


def test_an_image_of_another_size_is_cropped_and_said_so(tiny, net):
    wide = Image.new("RGB", (64, 16), "black")
    wide.paste(EDGES, (24, 0))
    r = draw(tiny, Control(net, wide))
    assert "64 x 16" in r.warnings[0] and not draw(tiny, Control(net, EDGES)).warnings
    assert (r.latents == draw(tiny, Control(net, EDGES)).latents).all()


def test_a_warning_names_both_sizes_of_a_control(tiny, net):
    active = load_control(tiny, Control(net, Image.new("RGB", (64, 18))), (20, 16))
    assert "64 x 18" in active.warning and "20 x 16" in active.warning
    assert active.hint.shape[2:] == (8, 10)
    assert load_control(tiny, Control(net, EDGES), (16, 16)).warning == ""


def test_with_only_masked_the_net_reads_the_region(tiny, net):
    """At the region's own size nothing is scaled; an image of another size is fitted first."""
    rng = np.random.default_rng(3)
    image, edges = (Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(2))
    mask = Image.new("L", (64, 48))
    box = (18, 16, 34, 32)
    mask.paste(255, (22, 20, 30, 28))

    def painted(image, mask, control, **more):
        return modes.inpaint(tiny, "a", image, mask, control=[control], **ASKED | more)

    region = dict(only_masked=True, padding=4)
    whole = painted(image, mask, Control(net, edges), **region)
    alone = painted(image.crop(box), mask.crop(box), Control(net, edges.crop(box)))
    assert (whole.latents == alone.latents).all() and not whole.warnings
    assert whole.params["control"] == alone.params["control"]
    double = edges.resize((128, 96), Image.Resampling.NEAREST)
    (warning,) = painted(image, mask, Control(net, double), **region).warnings
    assert "128 x 96" in warning and "64 x 48" in warning


def test_batches_see_the_same_image(tiny64, net64):
    r = draw(tiny64, Control(net64, EDGES), count=2, batch_size=2)
    same_latents(r.latents[:1], draw(tiny64, Control(net64, EDGES)).latents)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"weight": "1"}, "E-CONTROL-WEIGHT"),
        ({"weight": float("nan")}, "E-CONTROL-WEIGHT"),
        ({"weight": 11}, "E-CONTROL-WEIGHT"),
        ({"start": -0.1}, "E-CONTROL-START"),
        ({"end": 1.1}, "E-CONTROL-END"),
        ({"start": 0.5, "end": 0.5}, "E-CONTROL-START"),
        ({"net": 3}, "E-CONTROL"),
        ({"net": "no/such/net"}, "E-CONTROL"),
        ({"image": "no/such/image.png"}, "E-IMAGE-MISSING"),
    ],
)
def test_wrong_controls_are_refused_before_anything_is_computed(tiny, net, changes, code):
    control = dataclasses.replace(Control(net, EDGES), **changes)
    with pytest.raises(LdmrefError) as caught:
        modes.plan("txt2img", tiny.config, prompt="a", control=[control])
    assert caught.value.code == code


def test_what_is_no_list_of_controls_is_refused(tiny, net):
    control = Control(net, EDGES)
    for wrong in (control, "edges", [net], None, [control] * 17):
        with pytest.raises(UsageError, match="control"):
            modes.plan("txt2img", tiny.config, prompt="a", control=wrong)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("block_out_channels", (16, 16)),
        ("layers_per_block", 2),
        ("cross_attention_dim", 8),
        ("in_channels", 9),
        ("class_embed_type", "simple_projection"),
    ],
)
def test_a_net_of_another_family_is_refused(tiny, config, what, value):
    other = dataclasses.replace(config, unet=dataclasses.replace(config.unet, **{what: value}))
    net = ControlNet(tiny.backend, other, {}, "other")
    with pytest.raises(UsageError, match=f"'other' does not fit the model.*{what}"):
        modes.plan("txt2img", tiny.config, prompt="a", control=[Control(net, EDGES)])


def test_a_hint_of_another_scale_and_another_backend_are_refused(tiny, net, config):
    wide = dataclasses.replace(config, conditioning_embedding_out_channels=(4, 8, 8))
    with pytest.raises(UsageError, match="pixels of the hint"):
        draw(tiny, Control(ControlNet(tiny.backend, wide, {}), EDGES))
    double = ldmref.backends.get_backend("numpy", dtype="float64")
    with pytest.raises(UsageError, match="is on"):
        draw(tiny, Control(ControlNet(double, config, net.params), EDGES))
