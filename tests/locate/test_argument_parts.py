"""SDXL's makers join the pooled text and the embedding of the sizes: one argument for two."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import run_port

from ldmref.cases import golden_model
from ldmref.locate import diff_traces
from ldmref.locate.recorded.argument_parts import divide_arguments
from ldmref.math import timestep_embedding
from ldmref.ports.sizes_of_images import find_embedded
from ldmref.trace import build_trace

CALL = "unet.000"
TEXT, SIZES = f"{CALL}//input.text_embeds", f"{CALL}//input.time_ids"
VECTOR = f"{CALL}//input.y"
FIRST = "add_embedding.linear_1"  # reads the vector


def record(change=None, sizes=(16.0, 8.0, 0.0, 0.0, 16.0, 8.0)):
    """Return a model, what a port of the makers' U-Net records, and the sizes of its images.

    Args:
        change: What becomes of the embedding of sizes.
        sizes: Those of an image.
    """
    model = golden_model("sdxl")
    sizes = np.array([sizes, sizes])
    wrong = {"add_time_proj": lambda call, x: change(call.compute(x))} if change else {}
    arrays = run_port(model, wrong, "unet", given={"sizes": sizes})
    for name in (TEXT, SIZES, *[name for name in arrays if "add_time_proj" in name]):
        del arrays[name]
    return model, arrays | {VECTOR: arrays[f"{CALL}/{FIRST}/input"]}, sizes


def test_the_vector_of_the_makers_has_text_and_sizes():
    model, arrays, sizes = record()
    trace = divide_arguments(build_trace(arrays), model.config)
    inputs = trace.read_inputs(trace.find(CALL))
    np.testing.assert_array_equal(inputs["time_ids"], sizes)
    assert "y" not in inputs and inputs["text_embeds"].shape == (2, 8)
    assert diff_traces(build_trace(arrays), model).verdict == "equal"


def test_a_vector_of_no_sizes_is_not_judged():
    model, arrays, _ = record(lambda x: 1.5 * x)
    report = diff_traces(build_trace(arrays), model)
    notes = [row.note for row in report.rows if row.verdict == "not judged"]
    assert report.verdict == "incomplete"
    assert notes == ["time_ids was not recorded, and nothing else says it"]


def test_the_sizes_of_another_image_are_a_fault():
    model, arrays, _ = record(sizes=[32.0, 8.0, 0.0, 0.0, 16.0, 8.0])
    (row,) = diff_traces(build_trace(arrays), model).faults
    assert (row.name, row.kind) == (CALL, "micro-conditioning")


def test_sines_before_cosines_are_a_fault_of_the_embedding():
    model, arrays, sizes = record(lambda x: np.roll(x, x.shape[1] // 2, axis=1))
    trace = divide_arguments(build_trace(arrays), model.config)
    np.testing.assert_array_equal(trace.read_inputs(trace.find(CALL))["time_ids"], sizes)
    (row,) = diff_traces(build_trace(arrays), model).faults
    assert (row.layer, row.cause) == (
        "add_embedding",
        "[sin, cos] instead of [cos, sin] in add_time_proj",
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [8, 64, 256])
def test_sizes_are_found_in_their_embedding(dtype, width):
    sizes = np.array([0.0, 1.0, 7.0, 512.0, 1023.0, 4096.0])
    embedded = np.asarray(timestep_embedding(sizes, width)).astype(dtype).astype(float)
    np.testing.assert_array_equal(find_embedded(*np.split(embedded, 2, axis=1)), sizes)
