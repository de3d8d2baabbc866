"""What families read of the calls of diffusers' pipelines, and how these are made, by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ldmref.models import preset
from ldmref.models.family import find_family, guide_by_difference
from ldmref.ports import flux as flux_pipelines
from ldmref.ports import flux2 as flux2_pipelines
from ldmref.ports import flux3 as flux3_pipelines
from ldmref.ports import krea2 as krea2_pipelines
from ldmref.ports import sd3 as sd3_pipelines

torch = pytest.importorskip("torch")


def states_of(count):
    """Return the output of a text encoder whose i-th hidden states, (1, 1, 2), are i."""
    states = [torch.full((1, 1, 2), float(i)) for i in range(count)]
    return SimpleNamespace(hidden_states=states)


# -- Flux.1 ---------------------------------------------------------------------------------------


def test_flux1_reads_times_in_thousandths_and_nothing_else():
    found = flux_pipelines.scale_time({"timestep": torch.tensor([0.5]), "guidance": 3.5})
    assert found == {"timestep": torch.tensor([500.0]), "guidance": 3.5}
    assert flux_pipelines.scale_time({"guidance": 3.5}) == {"guidance": 3.5}
    assert flux_pipelines.scale_time({"timestep": None}) == {"timestep": None}


def test_sd3_is_asked_for_the_number_of_tokens_of_t5():
    config = preset("sd3-medium")
    assert sd3_pipelines.limit_text(config, {}) == {"max_sequence_length": 256}
    assert sd3_pipelines.limit_text(replace(config, text_encoder_3=None), {}) == {}


# -- FLUX.2 ---------------------------------------------------------------------------------------


def place(rows, columns, time=0):
    """Return time, row, column and 0 of the cells of an image, (rows * columns, 4)."""
    found = torch.zeros(rows * columns, 4)
    found[:, 0] = time
    found[:, 1] = torch.arange(rows).repeat_interleave(columns)
    found[:, 2] = torch.arange(columns).repeat(rows)
    return found


def test_flux2_without_references_has_a_sample_alone():
    tokens = torch.rand(2, 6, 8)
    text, guidance = torch.rand(2, 3, 5), torch.tensor([4.0])
    found = flux2_pipelines.read_inputs(
        {
            "hidden_states": tokens,
            "img_ids": place(2, 3),
            "timestep": torch.tensor([0.25, 0.5]),
            "encoder_hidden_states": text,
            "guidance": guidance,
            "txt_ids": torch.zeros(3, 4),
            "return_dict": False,
        }
    )
    assert found.keys() == {"sample", "timestep", "encoder_hidden_states", "guidance"}
    assert torch.equal(found["sample"], tokens)
    assert found["timestep"].tolist() == [250.0, 500.0]
    assert found["encoder_hidden_states"] is text and found["guidance"] is guidance


@pytest.mark.parametrize("batched", [False, True])
def test_flux2_reads_references_behind_the_image(batched):
    """With their rows and columns, and the k-th at the time 10 k, whatever the call says."""
    ids = torch.cat([place(2, 3), place(1, 2, 7), place(3, 1, 9)])
    tokens = torch.rand(2, 6 + 2 + 3, 8, dtype=torch.float64)
    given = {"hidden_states": tokens, "img_ids": ids[None] if batched else ids, "guidance": None}
    before = ids.clone()
    found = flux2_pipelines.read_inputs(given)
    assert found.keys() == {"sample", "reference_tokens", "reference_positions"}
    assert torch.equal(found["sample"], tokens[:, :6])
    assert torch.equal(found["reference_tokens"], tokens[:, 6:])
    positions = found["reference_positions"]
    assert positions.shape == (2, 5, 4) and positions.dtype == torch.float64
    for row in positions:
        assert row.tolist() == [
            [10, 0, 0, 0],
            [10, 0, 1, 0],
            [20, 0, 0, 0],
            [20, 1, 0, 0],
            [20, 2, 0, 0],
        ]
    assert torch.equal(ids, before)


@pytest.mark.parametrize("ids", [place(1, 4), place(4, 1), place(2, 2)])
def test_an_image_of_flux2_begins_where_row_and_column_are_0(ids):
    found = flux2_pipelines.read_inputs({"hidden_states": torch.rand(1, 4, 2), "img_ids": ids})
    assert found.keys() == {"sample"} and found["sample"].shape == (1, 4, 2)


def test_calls_of_flux2_without_tokens_keep_their_arguments():
    ids = place(2, 2)
    found = flux2_pipelines.read_inputs({"img_ids": ids, "timestep": torch.tensor(1.0)})
    assert found["img_ids"] is ids and found["timestep"] == 1000.0
    assert flux2_pipelines.read_inputs({"hidden_states": ids}) == {"hidden_states": ids}
    assert flux2_pipelines.read_inputs({"guidance": None}) == {"guidance": None}


def pipe_that_reads(layers):
    """Return a pipeline whose text encoder says the layers that are read; None: it does not."""
    config = SimpleNamespace(text_encoder_out_layers=layers)
    return SimpleNamespace(text_encoder=SimpleNamespace(config=config))


@pytest.mark.parametrize(
    ("count", "said", "skip", "layers"),
    [
        (37, None, 0, [9, 18, 27]),
        (30, None, 0, [9, 18, 27]),  # of 29 layers: not 7, 14 and 21
        (30, None, 1, [8, 17, 26]),
        (9, [2, 4, 6], 0, [2, 4, 6]),
        (9, [2, 4, 6], 1, [1, 3, 5]),
        (9, None, 0, [8]),  # there are none of these: only the call knows
    ],
)
def test_flux2_reads_the_same_layers_of_any_encoder(count, said, skip, layers):
    found = flux2_pipelines.read_states(states_of(count), skip, pipe_that_reads(said))
    assert found[0, 0].tolist() == [float(n) for n in layers for _ in range(2)]


@pytest.mark.parametrize(("scale", "ours"), [(0.5, 1.0), (1.0, 1.0), (1.5, 1.5), (4.0, 4.0)])
def test_scales_of_flux2_up_to_1_guide_nothing(scale, ours):
    assert find_family("flux2").guidance_scale.convert(scale) == ours


# -- FLUX.3 ---------------------------------------------------------------------------------------


class Blocks:
    """Stands for diffusers' blocks of a modular pipeline."""

    def __init__(self):
        self.sub_blocks = {"prompt_upsampler": 1, "denoise": 2}

    def init_pipeline(self):
        pipe = SimpleNamespace(blocks=[*self.sub_blocks], kind=type(self), components={})
        pipe.update_components = pipe.components.update
        return pipe


