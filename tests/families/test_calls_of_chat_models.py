"""What diffusers' pipelines of Z-Image and Qwen-Image 2.1 pass to networks, read as ours."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmref.families.qwen_image_21.text import CHAT
from ldmref.models import preset
from ldmref.ports import qwen_image_21 as qwen
from ldmref.ports import z_image as z_image
from ldmref.ports.qwen3 import join_layers

torch = pytest.importorskip("torch")


def count(*shape, start=0):
    """Return an array of counted numbers."""
    return torch.arange(start, start + int(np.prod(shape)), dtype=torch.float32).reshape(shape)


# -- layers of a text encoder ---------------------------------------------------------------------


def test_states_of_layers_are_joined():
    states = [torch.full((1, 2, 3), float(i)) for i in range(5)]
    found = join_layers(SimpleNamespace(hidden_states=states), (4, 2), 1)
    assert found.shape == (1, 2, 6)
    assert found[0, 0].tolist() == [3.0] * 3 + [1.0] * 3


# -- Z-Image --------------------------------------------------------------------------------------


def arguments_of_z_image(*lengths):
    """Return the arguments of a call with captions of these numbers of tokens."""
    captions = [count(length, 3, start=1000 * i) for i, length in enumerate(lengths)]
    latents = [count(2, 1, 4, 6, start=5000 * i) for i in range(len(lengths))]
    times = torch.tensor([0.25, 1.0, 0.0][: len(lengths)])
    return {"x": latents, "cap_feats": captions, "t": times}


@pytest.mark.parametrize(
    ("lengths", "longest"), [((1,), 32), ((31, 2), 32), ((32, 5), 32), ((33, 32), 64)]
)
def test_lists_of_latents_and_captions_become_arrays(lengths, longest):
    given = arguments_of_z_image(*lengths)
    found = z_image.read_inputs(given)
    assert [*found] == ["sample", "timestep", "encoder_hidden_states", "encoder_attention_mask"]
    assert found["sample"].shape == (len(lengths), 2, 4, 6)
    assert torch.equal(found["sample"][-1], given["x"][-1][:, 0])
    assert found["timestep"].tolist() == [750.0, 0.0][: len(lengths)]
    states, mask = found["encoder_hidden_states"], found["encoder_attention_mask"]
    assert states.shape == (len(lengths), longest, 3) and mask.shape == states.shape[:2]
    assert mask.dtype == torch.int64
    for i, length in enumerate(lengths):
        assert mask[i].tolist() == [1] * length + [0] * (longest - length)
        assert torch.equal(states[i, :length], given["cap_feats"][i])
        last = given["cap_feats"][i][-1:].expand(longest - length, 3)
        assert torch.equal(states[i, length:], last)


def test_rows_of_images_are_parted():
    inputs = z_image.read_inputs(arguments_of_z_image(3, 3))
    rows = count(64, 5)
    found = z_image.read_layer(inputs, "all_x_embedder.2-1", rows)
    assert torch.equal(found, rows.reshape(2, 32, 5))
    whole = count(2, 32, 5)
    for layer in ("all_x_embedder.2-1", "cap_embedder.0", "layers.0"):
        assert z_image.read_layer(inputs, layer, whole) is whole
    assert z_image.read_layer(inputs, "layers.0", rows) is rows


def test_rows_of_captions_are_parted_and_filled_up():
    inputs = z_image.read_inputs(arguments_of_z_image(40, 3, 32))
    rows = count(64 + 32 + 32, 2)
    found = z_image.read_layer(inputs, "cap_embedder.1", rows)
    assert found.shape == (3, 64, 2)
    assert torch.equal(found[0], rows[:64])
    assert torch.equal(found[1, :32], rows[64:96]) and torch.equal(found[2, :32], rows[96:])
    assert (found[1, 32:] == rows[95]).all() and (found[2, 32:] == rows[-1]).all()
    for other in (rows[:96], count(3 * 64, 2)):
        assert z_image.read_layer(inputs, "cap_embedder.1", other) is other


@pytest.mark.parametrize("wrap", [lambda x: (x, None), lambda x: SimpleNamespace(sample=x)])
def test_predictions_are_turned_around(wrap):
    images = [count(2, 1, 2, 3), count(2, 1, 2, 3, start=50)]
    found = z_image.read_prediction(wrap(images))
    assert torch.equal(found, -torch.stack([image[:, 0] for image in images]))
    assert found.shape == (2, 2, 2, 3)


def test_the_state_before_the_last_is_read():
    output = SimpleNamespace(hidden_states=[*range(6)])
    assert [z_image.read_states(output, skip, None) for skip in (0, 1, 3)] == [4, 3, 1]


# -- Qwen-Image 2.1 -------------------------------------------------------------------------------


def arguments_of_qwen(length=4, **more):
    """Return the arguments of a call with texts of a number of tokens, in bfloat16."""
    given = {
        "hidden_states": count(2, 3, 4, 6),
        "timestep": torch.tensor([0.5, 0.30078125], dtype=torch.bfloat16),
        "encoder_hidden_states": count(2, length, 5),
    }
    return given | more


def test_a_call_without_a_mask_has_no_padding():
    given = arguments_of_qwen()
    found = qwen.read_inputs(given)
    assert [*found] == ["sample", "timestep", "encoder_hidden_states", "encoder_attention_mask"]
    assert found["sample"] is given["hidden_states"]
    assert found["timestep"].tolist() == [500.0, 300.78125]
    assert found["timestep"].dtype == torch.float32
    assert found["encoder_hidden_states"] is given["encoder_hidden_states"]
    mask = found["encoder_attention_mask"]
    assert mask.dtype == torch.int64 and mask.tolist() == [[1] * 4] * 2


def test_a_call_with_a_mask_puts_images_behind_the_padding():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    found = qwen.read_inputs(arguments_of_qwen(encoder_hidden_states_mask=mask))
    assert found["image_start"].tolist() == [4, 4]
    assert found["encoder_attention_mask"].tolist() == mask.long().tolist()
    assert found["encoder_attention_mask"].dtype == torch.int64


@pytest.mark.parametrize("layer", ["norm_out", "proj_out", "norm_out.linear", ""])
def test_the_last_layers_have_the_image_alone(layer):
    inputs = qwen.read_inputs(arguments_of_qwen())
    both = count(2, 28, 3)
    found = qwen.read_layer(inputs, layer, both)
    assert torch.equal(found, both[:, 4:]) and found.shape[1] == 24
    rows = count(2, 28)
    assert qwen.read_layer(inputs, layer, rows) is rows


@pytest.mark.parametrize("layer", ["time_text_embed", "time_text_embed.time_proj"])
def test_times_are_read_as_timesteps(layer):
    inputs = qwen.read_inputs(arguments_of_qwen())
    times = torch.tensor([0.5, 0.25], dtype=torch.bfloat16)
    found = qwen.read_layer(inputs, layer, times)
    assert found.tolist() == [500.0, 250.0] and found.dtype == torch.float32
    assert qwen.read_layer(inputs, layer, count(2, 3, 4)) is None
    waves = count(2, 6)
    assert qwen.read_layer(inputs, layer, waves) is waves
    assert qwen.read_layer(inputs, "time_text_embed.linear", times) is times


def test_layers_of_blocks_belong_to_text_and_image_or_are_left_out():
    inputs = qwen.read_inputs(arguments_of_qwen())
    block = "transformer_blocks.0"
    both, image, rows = count(2, 28, 3), count(2, 24, 3), count(2, 3)

    def read(layer, array):
        return qwen.read_layer(inputs, layer, array)

    assert read(f"{block}.attn", both) is both and read(f"{block}.attn", image) is None
    assert read(block, both) is both and read(block, image) is None
    assert read(block, rows) is rows and read("img_in", image) is image
    heads_of_text, heads_of_image = count(2, 2, 4, 3), count(2, 2, 24, 3)
    assert read(f"{block}.attn.attention", heads_of_text) is heads_of_text
    assert read(f"{block}.attn.attention", heads_of_image) is None
    second = count(2, 24, 24, 3)
    assert read(f"{block}.attn.attention~1", second) is second
    assert read(f"{block}.attn.attention~2", second) is None


def test_the_last_state_is_read():
    output = SimpleNamespace(hidden_states=[*range(6)])
    assert [qwen.read_states(output, skip, None) for skip in (0, 1, 3)] == [5, 4, 2]


def test_a_processor_counts_the_tokens_of_a_system_message():
    def tokenize(text):
        return SimpleNamespace(input_ids=[text])

    processor = qwen.PARTS.tokenizers({"tokenizer": tokenize})["processor"]
    assert processor.tokenizer is tokenize
    messages = [{"content": [{"text": "Be brief."}, {"text": "x"}]}, {"content": []}]
    found = processor.apply_chat_template(messages, tokenize=True)
    assert found == [["<|im_start|>system\nBe brief.<|im_end|>\n"]]


def test_requests_of_turbo_have_its_levels():
    base, turbo = preset("qwen-image-2.1"), preset("qwen-image-2.1-turbo")
    asked = {"steps": 8, "cfg_scale": 2.5}
    rest = {"true_cfg_scale": 2.5, "guidance_scale": None, "max_sequence_length": None}
    assert qwen.PARTS.request(base, asked) == rest | {"sigmas": None}
    found = qwen.PARTS.request(turbo, asked)
    times = [1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568]
    assert found == rest | {"sigmas": times}
    halves = qwen.PARTS.request(turbo, asked | {"steps": 4})["sigmas"]
    assert halves == pytest.approx(times[::2])
    assert qwen.PARTS.pipeline(base).settings == {}
    made = qwen.PARTS.pipeline(turbo)
    assert made.settings == {"sample_sigmas": times}
    assert made.path == "diffusers:QwenImage21Pipeline"


@pytest.mark.parametrize(("levels", "factor"), [(1, 1), (3, 4), (5, 16)])
def test_pipelines_are_adapted_to_the_model(levels, factor):
    times = torch.nn.Module()
    times.register_buffer("freqs", torch.ones(3))
    embed = SimpleNamespace(time_text_embed=SimpleNamespace(time_proj=times))
    vae = SimpleNamespace(config=SimpleNamespace(dim_mult=[1] * levels))
    pipe = SimpleNamespace(vae=vae, transformer=embed)
    qwen.adapt(pipe)
    assert pipe.vae_scale_factor == factor and pipe._drop_idx == CHAT.dropped == 14
    times.to(torch.bfloat16)
    assert times.freqs.dtype == torch.float32 and not [*times.buffers()]
