"""A family that conditions by arrays of its own: SD3 with a mask of its tokens."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families.sd3 import SD3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.network import transformer
from ldmref.families.sd3.text import condition_on_text
from ldmref.math import lerp, slerp
from ldmref.models import family
from ldmref.models.conditioning import (
    INTERPOLATED,
    Conditioning,
    fit_lengths,
    get_hidden_states,
    interpolate,
)
from ldmref.models.declared import CallSize, NetworkInput
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.steering import Steerable


@dataclass(frozen=True)
class MaskedConfig(MMDiTConfig):
    """SD3's, whose network takes a mask."""

    family: ClassVar[str] = "masked"


@pytest.fixture
def masked(monkeypatch):
    """Return a model whose network weighs its text by a mask, and the masks that it was given."""
    seen = []

    def network(ops, p, config, x, t, context, pooled, mask=None):
        seen.append(None if mask is None else ops.to_numpy(mask))
        return transformer(
            ops, p, config, x, t, get_hidden_states(context) * mask[..., None], pooled
        )

    def condition(ops, config, states, pooled, size):
        part = condition_on_text(ops, config, states, pooled, size)
        mask = np.linspace(0.5, 1.0, part.context.shape[1])
        rows = np.tile(mask, (part.context.shape[0], 1))
        return part._replace(more={"mask": ops.asarray(rows, ops.state_dtype)})

    def networks(config):
        own = MMDiTConfig(**vars(config.denoiser))
        for declared in SD3.networks(replace(config, denoiser=own)):
            if declared.name != "transformer":
                yield declared
                continue
            mask = NetworkInput("mask", "mask", (CallSize("batch"), CallSize("tokens")))
            yield replace(
                declared,
                function=network,
                settings={"config": config.denoiser},
                inputs=(*declared.inputs, mask),
                steerable=Steerable(),
            )

    changes = {
        "name": "masked",
        "denoiser": MaskedConfig,
        "networks": lambda config: [*networks(config)],
        "text": replace(SD3.text, condition=condition),
        "control": None,
        "broken_rules": lambda config: (),
    }
    module = types.ModuleType("masked_family")
    module.MASKED = replace(SD3, **changes)
    monkeypatch.setitem(sys.modules, "masked_family", module)
    monkeypatch.setitem(family.BUILT_IN, "masked", "masked_family:MASKED")
    family.find_family.cache_clear()
    small = ldmref.random_model("sd3-tiny")
    config = replace(small.config, denoiser=MaskedConfig(**vars(small.config.denoiser)))
    params = init(model_spec(config), 0)
    yield LatentDiffusion(small.backend, config, params, small.tokenizer), seen
    family.find_family.cache_clear()


@pytest.mark.parametrize("cfg_scale", [1.0, 4.0])
def test_the_ends_of_an_interpolation_are_the_images_of_the_prompts(masked, cfg_scale):
    model, seen = masked
    asked = {"steps": 2, "seed": 1, "cfg_scale": cfg_scale}
    walk = modes.interpolate(model, "a red cat", "a blue dog", positions=2, **asked)
    assert seen and all(mask is not None for mask in seen)
    for got, prompt in zip(walk.latents, ("a red cat", "a blue dog"), strict=True):
        want = modes.txt2img(model, prompt, **asked).latents[0]
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def test_a_guidance_that_the_network_does_not_take_is_not_recommended(masked):
    model, _ = masked
    asked = {"steps": 1, "seed": 1, "cfg_scale": 1.0, "negative_prompt": "a dog"}
    [said] = modes.txt2img(model, "a cat", **asked).warnings
    assert "cfg_scale above 1" in said and "nag" not in said
    with pytest.raises(UsageError):
        modes.txt2img(model, "a cat", guidance="nag", **asked)


def test_every_field_of_a_conditioning_is_treated():
    """A new field must be interpolated or kept on purpose."""
    assert {*INTERPOLATED, "sizes", "more"} == {*Conditioning._fields}


@pytest.mark.parametrize("path", [lerp, slerp])
def test_fields_are_interpolated_one_by_one(path):
    ops = get_backend("numpy")
    rng = np.random.default_rng(0)
    a, b = (
        Conditioning(
            rng.normal(size=(2, 5, 3)),
            rng.normal(size=(2, 4)),
            sizes,
            {"states": rng.normal(size=(2, 5)), "mask": np.asarray([[True, False]] * 2)},
        )
        for sizes in (np.ones((2, 6)), np.zeros((2, 6)))
    )
    t = ops.asarray(np.asarray([0.25, 0.5]), "float64")
    got = interpolate(a, b, t, path)
    assert (got.context == path(a.context, b.context, t)).all()
    assert (got.pooled == path(a.pooled, b.pooled, t)).all()
    assert (got.more["states"] == path(a.more["states"], b.more["states"], t)).all()
    assert (got.sizes == 1.0).all() and (got.more["mask"] == a.more["mask"]).all()