class DistilledBlocks(Blocks):
    """The same for the distilled model."""


@pytest.mark.parametrize(("flow_map", "kind"), [(False, Blocks), (True, DistilledBlocks)])
def test_the_pipeline_of_flux3_has_its_parts_and_writes_no_prompts(monkeypatch, flow_map, kind):
    library = SimpleNamespace(Flux3AutoBlocks=Blocks, Flux3DistilledAutoBlocks=DistilledBlocks)
    monkeypatch.setitem(sys.modules, "diffusers", library)
    pipe = flux3_pipelines.join_parts(flow_map, vae="a", transformer="b")
    assert pipe.kind is kind and pipe.blocks == ["denoise"]
    assert pipe.components == {"vae": "a", "transformer": "b"}


def test_objects_of_flux3_exist_in_diffusers():
    pytest.importorskip("diffusers")
    from importlib import import_module

    for path in (flux3_pipelines.GUIDER, flux3_pipelines.PROCESSOR):
        module, _, name = path.partition(":")
        assert isinstance(getattr(import_module(module), name), type)


def test_the_tokenizer_of_flux3_is_its_processor():
    kept = object()
    [(name, made)] = flux3_pipelines.PARTS.tokenizers({"tokenizer": kept}).items()
    assert name == "tokenizer" and made.tokenizer is kept


