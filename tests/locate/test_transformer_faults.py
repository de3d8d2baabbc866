"""Faults of ports of SD3, Flux.1 and T5: the locator names each with its words, and nothing else.

The numbers are those of public threads, by the project that had the fault.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy_ports import make_model
from numpy_ports import run_port as run_network

from ldmref.families.flux import network as flux
from ldmref.locate import diff_traces
from ldmref.locate.faults.activations import exact_gelu
from ldmref.locate.report import describe
from ldmref.models.transformer_layers import find_angles, rotate, turn
from ldmref.trace import build_trace

BLOCK = "transformer_blocks.0"
SINGLE = "single_transformer_blocks.0"


@pytest.fixture(scope="module", params=["flux-tiny", "sd3-tiny"])
def model(request):
    return make_model(request.param)


@pytest.fixture(scope="module")
def flux_model():
    return make_model("flux-tiny")


def computed_from(**changes):
    """Return a layer that is computed from changed inputs, or with other settings."""
    return lambda call, x: call.compute({**x, **{k: f(x.get(k)) for k, f in changes.items()}})


def rotated(change):
    """Return a rotation by changed angles."""
    return lambda call, x: turn(
        x["input"], change(find_angles(x["positions"], call.attributes["dims"]))
    ).astype(np.float32)


def with_settings(**settings):
    """Return a rotation with other settings."""
    return lambda call, x: rotate(
        x["input"], x["positions"], **{"dims": call.attributes["dims"], **settings}
    )


def in_halves(call, x):
    y = x["input"]
    angles = find_angles(x["positions"], call.attributes["dims"])
    first, second = np.split(y, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return np.concatenate(turned, axis=-1).astype(np.float32)


def in_bfloat16(angles):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(angles).bfloat16().double().numpy()


def text_counted(positions):
    moved = positions.copy()
    moved[:5, 0] = np.arange(5)
    return moved


class Case(NamedTuple):
    """A fault: the changed layers, the words of its cause, and the layers that may be blamed."""

    wrong: dict
    words: str
    layers: tuple[str, ...]


EVERYWHERE = {  # in both transformers
    "maxdiffusion-482-time-times-1000": Case(
        {"time_text_embed.time_proj": computed_from(input=lambda t: 1000 * t)},
        "the timestep is scaled by 1000",
        ("time_text_embed.time_proj",),
    ),
    "time-that-is-divided-by-1000": Case(
        {"time_text_embed.time_proj": computed_from(input=lambda t: t / 1000)},
        "the timestep is scaled by 1/1000",
        ("time_text_embed.time_proj",),
    ),
    "sd-scripts-2215-reversed-time": Case(
        {"time_text_embed.time_proj": computed_from(input=lambda t: 1000 - t)},
        "the timestep t is 1000 - t",
        ("time_text_embed.time_proj",),
    ),
    "ernie-image-sine-first": Case(
        {"time_text_embed.time_proj": lambda c, x: np.roll(c.compute(x), 128, axis=1)},
        "[sin, cos] instead of [cos, sin]",
        ("time_text_embed.time_proj",),
    ),
    "gelu-of-erf": Case(
        {"tanh_gelu": lambda c, x: exact_gelu(x["input"])},
        "exact GELU instead of tanh GELU",
        ("gelu_tanh", "act_mlp"),
    ),
    "diffusers-10198-scale-and-shift-at-the-end": Case(
        {"norm_out.linear": lambda c, x: np.roll(c.compute(x), c.parameters["weight"].shape[1], 1)},
        "",
        ("norm_out.linear",),
    ),
    "norm-without-tokens-mean": Case(
        {f"{BLOCK}.norm1.layer_norm": computed_from(eps=lambda _: 1e-3)},
        "eps 0.001 instead of 1e-06",
        (f"{BLOCK}.norm1.layer_norm",),
    ),
    "norm-of-queries-with-another-eps": Case(
        {f"{BLOCK}.attn.norm_q": computed_from(eps=lambda _: 1e-3)},
        "eps 0.001 instead of 1e-06",
        (f"{BLOCK}.attn.norm_q",),
    ),
    "norm-of-queries-without-weight": Case(
        {f"{BLOCK}.attn.norm_q": computed_from(weight=lambda w: 0 * w + 1)},
        "weight is missing",
        (f"{BLOCK}.attn.norm_q",),
    ),
    "norm-over-all-heads": Case(
        {
            f"{BLOCK}.attn.norm_k": lambda c, x: (
                x["input"]
                / np.sqrt(np.square(x["input"]).mean(axis=(1, 3), keepdims=True) + 1e-6)
                * x["weight"]
            )
        },
        "the mean square is that of all heads instead of each",
        (f"{BLOCK}.attn.norm_k",),
    ),
}
ROTATIONS = {
    "flashinfer-3819-sine-and-cosine": (
        rotated(lambda a: np.pi / 2 - a), "sine and cosine are swapped in the rotation"),
    "FastVideo-1321-halves": (
        in_halves, "halves of a head are rotated instead of neighbouring channels"),
    "other-direction": (rotated(lambda a: -a), "the rotation has the other direction"),
    "theta": (with_settings(theta=256.0), "theta 256 instead of 10000"),
    "axes": (with_settings(dims=(6, 4, 2)), "axes of 6, 4, 2 channels instead of"),
    "candle-3520-bfloat16": (
        rotated(in_bfloat16), "the angles of the rotation are rounded to bfloat16"),
    "positions-from-1": (
        computed_from(positions=lambda p: p + 1 * (np.arange(len(p)) >= 5)[:, None] * [0, 1, 1]),
        "rows and columns count from 1"),
    "rows-and-columns": (
        computed_from(positions=lambda p: p[:, [0, 2, 1]]), "rows and columns are exchanged"),
    "diffusion-4k-17-unpacked-positions": (
        computed_from(positions=lambda p: 2 * p), "the positions are twice as large"),
    "vllm-omni-4443-positions-of-the-text": (
        computed_from(positions=text_counted), "the tokens of the text count on the first axis"),
    "no-rotation": (lambda c, x: x["input"], "the rotation is missing"),
}  # fmt: skip


def run_port(model, wrong=None, hidden=(), network="transformer", **changed):
    return run_network(model, wrong, network, hidden, **changed)


def judge(model, tensors):
    return diff_traces(build_trace(tensors), model)


SAME_SCORES = (
    "sine and cosine are swapped in the rotation",
    "the rotation has the other direction",
)


def check(report, words, layers):
    """Check that only these layers are blamed, and every one with these words."""
    assert report.faults
    for row in report.faults:
        assert row.cause or not words
        assert any(name in row.layer for name in layers), (row.layer, row.kind, row.cause)
        assert words in row.cause, (row.layer, row.kind, row.cause, row.note)


def test_right_ports_have_no_fault(model):
    report = judge(model, run_port(model))
    assert report.equal and report.counts()["equal"] > 100


def test_tokens_by_the_makers_names_are_the_latents(flux_model):
    tensors = run_port(flux_model)
    (name,) = (name for name in tensors if name.endswith("//input.sample"))
    (text,) = (name for name in tensors if name.endswith("//input.encoder_hidden_states"))
    latents = tensors.pop(name)
    n, c, h, w = latents.shape
    cut = latents.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3, 5)
    tensors["transformer.000//input.img"] = cut.reshape(n, h * w // 4, 4 * c)
    tensors["transformer.000//input.txt"] = tensors.pop(text)
    places = np.stack([0 * np.ones((h // 2, w // 2)), *np.indices((h // 2, w // 2))], axis=-1)
    tensors["transformer.000//input.img_ids"] = places.reshape(-1, 3)
    report = judge(flux_model, tensors)
    assert report.equal, (report.gaps, report.faults)


@pytest.mark.parametrize("case", EVERYWHERE.values(), ids=EVERYWHERE)
def test_a_fault_of_both_transformers_is_named(model, case):
    check(judge(model, run_port(model, case.wrong)), case.words, case.layers)


@pytest.mark.parametrize("recorded", ["rotations", "layers"])
@pytest.mark.parametrize(("change", "words"), ROTATIONS.values(), ids=ROTATIONS)
def test_a_fault_of_rotary_positions_is_named(flux_model, change, words, recorded):
    hidden = () if recorded == "rotations" else ("rotate", "attention")
    report = judge(flux_model, run_port(flux_model, {"rotate": change}, hidden))
    layers = ("rotate",) if recorded == "rotations" else (".attn",)
    if recorded == "layers" and words in SAME_SCORES:
        words = "rotation"  # the products of queries and keys cannot tell them apart
    if recorded == "rotations" and "missing" in words:
        words = ""
    check(report, words, layers)


def test_a_rotation_of_the_keys_alone_is_named(flux_model):
    wrong = {f"{BLOCK}.attn.rotate~1": lambda c, x: x["input"]}
    report = judge(flux_model, run_port(flux_model, wrong, ("rotate", "attention")))
    check(report, "the rotation is missing", (f"{BLOCK}.attn",))
    (image,) = (row for row in report.faults if row.layer.endswith("to_out.0"))
    assert image.cause.endswith(f"in {BLOCK}.attn.rotate~1")  # those of the text are at position 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: 1000 * g, "the guidance is scaled by 1000"),  # by the angles that float32 holds
        (lambda g: g / 1000, "the guidance is scaled by 1/1000"),
        (lambda g: 0 * g, "the guidance is 0"),
    ],
    ids=["sglang-22059", "not-multiplied", "zero"],
)
def test_another_scale_of_the_guidance_is_named(flux_model, change, words):
    wrong = {"time_text_embed.time_proj~1": computed_from(input=change)}
    report = judge(flux_model, run_port(flux_model, wrong))
    check(report, words, ("time_text_embed.time_proj~1",))


def test_guidance_that_is_forgotten_is_named(flux_model):
    """vllm-omni#2433."""
    report = judge(flux_model, run_port(flux_model, guidance=None))
    check(report, "", (f"{BLOCK}", "norm_out", SINGLE, ""))


