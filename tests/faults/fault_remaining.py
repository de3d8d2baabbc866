"""Tests of the fault table whose answer is still wrong, and why. They must fail: a line whose test
passes is to be deleted."""

from __future__ import annotations

REMAINING: dict[str, str] = {
    "test_answer[58-Python-complex]": "the imaginary part is dropped",
    "test_answer[75-Python-1 pixel]": "no warning that a whole cell is repainted",
    "test_answer[75-command line-1 pixel]": "no warning that a whole cell is repainted",
    "test_answer[78-command line-NUL]": "an internal error",
}
