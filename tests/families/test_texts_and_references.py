"""How text and references condition Flux.1, FLUX.2, FLUX.3 and SD3, on arrays by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from ldmref.backends import get_backend
from ldmref.families.flux import network as flux_network
from ldmref.families.flux import text as flux
from ldmref.families.flux2 import network as flux2_network
from ldmref.families.flux2 import references as flux2
from ldmref.families.flux2 import text as flux2_text
from ldmref.families.flux3 import positions, references
from ldmref.families.flux3 import text as flux3_text
from ldmref.families.sd3 import network as sd3_network
from ldmref.families.sd3 import text as sd3
from ldmref.models import preset
from ldmref.models.text import text_encoder, text_encoder_pooled
from ldmref.prompts.tokens import Tokens

OPS = get_backend("numpy", dtype="float64")


def tokens_of(ids, weights=None, mask=None):
    """Return tokens of ids, (n, chunks, l)."""
    ids = np.asarray(ids)
    ones = np.ones(ids.shape)
    return Tokens(
        ids,
        ones if weights is None else np.asarray(weights, float),
        ones.astype(np.int64) if mask is None else np.asarray(mask),
        [ids.shape[1]] * len(ids),
        [0] * len(ids),
        [],
    )


@dataclass(frozen=True)
class SimpleText:
    """Stands for encoded prompts."""

    states: str
    more: dict


class Encoders:
    """Networks whose hidden states are their ids, and which note how they are called."""

    def __init__(self):
        self.calls = []

    def compile(self, function, name):
        def call(config, ids, skip=0, mask=None):
            self.calls.append((function, name, config, skip, ids.shape))
            states = np.repeat(ids[:, :, None].astype(float), config.hidden_size, axis=2)
            if function is text_encoder_pooled:
                return states, states[:, -1, : config.projection_dim] + 0.5
            return states

        return call


# -- Flux.1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_flux1_reads_t5_and_one_vector_of_clip(weighted):
    config = preset("flux-tiny")
    encoders = Encoders()
    clip = tokens_of([[[5, 2, 2], [7, 2, 2]], [[6, 8, 2], [9, 2, 2]]], np.full((2, 2, 3), 3.0))
    t5 = tokens_of([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [[[1, 2], [1, 1]], [[1, 1], [1, 1]]])
    found = flux.encode_prompts(
        OPS, config.text_encoders, [clip, t5], encoders.compile, clip_skip=2, weighted=weighted
    )
    first, second = config.text_encoders
    assert encoders.calls == [
        (text_encoder, "text_encoder", first, 0, (4, 3)),
        (text_encoder, "text_encoder_2", second, 2, (4, 2)),
    ]
    assert found.tokens is t5 and found.states.shape == (2, 4, 20)
    plain = np.arange(1.0, 9.0).reshape(2, 4)
    states = found.states[:, :, 0]
    if weighted:
        assert states[0, 1] / states[0, 0] == pytest.approx(4.0)
        assert states[1, 1] / states[1, 0] == pytest.approx(6 / 5)
    else:
        assert states.tolist() == plain.tolist()
    assert found.pooled.tolist() == [[5.0] * 16, [8.0] * 16]


def test_the_pooled_text_of_flux1_is_that_of_the_first_chunk():
    """At its end token."""
    config = preset("flux-tiny")
    clip = replace(config.text_encoder, eos_token_id=9)
    ids = [[[5, 9, 1], [9, 2, 2]], [[6, 3, 9], [4, 9, 2]]]

    class Counting(Encoders):
        def compile(self, function, name):
            def call(config, ids, skip=0):
                places = np.arange(ids.size, dtype=float).reshape(ids.shape)
                return np.repeat(places[:, :, None], config.hidden_size, axis=2)

            return call

    t5 = tokens_of([[[1, 2], [3, 4]]] * 2)
    configs = [clip, config.text_encoder_2]
    found = flux.encode_prompts(OPS, configs, [tokens_of(ids), t5], Counting().compile)
    assert found.pooled[:, 0].tolist() == [1.0, 8.0]


def test_the_length_of_t5_in_flux1():
    config = preset("flux-dev")
    found = flux.with_text_length(config, 77)
    t5 = replace(config.text_encoder_2, max_position_embeddings=77)
    assert found == replace(config, text_encoder_2=t5)
    with pytest.raises(AssertionError):
        flux.with_text_length(replace(config, text_encoder_2=None), 77)


# -- Stable Diffusion 3 ---------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("t5", [False, True])
def test_sd3_joins_clip_along_the_width_and_t5_behind(t5, weighted):
    config = preset("sd3-tiny")
    count = 2 + t5
    configs = config.text_encoders[:count]
    encoders = Encoders()
    parts = [
        tokens_of([[[1, 2], [3, 4]]], [[[1, 3], [1, 1]]]),
        tokens_of([[[5, 6], [7, 8]]]),
        tokens_of([[[9, 10, 11], [12, 13, 14]]]),
    ][:count]
    found = sd3.encode_prompts(
        OPS, configs, parts, encoders.compile, clip_skip=1, weighted=weighted
    )
    pooled = [(text_encoder_pooled, f"text_encoder{end}") for end in ("", "_2")]
    called = [*pooled, (text_encoder, "text_encoder_3")][:count]
    assert [(f, name) for f, name, *_ in encoders.calls] == called
    assert [skip for *_, skip, _ in encoders.calls] == [1, 1, 0][:count]
    assert [shape for *_, shape in encoders.calls] == [(2, 2), (2, 2), (2, 3)][:count]
    assert found.tokens is parts[0]
    states = found.states
    assert states.shape == ((1, 10, 40) if t5 else (1, 4, 24))
    if weighted:
        assert states[0, 1, 0] / states[0, 0, 0] == pytest.approx(6.0)
    else:
        assert states[0, :4, 0].tolist() == [1, 2, 3, 4]
    assert states[0, :4, 16].tolist() == pytest.approx([5, 6, 7, 8])
    if t5:
        assert not states[0, :4, 24:].any()
        assert states[0, 4:, 39].tolist() == pytest.approx([9, 10, 11, 12, 13, 14])
    assert found.pooled[0].tolist() == [2.5] * 16 + [6.5] * 8


def test_the_length_of_t5_in_sd3_or_of_zeros_in_its_place():
    config = preset("sd3-medium")
    found = sd3.with_text_length(config, 77)
    t5 = replace(config.text_encoder_3, max_position_embeddings=77)
    assert found == replace(config, text_encoder_3=t5)
    without = replace(config, text_encoder_3=None)
    net = replace(config.denoiser, empty_tokens=77)
    assert sd3.with_text_length(without, 77) == replace(without, denoiser=net)


def test_zeros_stand_for_a_missing_t5():
    config = preset("sd3-tiny")
    net = replace(config.denoiser, empty_tokens=3)
    states, pooled = np.ones((2, 4, 24)), np.ones((2, 24))
    without = replace(config, denoiser=net, text_encoder_3=None)
    found = sd3.condition_on_text(OPS, without, states, pooled, (16, 16))
    assert found.context.shape == (2, 7, 40) and found.pooled is pooled
    assert found.context.sum() == states.sum() and found.context[:, :4, :24].all()
    found = sd3.condition_on_text(OPS, replace(config, denoiser=net), states, None, (16, 16))
    assert found.context.shape == (2, 4, 40) and found.pooled is None
    wide = np.ones((2, 4, 40))
    assert sd3.widen(OPS, wide, 40) is wide
    narrow = states.astype(np.float32)
    assert sd3.condition_on_text(OPS, without, narrow, pooled, (16, 16)).context.dtype == np.float32


# -- Qwen3 ----------------------------------------------------------------------------------------


def test_flux2_reads_all_states_without_a_mask(monkeypatch):
    calls = []

    def encode(*arguments):
        calls.append(arguments)
        return SimpleText(states="states", more={"mask": 1})

    monkeypatch.setattr(flux2_text, "encode_tokens", encode)
    found = flux2_text.encode_prompts(1, 2, 3, 4, 5, True)
    assert calls == [(1, 2, 3, 4, 5, True)]
    assert (found.states, found.more) == ("states", {})
    flux2_text.encode_prompts(1, 2, 3, 4)
    assert calls[1] == (1, 2, 3, 4, 0, False)


@pytest.mark.parametrize(
    ("count", "windows"), [(0, 80), (1, 80), (79, 80), (80, 80), (81, 160), (160, 160), (170, 200)]
)
def test_windows_of_flux3_are_multiples_of_80(count, windows):
    mask = (np.arange(200) < count).astype(np.int64)[None, None]
    found = flux3_text.find_windows(mask)
    assert found.shape == (1, 1, 200) and found.dtype == np.int64
    assert found[0, 0].tolist() == [1] * windows + [0] * (200 - windows)


@pytest.mark.parametrize("counts", [(5, 81), (81, 5), (5, 6)])
def test_flux3_reads_the_windows_of_its_prompts(monkeypatch, counts):
    calls = []

    def encode(*arguments):
        calls.append(arguments)
        return SimpleText(states="states", more={})

    monkeypatch.setattr(flux3_text, "encode_tokens", encode)
    length = 160 if max(counts) > 80 else 80
    mask = (np.arange(240) < np.array(counts)[:, None]).astype(np.int64)[:, None]
    ids = np.arange(2 * 240).reshape(2, 1, 240)
    tokens = tokens_of(ids, ids + 0.5, mask)
    found = flux3_text.encode_prompts(OPS, "configs", [tokens], "compile", 3, True)
    [(ops, configs, [cut], compile_network, skip, weighted)] = calls
    assert (ops, configs, compile_network, skip, weighted) == (OPS, "configs", "compile", 3, True)
    assert np.array_equal(cut.ids, ids[:, :, :length])
    assert np.array_equal(cut.weights, ids[:, :, :length] + 0.5)
    assert np.array_equal(cut.mask, mask[:, :, :length])
    kept = [80 if count <= 80 else 160 for count in counts]
    assert found.more["mask"].sum(axis=1).tolist() == kept
    assert found.more["mask"].shape == (2, length) and found.states == "states"
    flux3_text.encode_prompts(OPS, "configs", [tokens], "compile")
    assert calls[1][4:] == (0, False)


# -- positions ------------------------------------------------------------------------------------


def test_positions_of_flux3_are_halves_of_rows_and_columns():
    found = positions.place_image(OPS, np.zeros((2, 5, 2, 3)))
    cells = [[0, r / 2, c / 2, 0] for r in range(2) for c in range(3)]
    assert found.tolist() == [cells]
    found = positions.place_text(OPS, np.ones((2, 3, 5)))
    assert found.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]]
    found = positions.place_references([(1, 2), (2, 1)])
    assert found.tolist() == [[[0, 0, 0, -1], [0, 0, 0.5, -1], [0, 0, 0, -2], [0, 0.5, 0, -2]]]


def test_waves_follow_each_other_in_as_many_rows_as_any_part_has():
    one = np.arange(6.0).reshape(1, 1, 2, 3), np.arange(6.0).reshape(1, 1, 2, 3) + 10
    two = np.arange(6.0).reshape(2, 1, 1, 3) + 20, np.arange(6.0).reshape(2, 1, 1, 3) + 30
    for parts in ((one, two), (two, one)):
        cos, sin = positions.join_waves(OPS, parts)
        for side, found in enumerate((cos, sin)):
            want = [np.repeat(p[side], 2 // len(p[side]), axis=0) for p in parts]
            assert np.array_equal(found, np.concatenate(want, axis=2))


class Model:
    """Encodes an image of k x l pixels as latents of two channels, k/16 x l/16 cells."""

    backend = OPS

    def encode_image(self, image):
        _, _, height, width = image.shape
        return np.arange(height * width / 128.0).reshape(1, 2, height // 16, width // 16)


def test_references_of_flux2_are_at_times_of_their_own():
    images = [np.zeros((1, 3, 16, 32)), np.zeros((1, 3, 32, 16))]
    found = flux2.encode_references(Model(), images, (64, 64))
    assert found.keys() == {"reference_tokens", "reference_positions"}
    assert found["reference_tokens"].tolist() == [[[0, 2], [1, 3], [0, 2], [1, 3]]]
    assert found["reference_positions"].tolist() == [
        [[10, 0, 0, 0], [10, 0, 1, 0], [20, 0, 0, 0], [20, 1, 0, 0]]
    ]


def test_references_of_flux3_have_their_numbers():
    images = [np.zeros((1, 3, 16, 32)), np.zeros((1, 3, 32, 16))]
    found = references.encode_references(Model(), images, (64, 64))
    assert found.keys() == {"reference_tokens", "reference_places"}
    assert found["reference_tokens"].tolist() == [[[0, 2], [1, 3], [0, 2], [1, 3]]]
    want = positions.place_references([(1, 2), (2, 1)])
    assert np.array_equal(found["reference_places"], want)
    assert found["reference_places"].dtype == np.float64


# -- the canvas of a single reference -------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "scaled", "canvas"),
    [
        ((64, 64), (64, 64), (64, 64)),
        ((63, 65), (63, 65), (64, 80)),
        ((16, 100), (16, 100), (64, 112)),
        ((2048, 2048), (2048, 2048), (2048, 2048)),
        ((4096, 1024), (4096, 1024), (4096, 1024)),
        ((4096, 4096), (2048, 2048), (2048, 2048)),
        ((8192, 1), (4096, 1), (4096, 64)),
        ((1, 8192), (1, 4096), (64, 4096)),
        ((8192, 100), (4096, 50), (4096, 64)),
        ((4097, 1000), (4096, 1000), (4096, 1008)),
        ((2050, 2046), (2040, 2036), (2048, 2048)),
    ],
)
def test_canvases_of_single_references(size, scaled, canvas):
    assert references.find_canvas(*size) == (scaled, canvas)


def gradient(width, height):
    """Return an image whose colours are its columns and rows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.arange(width)
    pixels[:, :, 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(70, 64), (17, 33), (64, 19)])
