"""Faults of what transformers and their text encoders are given: inputs, positions and masks.

The numbers are those of public threads, by the project that had the fault.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy_ports import make_model, run_port
from test_transformer_faults import check, computed_from, judge

from ldmref.backends import get_backend
from ldmref.backends.named import NamedBackend
from ldmref.families.flux import network as flux
from ldmref.families.sd3 import network as sd3
from ldmref.locate.faults.attention import other_bias
from ldmref.math.embedding import timestep_embedding
from ldmref.models.layers import layer, mask_bias, mlp
from ldmref.models.t5 import t5

MODULES = {"flux-tiny": flux, "sd3-tiny": sd3, "schnell": flux}
EMBEDDING = "time_text_embed"
T5 = "text_encoder_2"  # of Flux.1
RECORDED = pytest.mark.parametrize("recorded", [True, False], ids=["layers", "blocks"])


@pytest.fixture(scope="module")
def flux_model():
    return make_model("flux-tiny")


def make(name):
    """Return a model; "schnell" is Flux.1 that reads no guidance."""
    model = make_model("flux-tiny" if name == "schnell" else name)
    if name == "schnell":
        model.config = replace(
            model.config, denoiser=replace(model.config.denoiser, guidance_embeds=False)
        )
        model.params["transformer"].time_text_embed.pop("guidance_embedder")
    return model


@layer
def embed_without_text(ops, p, t, pooled, guidance=None):
    numbers = [(p.timestep_embedder, t)]
    if guidance is not None:
        numbers.append((p.guidance_embedder, guidance))
    embedded = [
        mlp(ops, q, ops.call_function("time_proj", timestep_embedding, x, 256)) for q, x in numbers
    ]
    return sum(embedded[1:], embedded[0])


def kept(tensors, recorded):
    """Return what a port recorded: everything, or all but the layers of the embedding."""
    return {name: x for name, x in tensors.items() if recorded or EMBEDDING not in name}


@RECORDED
def test_guidance_that_is_not_used_is_named(flux_model, recorded):
    """vllm-omni#2433."""
    tensors = kept(run_port(flux_model, network="transformer", guidance=None), recorded)
    layers = (EMBEDDING,) if recorded else ("transformer_blocks", "norm_out")
    check(judge(flux_model, tensors), "the guidance is not used", layers)


@RECORDED
@pytest.mark.parametrize("name", MODULES)
def test_pooled_text_that_is_not_used_is_named(name, recorded, monkeypatch):
    """sglang#17988: the embedding of schnell takes no guidance, and the text came in its place."""
    model = make(name)
    with monkeypatch.context() as patch:
        patch.setattr(MODULES[name], "embed", embed_without_text)
        tensors = kept(run_port(model, network="transformer"), recorded)
    words = f"the output is not used (zeros) in {EMBEDDING}.text_embedder.linear_2"
    if recorded and name != "flux-tiny":
        words = f"equals the output of {EMBEDDING}.timestep_embedder"
    layers = (EMBEDDING,) if recorded else ("transformer_blocks", "norm_out")
    check(judge(model, tensors), words, layers)


def rounded(positions):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(positions).bfloat16().double().numpy()


POSITIONS = {
    "diffusers-13920-bfloat16": (rounded, "the positions are rounded to bfloat16"),
    "DiffSynth-753-repeated": (
        lambda p: p % 192, "positions from 192 on start again at 0: a table of 192"),
    "DiffSynth-753-the-last-again": (
        lambda p: np.minimum(p, 255), "positions from 256 on are 255: a table of 256"),
}  # fmt: skip


@pytest.mark.parametrize("recorded", ["rotations", "layers"])
@pytest.mark.parametrize(("change", "words"), POSITIONS.values(), ids=POSITIONS)
def test_positions_that_a_port_does_not_hold_are_named(flux_model, change, words, recorded):
    """Columns up to 299: bfloat16 holds whole numbers up to 256."""
    hidden = () if recorded == "rotations" else ("rotate", "attention")
    x = np.random.default_rng(4).standard_normal((2, 4, 2, 600)).astype(np.float32)
    wrong = {"rotate": computed_from(positions=change)}
    tensors = run_port(flux_model, wrong, "transformer", hidden, {"x": x})
    check(judge(flux_model, tensors), words, ("rotate", ".attn"))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda i, end: np.minimum(i, end), "the padding has the position of the end token"),
        (lambda i, end: np.where(i > end, 0, i), "the padding has position 0"),
    ],
)
def test_positions_that_stop_before_the_padding_are_named(place, words):
    """diffusers#13574: the model was trained with positions that count on in the padding."""
    model = make_model("sd3-tiny")
    table = model.params["text_encoder"]["text_model"]["embeddings"]["position_embedding"]["weight"]
    length = len(table)
    ids = np.full((2, length), 39)  # the end token pads
    ids[0, :5] = [38, 3, 4, 9, 39]
    ids[1, :7] = [38, 8, 1, 2, 5, 7, 39]
    i = np.arange(length)

    def wrong(call, x):
        right = call.compute({role: x[role] for role in call.inputs})
        return right - table[i] + table[place(i, np.array([[4], [6]]))]

    layers = ("text_model.embeddings",)
    tensors = run_port(model, {layers[0]: wrong}, "text_encoder", given={"ids": ids})
    check(judge(model, tensors), words, layers)
    assert judge(model, run_port(model, network="text_encoder", given={"ids": ids})).equal


MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
HIDDEN = MASK[:, None, None, :] == 0
OF_MASKS = {
    "diffusers-12294": (
        computed_from(bias=lambda b: np.where(HIDDEN, b + 1e9, b)), "the padding mask is missing"),
    "inverted": (
        computed_from(bias=lambda b: np.where(HIDDEN, 0.0, -1e9)), "the mask is inverted"),
    "not-of-minus-infinity": (
        computed_from(bias=lambda b: np.where(HIDDEN, 0.0, b + 1.0)),
        "the mask is added as 1 and 0, which hides nothing"),
    "bias-twice": (
        computed_from(bias=lambda b: np.where(HIDDEN, b, 2.0 * b)),
        "the bias of positions is applied twice"),
    "mask-without-bias": (
        computed_from(bias=lambda b: np.where(HIDDEN, b, 0.0)), "the bias of positions is missing"),
    "sign": (
        computed_from(bias=lambda b: np.where(HIDDEN, b, -b)),
        "the bias of positions has the other sign"),
}  # fmt: skip


@pytest.fixture
def masked_t5(flux_model, monkeypatch):
    """A model whose T5 has a mask."""
    plain = flux_model.family

    def masked(ops, p, config, ids):
        return t5(ops, p, config, ids, mask=MASK)

    def networks(config):
        found = {network.name: network for network in plain.networks(config)}
        return [*(found | {T5: replace(found[T5], function=masked)}).values()]

    monkeypatch.setattr(flux_model, "family", replace(plain, networks=networks))
    return flux_model


@pytest.mark.parametrize("recorded", ["attention", "layers"])
@pytest.mark.parametrize(("change", "words"), OF_MASKS.values(), ids=OF_MASKS)
def test_a_fault_of_a_mask_is_named(masked_t5, change, words, recorded):
    """diffusers#12294, of a family whose T5 has a mask; those of SD3 and Flux.1 have none."""
    hidden = () if recorded == "attention" else ("attention",)
    ids = np.array([[7, 9, 3, 1, 0], [8, 1, 0, 0, 0]])
    given = {"network": T5, "hidden": hidden, "given": {"ids": ids}}
    assert judge(masked_t5, run_port(masked_t5, **given)).equal
    tensors = run_port(masked_t5, {"attention": change}, **given)
    check(judge(masked_t5, tensors), words, ("SelfAttention",))


def attend(mask):
    """Return the layer of attention with a mask of keys, (n, m), and its numbers."""
    ops = NamedBackend(get_backend("numpy", dtype="float64"))
    calls = []
    ops.visit = lambda call: calls.append(call) or call.compute(call.inputs)
    q, k, v = np.random.default_rng(5).standard_normal((3, len(mask), 3, mask.shape[1], 4))
    ops.attention(q, k, v, bias=mask_bias(ops, mask))
    return calls[0]


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (lambda x, seen: np.where(seen, -np.inf, 0.0), "the mask is inverted"),
        (lambda x, seen: 0.0 * seen, "the padding mask is missing"),
        (lambda x, seen: 1.0 * seen, "the mask is added as 1 and 0, which hides nothing"),
        (None, "the mask is applied twice, the second time to the results of hidden queries"),
    ],
)
@pytest.mark.parametrize("masked", [-1e9, -1e4, -np.inf])
def test_faults_of_a_mask_alone(port, words, masked):
    """Of any family, whatever number its mask adds."""
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    call = attend(mask)
    seen = mask[:, None, None, :] != 0
    inputs = {**call.inputs, "bias": np.where(seen, 0.0, masked)}
    right = replace(call, inputs=inputs)
    if port is None:
        wrong = np.where(mask[:, None, :, None] == 0, 0.0, call.compute(inputs))
    else:
        wrong = call.compute({**inputs, "bias": port(inputs["bias"], seen)})
    found = {v.text: v.change(right, inputs) for v in other_bias(right)}
    assert np.abs(found[words] - wrong).max() < 1e-12
    others = [text for text, y in found.items() if np.abs(y - wrong).max() < 1e-3]
    assert {text.partition(",")[0] for text in others} == {words.partition(",")[0]}


def test_a_mask_whose_queries_see_no_key_is_inverted_too():
    """torch gives the mean of all values where all scores are the lowest number."""
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    call = attend(mask)
    bias = np.where(mask[:, None, None, :] == 0, 0.0, np.finfo(np.float32).min)
    wrong = call.compute({**call.inputs, "bias": bias})
    found = {v.text: v.change(call, call.inputs) for v in other_bias(call)}
    words = "the mask is inverted, and queries without keys attend to all alike"
    assert np.abs(found[words] - wrong).max() < 1e-12
    assert np.abs(wrong[0] - call.inputs["v"][0].mean(axis=1, keepdims=True)).max() < 1e-12
