"""Qwen3 as a text encoder against transformers' Qwen3Model, in float64."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.graph import disk_cache
from ldmref.errors import CorruptModelError, UsageError
from ldmref.families.qwen3.encoder import QWEN3, Qwen3Config, find_layers, qwen3, qwen3_spec
from ldmref.families.qwen3.files import convert_text_config
from ldmref.families.qwen3.presets import QWEN3_SIZES
from ldmref.models import flatten, unflatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
import transformers
from qwen3_networks import encoder_in_double, vl_in_double

LENGTH = 30
SMALL = dict(
    vocab_size=40, hidden_size=24, intermediate_size=32, num_hidden_layers=4,
    num_attention_heads=6, num_key_value_heads=2, head_dim=10,
)  # fmt: skip


def configure(**fields):
    """Return our configuration of the small model."""
    return Qwen3Config(**SMALL, max_position_embeddings=LENGTH, rope_theta=1e6, **fields)


@pytest.fixture(scope="module")
def theirs():
    """Return a small Qwen3Model in float64."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e6}
    model = transformers.Qwen3Model(transformers.Qwen3Config(**SMALL, rope_parameters=rope))
    model = model.eval().double()
    for parameter in model.parameters():  # their initial scores are tiny
        parameter.data += 0.3 * torch.randn_like(parameter)
    with encoder_in_double(SMALL["head_dim"]):
        yield model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(0, 40, (2, LENGTH))


def compute(theirs, ids, backend="numpy", mask=None, skip=0, **fields):
    """Compute our hidden states in float64."""
    ops = get_backend(backend, dtype="float64")
    state = {name: ops.asarray(x.numpy()) for name, x in theirs.state_dict().items()}
    mask = None if mask is None else ops.asarray(mask.astype(np.int64))
    found = qwen3(
        ops, unflatten(state), configure(**fields), ops.asarray(ids), skip=skip, mask=mask
    )
    return ops.to_numpy(found)


MASKS = {
    "none": None,
    "right": np.arange(LENGTH)[None, :] < np.array([[LENGTH], [17]]),
    "left": np.arange(LENGTH)[None, :] >= np.array([[0], [9]]),
    "middle": ~((np.arange(LENGTH) >= 8) & (np.arange(LENGTH) < np.array([[12], [25]]))),
}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("side", [*MASKS])
def test_hidden_states_are_those_of_transformers(theirs, ids, backend, side):
    """Every selected layer of every token that is not padding, before the final norm."""
    mask = MASKS[side]
    given = None if mask is None else torch.tensor(mask)
    with torch.no_grad():
        found = theirs(torch.tensor(ids), attention_mask=given, output_hidden_states=True)
    wanted = np.concatenate([found.hidden_states[i].numpy() for i in (0, 1, 3)], axis=2)
    fields = {"hidden_layers": (0, 1, -2), "final_norm": False}
    got = compute(theirs, ids, backend, mask, **fields)
    seen = np.ones(ids.shape, bool) if mask is None else mask
    difference = np.abs(got - wanted)[seen]
    assert difference.max() < 1e-10 * np.abs(wanted[seen]).max()


def test_the_last_state_has_the_final_norm(theirs, ids):
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids)).last_hidden_state.numpy()
    got = compute(theirs, ids)
    assert np.abs(got - wanted).max() < 1e-10 * np.abs(wanted).max()
    bare = compute(theirs, ids, final_norm=False)
    assert np.abs(bare - wanted).max() > 0.1


def test_padding_after_the_tokens_needs_no_mask(theirs, ids):
    """Tokens read only those before them."""
    mask = MASKS["right"]
    with_mask, without = compute(theirs, ids, mask=mask), compute(theirs, ids)
    assert np.abs(with_mask - without)[mask].max() < 1e-13


def test_skipped_layers_count_from_the_selected_ones(theirs, ids):
    fields = {"hidden_layers": (-2,), "final_norm": False}
    earlier = compute(theirs, ids, hidden_layers=(2,), final_norm=False)
    assert np.array_equal(compute(theirs, ids, skip=1, **fields), earlier)
    with pytest.raises(UsageError, match="3 layers come before"):
        find_layers(configure(hidden_layers=(4, -2), final_norm=False), 4)


def test_shapes_are_those_of_transformers(theirs):
    shapes = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    assert flatten(qwen3_spec(configure())) == shapes