def test_a_single_reference_is_mirrored_up_to_its_canvas(width, height):
    found = np.asarray(references.place_on_canvas(gradient(width, height)))
    _, (columns, rows) = references.find_canvas(width, height)
    assert found.shape == (rows, columns, 3)
    left, top = (columns - width) // 2, (rows - height) // 2
    inner = found[top : top + height, left : left + width]
    assert np.array_equal(inner, np.asarray(gradient(width, height)))
    if left:
        assert found[top, left - 1, 0] == 1
        assert found[top, left + width, 0] == width - 2
    if top:
        assert found[top - 1, left, 1] == 1
        assert found[top + height, left, 1] == height - 2


@pytest.mark.parametrize(("width", "height"), [(16, 70), (70, 16), (3, 3)])
def test_a_small_reference_is_mirrored_with_its_edge(width, height):
    found = np.asarray(references.place_on_canvas(gradient(width, height)))
    _, (columns, rows) = references.find_canvas(width, height)
    assert found.shape == (rows, columns, 3)
    left, top = (columns - width) // 2, (rows - height) // 2
    if left:
        assert found[top, left - 1, 0] == 0 and found[top, left, 0] == 0
    if top:
        assert found[top - 1, left, 1] == 0 and found[top, left, 1] == 0


def test_a_large_reference_is_scaled_before_it_is_mirrored():
    image = Image.new("RGB", (8192, 32), (10, 20, 30))
    found = references.place_on_canvas(image)
    assert found.size == (4096, 64)
    assert (np.asarray(found) == (10, 20, 30)).all()


