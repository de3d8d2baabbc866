"""Keys: the same for equal images, different for everything that changes a byte."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref.batch.keys import identify_model, make_key, to_canonical_json
from ldmref.batch.planning import BatchShard, plan_row, plan_rows
from ldmref.batch.rows import BatchRow, RowFailure
from ldmref.errors import LdmrefError, UsageError


@pytest.fixture(autouse=True)
def given(tmp_path):
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "given.png")
    np.save(tmp_path / "noise.npy", np.zeros((1, 4, 8, 8), np.float32))


@pytest.fixture
def plan(tiny, tmp_path):
    def plan(mode="txt2img", **values):
        return plan_row(BatchRow(1, None, mode, values), tiny.config, tmp_path)

    return plan


def test_defaults_may_be_written_out(plan, tiny):
    short = plan(prompt="a cat")
    defaults = tiny.config.defaults
    long = plan(prompt=["a cat"], steps=defaults.steps, width=16, cfg_scale=2, count=1, seed=None)
    assert short.digest == long.digest and short.request == long.request


def test_a_row_without_a_seed_gets_one_from_its_parameters(plan):
    first, again, other = plan(prompt="a cat"), plan(prompt="a cat", seed=-1), plan(prompt="a dog")
    assert first.request["seed"] == again.request["seed"] != other.request["seed"]
    assert 0 <= first.request["seed"] < 2**32
    assert plan(prompt="a cat", seed=5).request["seed"] == 5
    random.seed(0)
    assert plan(prompt="a cat").request["seed"] == first.request["seed"]


def test_a_derived_seed_is_the_same_image_as_that_seed_given(plan):
    derived = plan(prompt="a cat", count=2)
    given = plan(prompt="a cat", count=2, seed=derived.request["seed"][0])
    assert derived.request == given.request


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "red"},
        {"steps": 3},
        {"cfg_scale": 1.5},
        {"sampler": "euler"},
        {"guidance": {"name": "rescale", "phi": 0.5}},
        {"sigmas": [10.0, 1.0, 0.0], "steps": 2},
        {"seed": 8},
        {"count": 2},
        {"count": 2, "batch_size": 2},
        {"width": 32},
        {"rng": "torch"},
        {"latents": "noise.npy"},
        {"latents": np.ones((1, 4, 8, 8)).tolist()},
        {"prompt_weights": "a1111"},
    ],
    ids=str,
)
def test_every_parameter_is_part_of_the_digest(plan, changed):
    plain = {"prompt": "a cat", "steps": 2, "seed": 7}
    digests = {plan(**plain).digest, plan(**plain | changed).digest}
    digests.add(plan(**plain, count=2).digest if changed.get("batch_size") else "")
    assert len(digests) == 3


def test_the_content_of_an_image_decides_and_not_its_path(plan, tmp_path):
    values = {"prompt": "a cat", "strength": 1.0, "seed": 1}
    first = plan("img2img", image="given.png", **values)
    (tmp_path / "folder").mkdir()
    (tmp_path / "given.png").rename(tmp_path / "folder/other.png")
    assert plan("img2img", image="folder/other.png", **values).digest == first.digest
    Image.new("RGB", (16, 16), "red").save(tmp_path / "given.png")
    assert plan("img2img", image="given.png", **values).digest != first.digest


def test_model_backend_dtype_and_version_are_part_of_the_key(plan):
    request = plan(prompt="a cat").request
    identity = identify_model(ldmref.random_model("tiny", backend="numpy"))
    others = [
        identify_model(ldmref.random_model("tiny", seed=1, backend="numpy")),
        identify_model(ldmref.random_model("tiny", backend="numpy", dtype="float64")),
        replace(identity, ldmref="0.0.1"),
        replace(identity, model={**identity.model, "loras": [{"name": "x"}]}),
    ]
    keys = {make_key(request, one) for one in (identity, *others)}
    assert len(keys) == 5
    assert make_key(request, identify_model(ldmref.random_model("tiny", backend="numpy"))) in keys


def test_canonical_json_sorts_names_and_refuses_nan():
    assert to_canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    with pytest.raises(ValueError):
        to_canonical_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("mode", "values", "code"),
    [
        ("txt2im", {"prompt": "a"}, "E-MODE"),
        (3, {"prompt": "a"}, "E-MODE"),
        ("invert", {"prompt": "a", "image": "given.png"}, "E-MODE"),
        ("txt2img", {}, "E-USAGE"),
        ("txt2img", {"prompt": "a", "stps": 3}, "E-USAGE"),
        ("txt2img", {"prompt": "a", "seed": [1, -1], "count": 2}, "E-SEED"),
        ("txt2img", {"prompt": "a", "seed": True}, "E-SEED"),
        ("img2img", {"prompt": "a", "image": "no.png"}, "E-IMAGE-MISSING"),
        ("img2img", {"prompt": "a", "image": "http://localhost/a.png"}, "E-IMAGE-MISSING"),
        ("img2img", {"prompt": "a", "image": "noise.npy"}, "E-IMAGE"),
        ("img2img", {"prompt": "a", "image": 3}, "E-IMAGE"),
        ("txt2img", {"prompt": "a", "latents": "no.npy"}, "E-LATENTS"),
        ("txt2img", {"prompt": "a", "latents": [[1], [2, 3]]}, "E-LATENTS"),
        ("txt2img", {"prompt": "a", "latents": [1.0]}, "E-LATENTS"),
        ("txt2img", {"prompt": "a", "control": "x"}, "E-CONTROL"),
        ("txt2img", {"prompt": "a", "control": [{"net": "x"}]}, "E-CONTROL"),
        ("txt2img", {"prompt": "a", "control": [{"net": 3, "image": "given.png"}]}, "E-CONTROL"),
        (
            "txt2img",
            {"prompt": "a", "control": [{"net": "x", "image": "given.png", "wight": 1}]},
            "E-CONTROL",
        ),
    ],
    ids=str,
)
def test_a_wrong_row_is_one_failure(tiny, tmp_path, mode, values, code):
    rows = [BatchRow(4, "x", mode, values), BatchRow(5, None, "txt2img", {"prompt": "a cat"})]
    failure, fine = plan_rows(rows, tiny.config, tmp_path)
    assert isinstance(failure, RowFailure) and not isinstance(fine, RowFailure)
    assert (failure.line, failure.custom_id, failure.code) == (4, "x", code)
    assert "\n" not in failure.message
    if "://" in str(values):
        assert "URLs are not opened" in failure.hint


def test_all_shards_together_hold_each_number_once():
    for count in (1, 2, 7):
        shards = [BatchShard(i + 1, count) for i in range(count)]
        for number in (*range(20), 2**255 + 12345):
            assert sum(shard.holds(number) for shard in shards) == 1


def test_errors_of_planning_are_ours(tiny, tmp_path):
    with pytest.raises(UsageError) as caught:
        plan_row(BatchRow(1, None, "txt2img", {"prompt": 3}), tiny.config, tmp_path)
    assert isinstance(caught.value, LdmrefError)
