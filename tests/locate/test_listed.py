"""Networks that take a list of images and a list of captions are judged as those of a batch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.families.lookup import networks_of_run
from ldmref.locate import diff_traces
from ldmref.locate.recorded.listed import with_arrays_of_lists
from ldmref.trace import build_trace

CALL = "transformer.000"
LENGTHS = (5, 3)  # of the captions
LAYER = "layers.0.attention.to_q"


@cache
def recorded():
    """Return what a port of arrays records, whose second caption is the shorter one."""
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    return run_port(make_model("z-image-tiny"), network="transformer", given={"mask": mask})


def listed(results: str = "output.0.{}", **names: str) -> dict[str, np.ndarray]:
    """Return what a port records that takes lists, as the makers' own network does.

    Args:
        results: The names of its results.
        **names: Other names of its arguments.
    """
    arrays = dict(recorded())
    images = arrays.pop(f"{CALL}//input.sample")
    texts = arrays.pop(f"{CALL}//input.encoder_hidden_states")
    arrays.pop(f"{CALL}//input.encoder_attention_mask")
    found = arrays.pop(f"{CALL}//output")
    known = {"images": "x", "texts": "cap_feats"} | names
    for i, (image, text, n, result) in enumerate(zip(images, texts, LENGTHS, found, strict=True)):
        arrays[f"{CALL}//input.{known['images']}.{i}"] = image[:, None]
        arrays[f"{CALL}//input.{known['texts']}.{i}"] = text[:n]
        arrays[f"{CALL}//{results.format(i)}"] = result[:, None]
    return arrays


def judge(arrays):
    return diff_traces(build_trace(arrays), make_model("z-image-tiny"))


@pytest.mark.parametrize("results", ["output.0.{}", "output.{}"])
@pytest.mark.parametrize("names", [{}, {"images": "sample", "texts": "encoder_hidden_states"}])
def test_lists_are_the_arrays_of_a_batch(names, results):
    report = judge(listed(results, **names))
    assert (report.verdict, [row.name for row in report.faults]) == ("equal", [])


def test_a_wrong_layer_has_the_rows_of_a_batch():
    name = f"{CALL}/{LAYER}/output"
    rows = []
    for arrays in (listed(), dict(recorded())):
        arrays[name] = 1.5 * arrays[name]
        rows.append([(row.name, row.kind, row.cause) for row in judge(arrays).faults])
    assert rows[0] == rows[1] != []


def test_a_wrong_image_is_found():
    arrays = listed()
    arrays[f"{CALL}//output.0.1"] = 2.0 * arrays[f"{CALL}//output.0.1"]
    assert [row.name for row in judge(arrays).faults] == [CALL]


def test_what_is_no_batch_remains_a_list():
    networks = networks_of_run(make_model("z-image-tiny").config)
    arrays = listed()
    arrays[f"{CALL}//input.x.1"] = arrays[f"{CALL}//input.x.1"][..., :2]  # another size
    arrays[f"{CALL}//input.cap_feats.1"] = arrays[f"{CALL}//input.cap_feats.1"][:, :7]
    port = build_trace(arrays)
    assert with_arrays_of_lists(port, networks) is port
    batch = build_trace(recorded())
    assert with_arrays_of_lists(batch, networks) is batch
