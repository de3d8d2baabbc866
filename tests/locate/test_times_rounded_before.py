"""Times that a port rounds before it converts them: 1000 - t of a t in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.locate import diff_traces
from ldmref.trace import build_trace

TIME = 990.3  # 9.7 less than 1000
HIDDEN = (".positions", ".seen", ".score_bias")  # inputs of layers that no port has
ROUNDED = {"bfloat16": 992.0, "float16": 990.5, "bfloat16 in 0..1": 992.1875}


@pytest.mark.parametrize("form", ROUNDED)
def test_the_format_of_a_rounded_time_is_named(form):
    model = make_model("z-image-tiny")
    given = {"t": np.full(2, ROUNDED[form]), "mask": np.ones((2, 5), np.int64)}
    tensors = run_port(model, None, "transformer", given=given)
    tensors = {name: x for name, x in tensors.items() if not name.endswith(HIDDEN)}
    tensors["transformer.000//input.timestep"] = np.full(2, TIME)
    faults = diff_traces(build_trace(tensors), model).faults
    words = f"the timestep is rounded to {form} before it is converted"
    assert [(row.layer, row.cause) for row in faults] == [("t_embedder", words)]