@pytest.mark.parametrize("recorded", ["norm", "layers"])
def test_swapped_parts_of_a_modulation_are_named(model, recorded):
    def exchanged(call, x):
        h, gate, shift, scale, *rest = call.compute(x)
        return (h, gate, scale, shift, *rest)

    wrong = {f"{BLOCK}.norm1": exchanged}
    hidden = () if recorded == "norm" else ("adaptive_norm",)
    report = judge(model, run_port(model, wrong, hidden))
    words = f"shift of the MLP and scale of the MLP are exchanged in {BLOCK}.norm1.linear"
    check(report, words, (f"{BLOCK}.norm1" if recorded == "norm" else f"{BLOCK}.ff",))


def test_parts_of_a_modulation_that_turn_are_named_in_every_row(flux_model):
    """The row of the gate alone would fit an exchange as well."""

    def turned(call, x):
        h, gate, shift, scale, gate_mlp = call.compute(x)
        return h, gate, gate_mlp, shift, scale

    wrong = {f"{BLOCK}.norm1": turned}
    report = judge(flux_model, run_port(flux_model, wrong, ("adaptive_norm", "block")))
    words = "shift, scale and gate of the MLP are gate, shift and scale in "
    assert report.faults
    assert {row.cause for row in report.faults} == {f"{words}{BLOCK}.norm1.linear"}