def test_tokens_of_flux3_become_cells_in_their_rows_and_columns():
    tokens = torch.arange(12.0).reshape(1, 6, 2).to(torch.float64)
    ids = place(2, 3)
    ids[:, 1:3] *= 0.5
    given = {
        "hidden_states": tokens,
        "img_ids": ids,
        "txt_ids": torch.zeros(3, 4),
        "timestep": torch.tensor([0.5], dtype=torch.float32),
        "target_timestep": torch.tensor([0.25], dtype=torch.float32),
        "encoder_hidden_states": "text",
    }
    found = flux3_pipelines.read_inputs(given)
    assert found.keys() == {"hidden_states", "timestep", "target_timestep", "encoder_hidden_states"}
    assert found["hidden_states"].tolist() == [[[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]]]
    assert found["timestep"].tolist() == [500.0] and found["timestep"].dtype == torch.float64
    assert found["target_timestep"].tolist() == [250.0]
    assert "img_ids" in given and given["hidden_states"] is tokens


def test_calls_of_flux3_may_lack_arguments():
    tokens, ids, time = torch.rand(1, 4, 2), place(2, 2), torch.tensor([0.5], dtype=torch.float64)
    found = flux3_pipelines.read_inputs({"hidden_states": tokens, "target_timestep": None})
    assert found["hidden_states"] is tokens and found["target_timestep"] is None
    found = flux3_pipelines.read_inputs({"img_ids": ids, "timestep": time, "image_cond_ids": None})
    assert found.keys() == {"timestep", "image_cond_ids"} and found["image_cond_ids"] is None
    assert found["timestep"].tolist() == [500.0] and found["timestep"].dtype == torch.float64
    assert flux3_pipelines.read_inputs({}) == {}


def test_times_of_flux3_are_multiplied_in_the_format_of_the_tokens():
    time = torch.tensor([0.7003], dtype=torch.float32)
    given = {"hidden_states": torch.rand(1, 4, 2, dtype=torch.bfloat16), "timestep": time}
    found = flux3_pipelines.read_inputs(given)["timestep"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, 1000.0 * time.to(torch.bfloat16))


def test_references_of_flux3_have_rows_and_columns_in_halves_and_their_number():
    """Whatever the call's scale and numbers are."""
    first, second = place(2, 2), place(1, 3)
    first[:, 1:3] *= 7
    second[:, 3] = 5
    ids = torch.cat([first, second]).to(torch.float64)
    found = flux3_pipelines.read_inputs({"image_cond_ids": ids})["image_cond_ids"]
    assert found.shape == (1, 7, 4) and found.dtype == torch.float64
    assert found[0].tolist() == [
        [0, 0.0, 0.0, -1],
        [0, 0.0, 0.5, -1],
        [0, 0.5, 0.0, -1],
        [0, 0.5, 0.5, -1],
        [0, 0.0, 0.0, -2],
        [0, 0.0, 0.5, -2],
        [0, 0.0, 1.0, -2],
    ]


SHARED = """
    silu silu_1 early_stream_modulations.image.linear norm_out norm_out.linear
    mode_blocks.image.3 mode_blocks.image_cond.12 txt_mode_blocks.0 single_transformer_blocks.7
""".split()
OWN = """
    x_embedders.image mode_blocks.image.3.attn txt_mode_blocks.0.ff.linear_in
    single_transformer_blocks.7.attn.to_q proj_out time_proj my_norm_out
""".split()


@pytest.mark.parametrize("layer", [*SHARED, *OWN])
def test_equal_rows_of_flux3_are_one_in_the_layers_that_share_them(layer):
    rows = torch.rand(2, 1, 3).expand(2, 4, 3)
    found = flux3_pipelines.read_layer({}, layer, rows)
    assert found.shape == (2, 1 if layer in SHARED else 4, 3)
    assert torch.equal(found, rows[:, :1] if layer in SHARED else rows)
    different = torch.rand(2, 4, 3)
    assert flux3_pipelines.read_layer({}, layer, different) is different
    flat = torch.ones(4, 3)
    assert flux3_pipelines.read_layer({}, layer, flat) is flat
    deep = torch.ones(1, 4, 3, 2)
    assert flux3_pipelines.read_layer({}, layer, deep) is deep


