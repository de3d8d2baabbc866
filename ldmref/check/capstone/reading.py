"""The question of `read_weights`: is what it reads in the file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.check.capstone.networks import weights_of
from ldmref.check.capstone.questions import WEIGHTS, Question, Student, outcome
from ldmref.check.comparison import as_numpy
from ldmref.check.results import CheckResult
from ldmref.models.params import flatten

SAMPLE = ("conv_in.weight", "mid_block.resnets.0.conv1.weight", "conv_out.bias")
LAW = "values and names of the file"
HINT = (
    "hint: the header's length is the first 8 bytes, little-endian; offsets count from the end of "
    'the header; "F16" are numbers of two bytes; __metadata__ is no tensor'
)


def readings(student: Student) -> Iterator[CheckResult]:
    """Yield the mark of a reader: weights by name, also below a name."""
    question = Question("read_weights", LAW, {"path": WEIGHTS}, {}, ())
    right = flatten(weights_of("unet"))
    call = (f"read_weights(path='{WEIGHTS.name}')",)
    try:
        p = student.weights
        for name in SAMPLE:
            folder, _, last = name.rpartition(".")
            for got in (p[f"unet.{name}"], p.at(f"unet.{folder}")[last]):
                values = as_numpy(got)
                if values.shape != right[name].shape or not np.array_equal(values, right[name]):
                    detail = f"unet.{name}: the values are not those of the file"
                    yield outcome(question, np.inf, "FAILED", detail, call, (HINT,))
                    return
            if values.dtype != np.float32:
                detail = f"unet.{name} is {values.dtype}: convert weights to float32"
                yield outcome(question, np.inf, "FAILED", detail, call)
                return
    except Exception as error:  # a student's function may fail in any way
        verdict = f"ERROR: {type(error).__name__}: {error}"
        yield outcome(question, np.inf, verdict, f"raised{student.where(error)}", call, (HINT,))
        return
    yield outcome(question, 0.0, "ok")