def test_positions_may_count_tokens_only(theirs, ids):
    """As transformers 4 finds them from a mask; padding has a position of its own."""
    mask = MASKS["middle"]
    positions = np.where(mask, np.cumsum(mask, axis=1) - 1, 1)
    with torch.no_grad():
        wanted = theirs(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            position_ids=torch.tensor(positions),
        ).last_hidden_state.numpy()
    got = compute(theirs, ids, mask=mask, padding_position=1)
    assert np.abs(got - wanted).max() < 1e-10 * np.abs(wanted).max()
    other = compute(theirs, ids, mask=mask)
    assert np.abs(other - wanted)[mask].max() > 1e-3


def test_padding_may_have_the_position_of_the_token_before(theirs, ids):
    """As the pipeline of Krea 2 counts them, also where padding comes first."""
    for mask in (x for x in MASKS.values() if x is not None):
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        with torch.no_grad():
            wanted = theirs(
                torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                position_ids=torch.tensor(positions),
            ).last_hidden_state.numpy()
        got = compute(theirs, ids, mask=mask, padding_position=-1)
        rows = np.cumsum(mask, axis=1) > 0  # others have no key
        assert np.abs(got - wanted)[rows].max() < 1e-10 * np.abs(wanted).max()


def test_the_text_part_of_a_model_that_reads_images(ids):
    """Qwen3-VL gives the hidden states of Qwen3 with another base of the frequencies."""
    torch.manual_seed(1)
    theta = 5e6
    rope = {"rope_type": "default", "rope_theta": theta, "mrope_section": [2, 2, 1]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = transformers.Qwen3VLConfig(
        text_config=SMALL | {"rope_parameters": rope},
        vision_config=vision | {"out_hidden_size": 24, "deepstack_visual_indexes": [0]},
    )
    model = transformers.Qwen3VLModel(config).eval().double()
    for parameter in model.language_model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    with torch.no_grad(), vl_in_double():
        wanted = model.language_model(torch.tensor(ids)).last_hidden_state.numpy()
    read = convert_text_config(model.config.to_dict())
    assert read.rope_theta == theta and read.head_dim == SMALL["head_dim"]
    ops = get_backend("numpy", dtype="float64")
    state = {
        QWEN3.rename(name): ops.asarray(x.numpy())
        for name, x in model.state_dict().items()
        if re.fullmatch(QWEN3.ignored, name) is None
    }
    got = qwen3(ops, unflatten(state), read, ops.asarray(ids))
    assert np.abs(got - wanted).max() < 1e-10 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("qwen3-0.6b", 596_049_920), ("qwen3-4b", 4_022_468_096), ("qwen3-8b", 7_568_405_504)],
)
def test_published_sizes(name, parameters):
    """Without the head of Qwen3-8B, 622,329,856, which no text encoder needs."""
    spec = flatten(qwen3_spec(QWEN3_SIZES[name]))
    assert sum(math.prod(shape) for shape in spec.values()) == parameters


def test_a_graph_that_was_kept_is_the_one_that_was_compiled(theirs, ids, monkeypatch):
    """OpenVINO stores an operation of its own for some rotary positions, and reads another one."""
    pytest.importorskip("openvino")
    kept = {}
    monkeypatch.setattr(disk_cache, "read", kept.get)
    monkeypatch.setattr(disk_cache, "write", kept.__setitem__)
    mask = MASKS["right"].astype(np.int64)
    config = configure(padding_position=1)
    flat = {QWEN3.rename(name): x.float().numpy() for name, x in theirs.state_dict().items()}
    found = []
    for name in ("numpy", "openvino", "openvino"):
        ops = get_backend(name)
        params = unflatten({key: ops.weight(x) for key, x in flat.items()})
        encode = ops.compile(lambda ops, p, ids, mask: qwen3(ops, p, config, ids, 0, mask), params)
        found.append(ops.to_numpy(encode(ops.asarray(ids), ops.asarray(mask))))
    assert kept
    first, *others = found
    for other in others:
        assert np.abs(other - first).max() < 1e-4 * np.abs(first).max()


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_other_rotary_positions_are_refused(key):
    """Whichever name a version of transformers gives them; "default" is the one that is read."""
    data = {"model_type": "qwen3", **SMALL}
    assert convert_text_config({**data, key: {"rope_type": "default", "rope_theta": 5e6}})
    for kind in ("linear", "yarn"):
        with pytest.raises(CorruptModelError, match=kind):
            convert_text_config({**data, key: {"rope_type": kind, "factor": 2.0}})