@pytest.mark.parametrize(
    ("count", "said", "skip", "layers"),
    [
        (33, None, 0, range(4, 36, 4)),
        (37, None, 0, range(4, 36, 4)),
        (37, None, 1, range(3, 35, 4)),
        (5, (1, 2, 3), 0, range(1, 4)),
        (5, (1, 2, 3), 1, range(3)),
        (32, None, 1, [30]),
    ],
)
def test_hidden_states_of_flux3_of_large_and_small_text_encoders(count, said, skip, layers):
    found = flux3_pipelines.read_states(states_of(count), skip, pipe_that_reads(said))
    assert found[0, 0, ::2].tolist() == [*layers]


# -- Krea 2 ---------------------------------------------------------------------------------------


def test_tokens_after_the_prompt_are_counted():
    pipe = SimpleNamespace(prompt_template_encode_suffix="abc")
    pipe.tokenizer = lambda text: SimpleNamespace(input_ids=[*text])
    krea2_pipelines.count_suffix(pipe)
    assert pipe.prompt_template_encode_num_suffix_tokens == 3


@pytest.mark.parametrize("masked", [False, True])
def test_hidden_states_of_krea2_are_joined_and_times_in_thousandths(masked):
    states = torch.arange(24.0).reshape(1, 2, 3, 4)
    mask = torch.tensor([[True, False]])
    given = {
        "hidden_states": "tokens",
        "timestep": torch.tensor([0.7003], dtype=torch.bfloat16),
        "encoder_hidden_states": states,
        "position_ids": "left out",
    } | ({"encoder_attention_mask": mask} if masked else {})
    found = krea2_pipelines.read_inputs(given)
    kept = {"sample", "timestep", "encoder_hidden_states"}
    assert found.keys() == kept | ({"encoder_attention_mask"} if masked else set())
    assert found["sample"] == "tokens"
    assert torch.equal(found["encoder_hidden_states"], states.reshape(1, 2, 12))
    assert found["timestep"].dtype == torch.float32
    assert torch.equal(found["timestep"], 1000.0 * given["timestep"].float())
    if masked:
        assert found["encoder_attention_mask"].tolist() == [[1, 0]]
        assert found["encoder_attention_mask"].dtype == torch.int64


@pytest.mark.parametrize(
    ("layer", "shape", "factor"),
    [("time_embed", (2,), 1000.0), ("time_embed", (2, 3), 1.0), ("time_mod_proj", (2,), 1.0)],
)
def test_the_layer_that_embeds_the_time_of_krea2_is_given_thousandths(layer, shape, factor):
    x = torch.full(shape, 0.5, dtype=torch.float16)
    found = krea2_pipelines.read_layer({}, layer, x)
    assert torch.equal(found.float(), factor * x.float())
    assert found.dtype == (torch.float32 if factor > 1 else torch.float16)


def test_hidden_states_of_krea2_are_those_that_the_pipeline_selects():
    pipe = SimpleNamespace(text_encoder_select_layers=(2, 3))
    assert krea2_pipelines.read_states(states_of(5), 1, pipe)[0, 0, ::2].tolist() == [1, 2]
    found = krea2_pipelines.read_states(states_of(36), 0, None)
    assert found[0, 0, ::2].tolist() == [*range(2, 36, 3)]


@pytest.mark.parametrize(("theirs", "ours"), [(4.5, 5.5), (0.5, 1.5), (0.0, 1.0), (-2.0, 1.0)])
def test_scales_of_krea2_are_smaller_by_1(theirs, ours):
    assert guide_by_difference(theirs) == ours