@pytest.mark.parametrize(("count", "size"), [(1, (80, 64)), (2, (64, 48)), (3, (64, 48))])
def test_only_a_single_reference_is_kept_whole(count, size):
    assert references.prepare_reference(gradient(70, 50), count).size == size


# -- positions of Flux.1 and FLUX.2 ---------------------------------------------------------------


def test_positions_of_flux1_are_those_of_patches_behind_the_text():
    """Of latents with one channel and text of three, in the format of the state."""
    grid, text = np.zeros((1, 2, 3, 1), np.float32), np.ones((1, 2, 3), np.float32)
    found = flux_network.find_positions(OPS, grid, text)
    cells = [[0, r, c] for r in range(2) for c in range(3)]
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], *cells]
    assert found.dtype == np.float64


def test_positions_of_flux2_have_a_place_in_the_text():
    found = flux2_network.find_positions(OPS, np.ones((1, 1, 2, 3)), np.ones((1, 2, 1)))
    cells = [[0, r, c, 0] for r in range(2) for c in range(3)]
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], *cells]


def test_positions_of_flux3_need_one_channel_and_one_row():
    assert positions.place_image(OPS, np.ones((1, 1, 1, 2))).tolist() == [
        [[0, 0, 0, 0], [0, 0, 0.5, 0]]
    ]
    assert positions.place_text(OPS, np.ones((1, 1, 1))).tolist() == [[[0, 0, 0, 0]]]


def test_positions_of_sd3_need_one_channel_and_one_row():
    table = np.arange(18.0).reshape(1, 9, 2)
    found = sd3_network.crop_positions(OPS, table, np.zeros((1, 1, 1, 2)))
    assert found.tolist() == [[[6, 7], [8, 9]]]


@pytest.mark.parametrize("family", [flux, sd3], ids=["flux", "sd3"])
def test_by_default_no_layer_is_skipped_and_no_word_is_weighted(family):
    config = preset("flux-tiny" if family is flux else "sd3-tiny")
    encoders = Encoders()
    heavy = [[[1.0, 9.0, 9.0]]]
    parts = [tokens_of([[[5, 6, 7]]], heavy) for _ in config.text_encoders]
    found = family.encode_prompts(OPS, config.text_encoders, parts, encoders.compile)
    assert [skip for *_, skip, _ in encoders.calls] == [0] * len(parts)
    assert found.states[0, :3, 0].tolist() == [5, 6, 7]
