"""Guidance replaces layers by their names; definitions and other networks know nothing of it."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import UsageError
from ldmref.families.unet import describe_unet
from ldmref.io import save_folder
from ldmref.math import normalized_attention_guidance
from ldmref.models.layers import layer, linear, merge_heads, split_heads
from ldmref.models.params import flatten, init, name_parts, unflatten
from ldmref.models.specs import linear_spec
from ldmref.models.steering import AttentionGuidance, Steerable, SteeredNetwork
from ldmref.samplers import AttentionGuided, PartsPerturbed

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
T = np.array([300.0], np.float32)
CONTEXT = RNG.standard_normal((1, 7, 32)).astype(np.float32)
PAG = {"name": "pag", "scale": 5.0, "layers": "all"}


class ValuesAlone(NumpyBackend):
    """NumPy, where every token attends to itself alone."""

    def attention(self, q, k, v, *args, **kwargs):
        return v if q.shape == k.shape else super().attention(q, k, v, *args, **kwargs)


@pytest.fixture
def tiny():
    return ldmref.random_model("tiny", backend="numpy", speed="exact")


def test_an_unsteered_network_runs_on_the_backend_itself(tiny, monkeypatch):
    seen = []

    @wraps(tiny.denoiser.function)
    def watched(ops, p, *args):
        seen.append(ops)
        return plain.function(ops, p, *args)

    plain = tiny.denoiser
    monkeypatch.setattr(tiny, "denoiser", replace(plain, function=watched))
    one = tiny.predict(X, T, CONTEXT)
    two = tiny.predict(X, T, CONTEXT, identity_attention=())
    assert seen == [tiny.backend] * 2 and np.array_equal(one, two)


def test_identity_attention_is_attention_that_returns_the_values(tiny):
    parts = ("down", "mid", "up")
    got = tiny.predict(X, T, CONTEXT, identity_attention=parts)
    other = tiny.with_backend(ValuesAlone())
    np.testing.assert_array_equal(got, other.predict(X, T, CONTEXT))
    each = [tiny.predict(X, T, CONTEXT, identity_attention=(part,)) for part in parts]
    assert all((a != b).any() for a, b in zip([got, *each], [*each, got], strict=True))


@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        ("tiny", PAG),
        ("tiny", "nag"),
        ("sd3-tiny", {"name": "slg", "layers": [1], "low": 0.0, "high": 1e4}),
        ("sd3-tiny", "nag"),
        ("flux-tiny", "nag"),
    ],
)
def test_blocks_that_are_brought_when_used(name, guidance, tmp_path, monkeypatch):
    """Their layers have the same names, also in a model that was not steered before."""
    monkeypatch.setattr("ldmref.loading.EAGER_BYTES", 0)
    made = ldmref.random_model(name)
    save_folder(tmp_path / "m", made.config, made.params, made.tokenizers, np.float32)
    free, tight = (ldmref.load(tmp_path / "m", backend="numpy") for _ in range(2))
    tight.max_memory = tight.estimate_memory(16, 16).peak_streamed(tight.params.releasable)
    asked = {"seed": 1, "steps": 2, "negative_prompt": "dog"}
    plain = [modes.txt2img(model, "a cat", **asked).latents for model in (tight, free)]
    got, want = (
        modes.txt2img(model, "a cat", guidance=guidance, **asked).latents for model in (tight, free)
    )
    assert tight.config.denoiser.network in tight.params._streamed
    np.testing.assert_array_equal(got, want)
    assert all((got != other).any() for other in plain)


def test_parts_that_replace_others_are_named_as_well(tiny):
    """A tree that was named before, and has new parts."""
    params = tiny.params.unet
    steered = tiny.denoiser.steered

    def run(tree):
        return steered(tiny.backend, tree, tiny.config.unet, X, T, CONTEXT, **mid)

    mid = {"steering": (PartsPerturbed(("mid",)),)}
    want = run(params)
    assert params.mid_block.path == "mid_block"
    params["mid_block"] = unflatten(flatten(params.mid_block))
    np.testing.assert_array_equal(run(params), want)


def test_parts_have_the_names_of_layers():
    params = unflatten({"down.0.attn.weight": 1.0, "mid.weight": 2.0})
    assert params.path is None
    name_parts(params)
    assert (params.path, params.down["0"].attn.path, params.mid.path) == ("", "down.0.attn", "mid")


@pytest.mark.parametrize(
    ("name", "steering", "problem"),
    [
        ("tiny", {"skip_layers": (1,)}, "'tiny' takes no skip_layers"),
        ("tiny", {"identity_attention": ("mid", "end")}, "has the parts down, mid, up, not 'end'"),
        ("tiny", {"attention": (1.0,)}, "'tiny' takes no attention"),
        ("sd3-tiny", {"skip_layers": (0, 3)}, "has the layers 0 to 2"),
        ("sd3-tiny", {"skip_layers": (-1,)}, "has the layers 0 to 2"),
        ("flux-tiny", {"identity_attention": ("mid",)}, "takes no identity_attention"),
    ],
)
def test_what_cannot_be_steered_is_refused(name, steering, problem):
    model = ldmref.random_model(name)
    with pytest.raises(UsageError, match=problem) as caught:
        model.predict(X, T, CONTEXT, **steering)
    assert caught.value.code == "E-FAMILY" and "\n" not in str(caught.value)


def test_the_function_is_one_for_equal_declarations(tiny):
    """So that a network is compiled once, and named as the definition."""
    one, two = (describe_unet(tiny.config.unet).steered for _ in range(2))
    assert one == two and hash(one) == hash(two) and one.__name__ == "unet"
    other = replace(describe_unet(tiny.config.unet), steerable=Steerable()).steered
    assert other != one


# -- one stream of text and image -----------------------------------------------------------------


@layer
def mixed(ops, p, x, heads):
    q, k, v = (split_heads(ops, linear(ops, p[name], x), heads) for name in ("q", "k", "v"))
    return merge_heads(ops, ops.attention(q, k, v))


def make_network(text_first):
    def network(ops, p, config, x, t, context):
        both = [context, x] if text_first else [x, context]
        tokens = mixed(ops, p.attn, ops.xp.concat(both, axis=1), 2)
        return tokens[:, context.shape[1] :, :] if text_first else tokens[:, : x.shape[1], :]

    return network


@pytest.mark.parametrize("text_first", [True, False])
def test_an_image_in_the_stream_of_the_text_is_guided(text_first):
    """As declared, without code: against the definition run for each text alone."""
    guide = AttentionGuidance(("attn",), 0.25, 2, repeated={"": ("x",)})
    network = make_network(text_first)
    ops = get_backend("numpy", dtype="float64")
    spec = {"attn": {name: linear_spec(8, 8) for name in ("q", "k", "v")}}
    params = init(spec)
    x, texts = RNG.standard_normal((2, 6, 8)), RNG.standard_normal((4, 3, 8))
    steered = SteeredNetwork(network, Steerable(attention=guide), text_first)
    got = steered(ops, params, None, x, None, texts, steering=(AttentionGuided(4.0, 1.2),))
    negative, positive = (network(ops, params, None, x, None, part) for part in np.split(texts, 2))
    want = normalized_attention_guidance(positive, negative, 4.0, 1.2, 0.25, 2)
    for half in np.split(got, 2):  # the image of each text
        np.testing.assert_allclose(half, want, rtol=1e-12)
