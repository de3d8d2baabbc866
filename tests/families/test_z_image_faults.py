"""Faults of live pipelines of Z-Image are named where they are, and right runs have none."""

from __future__ import annotations

import pytest

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
import torch
import torch.nn.functional as F
from qwen3_networks import write_vocabulary
from z_image_pipelines import make_pipeline

PROMPT = "the blue house of a dog on a table"
LONG = "the blue house of a dog on a table, painted by an assistant of a cat, and a " * 2
LATENTS, TIME, CAPTIONS = range(3)  # arguments of the transformer


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(vocabulary, tmp_path_factory):
    """Return the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("z-image")
    make_pipeline(vocabulary).save_pretrained(path)
    return path


def judge(pipe, folder, path, prompts=(PROMPT,), scale=2.0, dtype="float32", **options):
    """Record a run of the pipeline; return the report."""
    options = {"width": 20, "height": 24, "max_sequence_length": 64} | options
    with ldmref.recording(pipe, path) as trace:
        generator = torch.Generator().manual_seed(5)
        pipe(
            [*prompts], generator=generator, num_inference_steps=2, guidance_scale=scale, **options
        )
    return diff_traces(trace.trace, ldmref.load(folder, dtype=dtype))


# -- faults ---------------------------------------------------------------------------------------


def change_class(thing, **members):
    """Give an object a subclass of its class."""
    thing.__class__ = type(type(thing).__name__, (type(thing),), members)


def change_argument(number, change):
    """Return a port that gives the transformer another argument."""

    def make(pipe):
        def hook(module, args):
            return tuple(change(x) if i == number else x for i, x in enumerate(args))

        pipe.transformer.register_forward_pre_hook(hook, prepend=True)

    return make


def change_step(change):
    """Return a port whose steps read the prediction in another way."""

    def make(pipe):
        base = type(pipe.scheduler).step

        def step(self, model_output, timestep, sample, **kwargs):
            return base(self, change(model_output), timestep, sample, **kwargs)

        change_class(pipe.scheduler, step=step)

    return make


def shift_twice(pipe):
    base = type(pipe.scheduler).set_timesteps

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        base(self, num_inference_steps, device, sigmas, mu)
        once = self.sigmas[:-1]
        self.sigmas = torch.cat([3.0 * once / (1.0 + 2.0 * once), torch.zeros(1)])
        self.timesteps = 1000.0 * self.sigmas[:-1]

    change_class(pipe.scheduler, set_timesteps=set_timesteps)


def change_state(change):
    """Return a port that reads another hidden state of the text encoder."""

    def make(pipe):
        def hook(module, args, output):
            states = list(output.hidden_states)
            states[-2] = change(pipe.text_encoder.model, states)
            output["hidden_states"] = tuple(states)
            return output

        pipe.text_encoder.register_forward_hook(hook)

    return make


def change_places(change):
    """Return a port that turns tokens by other places."""

    def make(pipe):
        embedder = pipe.transformer.rope_embedder
        base = type(embedder).__call__
        change_class(embedder, __call__=lambda self, ids: base(self, change(ids)))

    return make


def count_from_0(ids):
    return torch.cat([(ids[:, :1] - 1).clamp(min=0), ids[:, 1:]], dim=1)


def change_theta(pipe):
    pipe.transformer.rope_embedder.theta = 10000.0


def change_theta_of_text(pipe):
    frequencies = pipe.text_encoder.model.rotary_emb.inv_freq
    frequencies.copy_(5e6 ** -(torch.arange(0, 6, 2) / 6))  # of Qwen3-VL


def turn_halves(pipe):
    """Turn queries and keys of a layer as the text encoder does."""

    def call(self, attn, x, encoder_hidden_states=None, attention_mask=None, freqs_cis=None):
        layers = attn.to_q, attn.to_k, attn.to_v
        q, k, v = (layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for layer in layers)
        cos, sin = freqs_cis.real[:, None], freqs_cis.imag[:, None]

        def turn(x):
            first, second = x.chunk(2, dim=-1)
            return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

        q, k = turn(attn.norm_q(q)), turn(attn.norm_k(k))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))

    change_class(pipe.transformer.layers[1].attention.processor, __call__=call)


def give_padding(pipe):
    """Give the transformer the hidden states of padding, too."""
    base = type(pipe)._encode_prompt

    def encode(self, prompt, **options):
        found = base(self, prompt, **options)
        return [torch.cat([x, x[-1:].repeat(64 - len(x), 1)]) for x in found]

    change_class(pipe, _encode_prompt=encode)


def skip_layer(network, path):
    """Return a port that leaves out a layer of a network."""

    def make(pipe):
        layer = getattr(pipe, network).get_submodule(path)
        change_class(layer, forward=lambda self, x: x)

    return make


def change_block(one=1.0, limit=torch.tanh):
    """Return a port with another modulation of a block."""

    def make(pipe):
        def forward(self, x, attn_mask, freqs_cis, adaln_input=None, *more, **named):
            rows = self.adaLN_modulation(adaln_input)[:, None].chunk(4, dim=2)
            h = self.attention_norm1(x) * (one + rows[0])
            h = self.attention(h, attention_mask=attn_mask, freqs_cis=freqs_cis)
            x = x + limit(rows[1]) * self.attention_norm2(h)
            h = self.feed_forward(self.ffn_norm1(x) * (one + rows[2]))
            return x + limit(rows[3]) * self.ffn_norm2(h)

        change_class(pipe.transformer.layers[1], forward=forward)

    return make


def exchange_gate(pipe):
    def forward(self, x):
        return self.w2(F.silu(self.w3(x)) * self.w1(x))

    change_class(pipe.transformer.layers[1].feed_forward, forward=forward)


def lose_pad_token(name):
    return lambda pipe: getattr(pipe.transformer, name).data.zero_()


def hide_learned_padding(pipe):
    """Let no token read the tokens that fill up the image."""

    def hook(module, args):
        mask = torch.ones(args[0].shape[:2], dtype=torch.bool)
        mask[:, 30:32] = False  # 5 x 6 patches
        return args[0], mask, *args[2:]

    for block in pipe.transformer.layers:
        block.register_forward_pre_hook(hook)


def reduce_scale(pipe):
    """Guide by u + g (c - u), with the number of c + g (c - u)."""
    change_class(pipe, guidance_scale=property(lambda self: self._guidance_scale - 1.0))


def exchange_heads(pipe):
    """Let queries read the keys of the other group."""

    def hook(module, args, output):
        return output.unflatten(-1, (2, 6)).flip(-2).flatten(-2)

    attention = pipe.text_encoder.model.layers[1].self_attn
    for layer in (attention.k_proj, attention.v_proj):
        layer.register_forward_hook(hook)


ATTENTION = "layers.1.attention.attention"
OF_IMAGES = [f"{name}.{i}" for name in ("noise_refiner", "layers") for i in range(2)]
REFINERS = {f"{name}.attention.attention" for name in OF_IMAGES}
ALL = REFINERS | {f"context_refiner.{i}.attention.attention" for i in range(2)}
TEXT = {f"layers.{i}.self_attn.attention" for i in (0, 1)}
# The port, where it is named (layers, or kinds of what is between networks), and in which words.
FAULTS = {
    "sign": (change_step(lambda v: -v), {"step"}, "sign of the prediction (flow) is reversed"),
    "time-direction": (
        change_argument(TIME, lambda t: 1 - t), {"timestep"}, "the timestep t is 1000 - t"),
    "time-of-the-previous-step": (
        change_argument(TIME, torch.zeros_like), {"timestep"}, "of the previous step"),
    "shifted-twice": (shift_twice, {"timesteps", "sigmas"}, "the levels are shifted twice"),
    "guidance-number": (reduce_scale, {"guidance"}, "guidance scale 2 instead of 3"),
    "last-hidden-state": (
        change_state(lambda text, states: states[-1]), {"own"}, "1 layer more, with the final"),
    "earlier-hidden-state": (
        change_state(lambda text, states: states[-3]), {"own"}, "hidden state 1 instead of 2"),
    "final-norm": (
        change_state(lambda text, states: text.norm(states[-2])), {"own"}, "norm is applied"),
    "padding-attended": (give_padding, {"mask of the text"}, "padding is not masked"),
    "exchanged-captions": (
        change_argument(CAPTIONS, lambda c: c[::-1]), {"text", "mask of the text"},
        "prompt and negative prompt are exchanged"),
    "axes-exchanged": (
        change_places(lambda ids: ids[:, [0, 2, 1]]), REFINERS, "rows and columns are exchanged"),
    "places-from-0": (change_places(count_from_0), ALL, "sequence count from 0"),
    "theta": (change_theta, ALL, "theta 10000 instead of 256"),
    "halves": (turn_halves, {ATTENTION}, "halves of a head are rotated"),
    "sandwich-norm-missing": (
        skip_layer("transformer", "layers.1.ffn_norm2"), {"layers.1.ffn_norm2"},
        "equals the output of layers.1.feed_forward"),
    "query-norm-missing": (
        skip_layer("transformer", "layers.1.attention.norm_q"), {"layers.1.attention.norm_q"},
        "is skipped"),
    "scale-without-1": (
        change_block(one=0.0), {"layers.1.attention", "layers.1.feed_forward"},
        "1 is not added to the scale"),
    "gate-without-tanh": (
        change_block(limit=lambda g: g), {"layers.1.ffn_norm1", "layers.1"}, ""),
    "gate-and-value": (
        exchange_gate, {"layers.1.feed_forward.silu", "layers.1.feed_forward.w2"},
        "SiLU is applied to w3"),
    "image-padding-not-learned": (lose_pad_token("x_pad_token"), {"noise_refiner.0"}, ""),
    "caption-padding-not-learned": (lose_pad_token("cap_pad_token"), {"context_refiner.0"}, ""),
    "learned-padding-masked": (
        hide_learned_padding, {"layers.0.attention.attention", ATTENTION}, ""),
    "theta-of-the-sibling": (change_theta_of_text, TEXT, "theta 5e+06 instead of 1e+06"),
    "key-norm-of-the-text-missing": (
        skip_layer("text_encoder", "model.layers.1.self_attn.k_norm"),
        {"layers.1.self_attn.k_norm"}, "is skipped"),
    "groups-exchanged": (
        exchange_heads, {"layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj"}, "swapped"),
    "shift-factor": (
        lambda pipe: pipe.vae.register_to_config(shift_factor=0.0), {"latents"},
        "the shift factor is missing"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "expected", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(vocabulary, folder, tmp_path, make, expected, words):
    pipe = make_pipeline(vocabulary)
    make(pipe)
    report = judge(pipe, folder, tmp_path / "trace")
    found = {row.layer or row.kind for row in report.rows if row.verdict == "differs"}
    assert found and found <= expected
    assert any(words in row.cause for row in report.faults)


# -- right runs -----------------------------------------------------------------------------------

RUNS = {
    "cfg": {},
    "no-cfg": {"scale": 0.0},
    "wide": {"width": 44, "height": 8},
    "unequal-captions": {"prompts": (PROMPT, LONG)},
    "empty-caption": {"prompts": ("",)},
    "full-caption": {"prompts": (LONG * 2,)},
    "two-images": {"num_images_per_prompt": 2},
    "negative-prompt": {"negative_prompt": [LONG]},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16-unequal-captions": {"dtype": "bfloat16", "prompts": (LONG, PROMPT)},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_right_run_has_no_fault(vocabulary, folder, tmp_path, options):
    pipe = make_pipeline(vocabulary)
    options = dict(options)
    dtype = options.pop("dtype", "float32")
    pipe.to(getattr(torch, dtype))
    if dtype == "bfloat16":
        pipe.save_pretrained(tmp_path / "model")
        folder = tmp_path / "model"
    report = judge(pipe, folder, tmp_path / "trace", dtype="float32", **options)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 150, [
        (row.call, row.layer, row.cause) for row in report.faults
    ]


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_a_right_edit_has_no_fault(vocabulary, folder, tmp_path, kind):
    names = {"img2img": "ZImageImg2ImgPipeline", "inpaint": "ZImageInpaintPipeline"}
    pipe = getattr(diffusers, names[kind])(**make_pipeline(vocabulary).components)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    more = {"image": image, "strength": 0.8}
    if kind == "inpaint":
        mask = torch.zeros(1, 1, 24, 20)
        mask[:, :, :12, 4:] = 1.0
        more["mask_image"] = mask
    report = judge(pipe, folder, tmp_path / "trace", **more)
    assert report.counts()["differs"] == 0 and report.counts()["equal"] > 150