def test_between_two_prompts_the_tokens_of_both_are_read():
    """The ends stay those of the prompts."""
    context = np.zeros((3, 3, 2))
    short, long = np.asarray([[1, 0, 0]] * 3), np.asarray([[1, 1, 0]] * 3)
    ends = (Conditioning(context, more={"mask": mask}) for mask in (short, long))
    got = interpolate(*ends, np.asarray([0.0, 0.5, 1.0]), lerp)
    assert got.more["mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    ends = (Conditioning(context, more={"mask": mask}) for mask in (long, short))
    got = interpolate(*ends, np.asarray([0.0, 0.5, 1.0]), lerp)
    assert got.more["mask"].tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("name", "array"), [("mask", np.asarray([[True]])), ("kinds", np.asarray([[True, True]]))]
)
def test_integers_that_differ_have_nothing_between_them(name, array):
    context = np.zeros((1, 2, 3))
    a = Conditioning(context, more={name: np.asarray([[True, False]])})
    with pytest.raises(UsageError, match=f"{name} differ"):
        interpolate(a, Conditioning(context, more={name: array}), np.asarray([0.5]), lerp)


def text_of(*lengths):
    """Return a conditioning whose rows have so many tokens of 8."""
    states = np.arange(len(lengths) * 16.0).reshape(len(lengths), 8, 2)
    mask = (np.arange(8) < np.asarray(lengths)[:, None]).astype(np.int64)
    return Conditioning(states, more={"mask": mask, "guidance": np.ones(len(lengths))})


@pytest.mark.parametrize(("multiple", "kept"), [(0, 8), (1, 5), (2, 6), (4, 8), (6, 6), (16, 16)])
def test_padding_that_no_prompt_needs_is_cut(multiple, kept):
    ops = get_backend("numpy")
    parts = {"cond": text_of(3, 5), "uncond": text_of(1, 1)}
    got = fit_lengths(ops, parts, ["mask"], multiple)
    for name, part in parts.items():
        assert got[name].context.shape == (2, kept, 2) and got[name].more["mask"].shape == (2, kept)
        assert (got[name].context[:, :5] == part.context[:, :5]).all()
        assert (got[name].more["mask"].sum(axis=1) == part.more["mask"].sum(axis=1)).all()
        assert got[name].more["guidance"].shape == (2,)


@pytest.mark.parametrize(("multiple", "kept"), [(0, 8), (1, 6), (4, 8), (16, 16)])
def test_padding_within_a_text_is_cut(multiple, kept):
    """As in texts that end with the same tokens, before which they are filled up."""
    ops = get_backend("numpy")
    parts = {"cond": text_of(3, 4), "uncond": text_of(1, 1)}
    for part in parts.values():
        part.more["mask"][:, 6:] = 1
    got = fit_lengths(ops, parts, ["mask"], multiple)
    for name, part in parts.items():
        context, mask = got[name].context, got[name].more["mask"]
        assert context.shape == (2, kept, 2) and mask.shape == (2, kept)
        for row in range(2):
            want = part.context[row][part.more["mask"][row] == 1]
            assert (context[row][mask[row] == 1] == want).all()


def test_texts_of_different_lengths_are_filled_up_where_a_mask_says_so():
    ops = get_backend("numpy")
    short = Conditioning(np.ones((1, 3, 2)), more={"mask": np.ones((1, 3), np.int64)})
    got = fit_lengths(ops, {"cond": text_of(5), "uncond": short}, ["mask"])["uncond"]
    assert got.more["mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert (got.context[:, :3] == 1).all() and not got.context[:, 3:].any()
    bare = {"cond": Conditioning(np.ones((1, 3, 2)))}
    assert fit_lengths(ops, bare, multiple=8) == bare


@pytest.mark.parametrize("multiple", [2, 16])
def test_arrays_are_fitted_by_their_declaration_and_not_by_the_size_of_an_axis(multiple):
    """The mask has a row for each token, and eight numbers for each image are no tokens."""
    ops = get_backend("numpy")
    scales = np.ones((1, 8))
    part = text_of(3)
    part = part._replace(more={**part.more, "scales": scales})
    [got] = fit_lengths(ops, {"cond": part}, ["mask"], multiple).values()
    assert got.more["mask"].shape[1] == got.context.shape[1] == max(4, multiple)
    assert got.more["scales"] is scales


def test_the_declaration_of_a_denoiser_says_which_arrays_are_of_tokens(masked):
    model, _ = masked
    assert model.denoiser.of_tokens == ["context", "mask"]
