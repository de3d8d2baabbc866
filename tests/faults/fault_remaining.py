"""Tests of the fault table whose answer is still wrong, and why. They must fail: a line whose test
passes is to be deleted."""

from __future__ import annotations

REMAINING: dict[str, str] = {}