def test_a_gate_of_another_part_is_not_an_exchange(flux_model):
    def other_gate(call, x):
        h, _, shift, scale, gate_mlp = call.compute(x)
        return h, gate_mlp, shift, scale, gate_mlp

    wrong = {f"{BLOCK}.norm1": other_gate}
    report = judge(flux_model, run_port(flux_model, wrong, ("adaptive_norm", "block")))
    assert report.faults
    words = f"the gate is the gate of the MLP in {BLOCK}.norm1.linear"
    assert {row.cause for row in report.faults} == {words}


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (("layer_norm",), "1 is not added to the scale in norm_out.linear"),
        ((), "1 is not added to the scale in norm_out.linear"),
    ],
)
def test_a_missing_one_at_the_end_is_named(model, hidden, words):
    def without_one(call, x):
        (right,) = call.compute(x)
        return (right - normal(x["input"]),)

    def normal(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6)

    report = judge(model, run_port(model, {"norm_out": without_one}, hidden))
    check(report, words, ("norm_out", "proj_out"))


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((0, 2, 4, 3, 5, 1), "a patch holds row, column, channel"),
        ((0, 4, 2, 1, 3, 5), "a patch holds channel, row, column, and tokens run down the columns"),
    ],
)
def test_another_packing_is_named(flux_model, monkeypatch, order, words):
    def cut(x):
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(order)
        return x.reshape(n, h // 2, w // 2, c * 4)

    with monkeypatch.context() as patch:
        patch.setattr(flux, "cut_patches", cut)
        tensors = run_port(flux_model)
    check(judge(flux_model, tensors), words, ("x_embedder",))


def test_another_unpacking_is_named(flux_model, monkeypatch):
    def join(x, rows, columns):
        n, _, width = x.shape
        x = x.reshape(n, rows, columns, 2, 2, width // 4).transpose(0, 5, 1, 3, 2, 4)
        return x.reshape(n, width // 4, 2 * rows, 2 * columns)

    with monkeypatch.context() as patch:
        patch.setattr(flux, "join_patches", join)
        tensors = run_port(flux_model)
    check(judge(flux_model, tensors), "a patch is read as row, column, channel", ("",))


def test_a_reversed_sign_is_named(model):
    tensors = run_port(model)
    tensors["transformer.000//output"] = -tensors["transformer.000//output"]
    check(judge(model, tensors), "sign reversed", ("",))


SCALED = computed_from(input=lambda q: q / np.sqrt(q.shape[-1]))
ATTENTION = "encoder.block.0.layer.0.SelfAttention"
TEXT = np.array([[7, 9, 3, 1, 0], [8, 1, 0, 0, 0]])


def masked(call, x):
    hidden = np.array([[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]])[:, None, None, :]
    return call.compute({**x, "bias": x["bias"] - 1e9 * hidden})


@pytest.mark.parametrize("recorded", ["attention", "layers"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (SCALED, "the scores are divided by sqrt(d), which they should not be"),
        (computed_from(bias=lambda b: 0 * b), "the bias of positions is missing"),
        (computed_from(bias=lambda b: b.swapaxes(-1, -2)), "that of the query from the key"),
        (masked, "a padding mask that should not be there"),
    ],
    ids=["scale", "TensorRT-LLM-1343-bias", "bias-of-the-query", "flux-507-mask"],
)
def test_a_fault_of_t5_is_named(flux_model, change, words, recorded):
    hidden = () if recorded == "attention" else ("attention",)
    wrong = {f"{ATTENTION}.attention": change}
    tensors = run_port(flux_model, wrong, hidden, "text_encoder_2", given={"ids": TEXT})
    check(judge(flux_model, tensors), words, (ATTENTION,))


def test_a_mask_of_t5_is_reasonable_and_not_flux(flux_model):
    """The finding says so with its thread; that of another fault does not."""
    for change, thread in ((masked, "black-forest-labs/flux#507"), (SCALED, "")):
        wrong = {f"{ATTENTION}.attention": change}
        report = judge(
            flux_model, run_port(flux_model, wrong, (), "text_encoder_2", given={"ids": TEXT})
        )
        (row,) = report.faults
        assert (thread in row.reasonable) and bool(row.reasonable) == bool(thread)
        said = "reasonable, but not this model: Flux.1 was trained without it" in describe(row)
        assert said == bool(thread)


def test_an_overflow_of_t5_is_named(flux_model):
    """mlx-examples#113: T5 in float16. The first layer is named, and a scale that avoids it."""
    layer = "encoder.block.1.layer.1.DenseReluDense.wi_1"

    model = make_model("flux-tiny")
    right = run_port(model, network="text_encoder_2", given={"ids": TEXT})
    largest = np.abs(right[f"text_encoder_2/{layer}/output"]).max()
    blocks = model.params["text_encoder_2"].encoder.block
    blocks["1"].layer["1"].DenseReluDense.wi_1["weight"] *= 3e6 / largest
    halved = {layer: lambda c, x: np.float16(np.clip(c.compute(x), -1e5, 1e5))}
    with np.errstate(all="ignore"):
        tensors = run_port(model, halved, network="text_encoder_2", given={"ids": TEXT})
        report = judge(model, tensors)
    (row,) = report.faults
    assert row.layer == layer and "scaled by 2^-6" in row.cause  # 2^6 65504 is 4.2e6
    assert row.cause.startswith("overflows float16: 3e+06 is above 65504")


def test_a_row_without_keys_is_named(flux_model):
    """diffuseR#34: -3.4e38 becomes -inf in bfloat16, and all keys of a query are masked."""

    def no_keys(call, x):
        bias = np.repeat(x["bias"], 2, axis=0)
        bias[1, :, 3] = -np.inf
        with np.errstate(invalid="ignore"):
            return call.compute({**x, "bias": bias})

    wrong = {f"{ATTENTION}.attention": no_keys}
    with np.errstate(invalid="ignore"):
        tensors = run_port(flux_model, wrong, network="text_encoder_2", given={"ids": TEXT})
        report = judge(flux_model, tensors)
    (row,) = report.faults
    assert row.layer == f"{ATTENTION}.attention"
    assert row.cause.startswith("all keys of these queries are masked")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: 0.5 * x + 0.5, "pixels in [0, 1] instead of [-1, 1]"),
        (lambda x: 127.5 * x + 127.5, "pixels from 0 to 255 instead of [-1, 1]"),
    ],
)
def test_another_range_of_pixels_is_named(flux_model, change, words):
    """ComfyUI-VAE-Utils#22."""
    tensors = run_port(flux_model, network="vae.decode")
    tensors["vae.decode//output"] = change(tensors["vae.decode//output"])
    (row,) = judge(flux_model, tensors).faults
    assert words in row.cause
